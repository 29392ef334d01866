"""Small PPO and GRPO runs for tests: 28 letters, a two-layer model, responses of a dozen tokens, a reward to be raised.

The tokenizer reads letter by letter, so a reward that looks at text looks at tokens. A random model over 28 tokens ends
about a third of its responses by itself: the others are cut, as in life.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from auto_bot_tuner.grpo import GRPOConfig, GRPOTrainer
from auto_bot_tuner.rlhf import PPOConfig, PPOTrainer, RewardModel, create_value_network_from_policy
from auto_bot_tuner.rollouts import PromptDataset
from auto_bot_tuner.rollouts.rollout import Rollout
from auto_bot_tuner.utils.score_head import with_score_head
from tests.training_runs import SIZES

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = {"<end>": 0} | {letter: i for i, letter in enumerate(LETTERS, 1)} | {"?": 27}
# A prompt is its letters and a question mark; an answer ends with the end token.
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] + '<end>' }}"
    "{% else %}{{ m['content'] + '?' }}{% endif %}{% endfor %}"
)
SHORT_RUN = {
    "learning_rate": 1e-2,
    "lr_schedule": "constant",
    "warmup": 0.0,
    "batch_size": 4,
    "num_epochs": 1,
    "logging_steps": 1,
    "max_new_tokens": 12,
    "missing_eos_penalty": 0.0,
    "report_to": (),
    "num_samples": 0,
    "save_steps": 0,
}
# Figures that a clock made, besides tokens_per_second.
OF_THE_CLOCK = ("tokens_per_second", "writing_tokens_per_second", "scoring_tokens_per_second")


@cache
def saved_tokenizer() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(WORDS, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens(["<end>"])
    return str(backend.to_str())


def letter_tokenizer() -> Any:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(saved_tokenizer()), eos_token="<end>", pad_token="<end>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def letter_prompts(count: int = 16, seed: int = 5) -> PromptDataset:
    """Prompts of 2 to 9 letters."""
    generator = torch.Generator().manual_seed(seed)

    def word() -> str:
        length = int(torch.randint(2, 10, (1,), generator=generator))
        return "".join(LETTERS[i] for i in torch.randint(26, (length,), generator=generator).tolist())

    return PromptDataset([{"prompt": word()} for _ in range(count)], letter_tokenizer())


def letter_model(lora: bool = False, seed: int = 0, **settings: Any) -> Any:
    """With `lora` a new adapter on it, which does nothing yet."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(**{**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 64, **settings})
    )
    if not lora:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))


def letter_reward_model(seed: int = 3) -> RewardModel:
    torch.manual_seed(seed)
    return RewardModel(with_score_head(letter_model(seed=seed))).requires_grad_(False).eval()


def early_letters(prompt: str, response: str) -> float:
    """The share of a response's letters from the first half of the alphabet: by chance one half."""
    return sum(letter <= "m" for letter in response) / max(len(response), 1)


def ppo_trainer(
    folder: Path, *, policy: Any = None, lora: bool = False, imitated: Any = None, **given: Any
) -> PPOTrainer:
    """A trainer over 16 prompts. `given`: other arguments of PPOTrainer by name; the rest goes into PPOConfig.

    `imitated`: rows to imitate beside PPO.
    """
    policy = policy if policy is not None else letter_model(lora)
    defaults = {
        "value_network": create_value_network_from_policy(policy),
        "reward_model": early_letters,
        "reference_model": None,
        "prompt_dataset": letter_prompts(),
        "eval_dataset": None,
    }
    arguments = {name: given.pop(name, default) for name, default in defaults.items()}
    if imitated is not None:
        given = {"sft_weight": 0.5, **given}
    config = PPOConfig(**{"output_dir": str(folder), **SHORT_RUN, "minibatches": 2, "epochs_per_rollout": 2, **given})
    return PPOTrainer(policy, tokenizer=letter_tokenizer(), config=config, sft_dataset=imitated, **arguments)


def grpo_trainer(folder: Path, *, policy: Any = None, lora: bool = False, **given: Any) -> GRPOTrainer:
    """A trainer over 16 prompts, four responses to each. `given`: as `ppo_trainer`'s."""
    policy = policy if policy is not None else letter_model(lora)
    defaults = {
        "reward": early_letters,
        "reference_model": None,
        "prompt_dataset": letter_prompts(),
        "eval_dataset": None,
    }
    arguments = {name: given.pop(name, default) for name, default in defaults.items()}
    config = GRPOConfig(**{"output_dir": str(folder), **SHORT_RUN, "group_size": 4, **given})
    return GRPOTrainer(policy, tokenizer=letter_tokenizer(), config=config, **arguments)


def imitation_rows(count: int = 9, seed: int = 8) -> list[dict[str, torch.Tensor]]:
    """SFT rows as `InstructionDataset` has them, of 6 to 15 tokens whose second half is trained."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(6, 16, (1,), generator=generator))
        input_ids = torch.randint(1, 27, (length,), generator=generator)
        labels = input_ids.clone()
        labels[: length // 2] = -100
        rows.append({"input_ids": input_ids, "labels": labels})
    return rows


def snapshot(module: Any) -> dict[str, torch.Tensor]:
    """All weights and buffers, as they are now."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, torch.Tensor], module: Any) -> set[str]:
    """The names of the weights that are not what they were."""
    return {name for name, tensor in module.state_dict().items() if not torch.equal(tensor, before[name])}


def first_rollout(trainer: Any) -> Rollout:
    trainer.rollout = trainer.make_rollout(0)
    return trainer.rollout


def run_logged(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the figures that a clock made."""
    import json

    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in OF_THE_CLOCK} for line in lines]
