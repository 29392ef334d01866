"""Small reward models and rows for tests: 257 byte tokens, two layers, groups of random responses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from auto_bot_tuner.data.response_groups import Group
from auto_bot_tuner.rlhf import RewardModel, RewardModelConfig, RewardModelTrainer
from auto_bot_tuner.utils.score_head import with_score_head
from tests.models import tiny_model
from tests.training_runs import STOP, VOCABULARY, small_model

EOS = 256  # of the byte tokenizer, and its pad token


def byte_tokenizer() -> Any:
    """A byte-level tokenizer without merges: loaded in a moment, reads any text. pad = eos, as after the fallback."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = AddedToken("<|endoftext|>", special=True, normalized=False)
    backend.add_special_tokens([end])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end, model_max_length=128)


def save_byte_model(folder: Path, family: str) -> Path:
    tiny_model(family, vocab_size=EOS + 1, bos_token_id=EOS, eos_token_id=EOS).save_pretrained(str(folder))
    byte_tokenizer().save_pretrained(str(folder))
    return folder


class Groups:
    """Groups of responses as `RewardModelDataset` has them, from token ids."""

    def __init__(self, groups: list[tuple[list[int], list[list[int]], list[float]]]) -> None:
        """Of each group: the prompt's tokens, those of each response, and their scores."""
        self.groups = []
        for prompt, responses, scores in groups:
            input_ids = [torch.tensor([*prompt, *response]) for response in responses]
            labels = [ids.clone() for ids in input_ids]
            for side in labels:
                side[: len(prompt)] = -100
            self.groups.append(Group(input_ids, labels, len(prompt), scores))
        self.lengths = [len(prompt) + sum(map(len, responses)) for prompt, responses, _ in groups]

    def __len__(self) -> int:
        return len(self.groups)

    def group(self, row: int) -> Group:
        return self.groups[row]


def random_groups(count: int = 37, responses: int = 2, seed: int = 1, words: int = VOCABULARY) -> Groups:
    """Prompts of 3 to 12 random tokens, responses of 3 to 14 that end with the stop token, best first.

    The score of a response is the share of its tokens from the upper half of `words`: something to be learnt, in a
    moment where the words are few.
    """
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    groups = []
    for _ in range(count):
        prompt = torch.randint(1, words, (number(3, 13),), generator=generator).tolist()
        answers = []
        for _ in range(responses):
            body = torch.randint(1, words, (number(2, 14),), generator=generator).tolist()
            answers.append((sum(token >= words // 2 for token in body) / len(body), [*body, STOP]))
        answers.sort(reverse=True)
        groups.append((prompt, [body for _, body in answers], [score for score, _ in answers]))
    return Groups(groups)


def small_reward_model(lora: bool = False, seed: int = 0) -> RewardModel:
    model: Any = with_score_head(small_model())
    torch.manual_seed(seed)
    if lora:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["q_proj", "v_proj"]))
    return RewardModel(model)


def small_reward_trainer(
    folder: Path, *, lora: bool = False, train: Groups | None = None, model: RewardModel | None = None, **settings: Any
) -> RewardModelTrainer:
    """A trainer over random groups, evaluating on nine others; `settings` go into RewardModelConfig."""
    defaults = {
        "output_dir": str(folder),
        "learning_rate": 1e-2,
        "batch_size": 8,
        "gradient_accumulation_steps": 1,
        "logging_steps": 1,
        "report_to": (),
        "num_samples": 0,
    }
    return RewardModelTrainer(
        model or small_reward_model(lora),
        byte_tokenizer(),
        random_groups() if train is None else train,
        random_groups(9, seed=2) if train is None else train,
        RewardModelConfig(**{**defaults, **settings}),
    )
