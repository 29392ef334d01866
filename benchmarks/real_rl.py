"""PPO and GRPO on prompts that people wrote, with small models and preferences that people made.

    AUTO_BOT_TUNER_SHARED=folder python -m benchmarks.real_rl        everything; results/real-rl.md
    AUTO_BOT_TUNER_SHARED=folder python -m benchmarks.real_rl grpo   a part of it, on the terminal alone

In the folder lie data/hh-rlhf, data/gsm8k and data/models. It asks whether the machinery holds where nothing was made
to fit it, not whether models of a million weights become good at anything (they do not):

1. PPO against a reward model of people's choices: is every number finite, the first ratio 1, the divergence no less
   than 0 within noise, `final/` the trained policy; does the reward rise on held-out prompts?
2. GRPO on school arithmetic that the model cannot do: is every update skipped, counted and explained? And where a
   reward can be reached, is it?
3. PPO killed in the middle of a rollout: are the weights of the resumed run the bits of the uninterrupted one?
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from auto_bot_tuner.data.preferences import read_preference
from auto_bot_tuner.grpo import GRPOConfig, GRPOTrainer
from auto_bot_tuner.rewards import ModelReward, rewards_from_names
from auto_bot_tuner.rlhf import (
    PPOConfig,
    PPOTrainer,
    RewardModelConfig,
    RewardModelDataset,
    RewardModelTrainer,
    create_reward_model_from_pretrained,
    create_value_network_from_policy,
    load_reward_model,
    share_backbone,
)
from auto_bot_tuner.rollouts import PromptDataset
from auto_bot_tuner.rollouts.health import Health
from auto_bot_tuner.sft import InstructionDataset, SFTConfig, SFTTrainer
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from benchmarks.real_dpo import QUIET, largest, logprobs, opened_plainly
from benchmarks.real_preferences import HH, SEED, data_folder, machine, read_rows
from benchmarks.real_rewards import silence, splits

RESULTS = Path(__file__).parent / "results" / "real-rl.md"
MAIN = Path(__file__).parent.parent / "main.py"
GSM8K = "gsm8k/train-2000.jsonl"
BASIC, STORIES, LETTERS = "gpt2-basic-chat-690k", "stories260k", "babyllama-char-970k"
EVALUATED = 64  # held-out prompts
# As in the lessons, but for rates: models this small bear, and need, larger ones.
PPO: dict[str, Any] = {"batch_size": 16, "minibatches": 2, "epochs_per_rollout": 2, "max_new_tokens": 32}
GRPO: dict[str, Any] = {"batch_size": 8, "group_size": 4, "max_new_tokens": 24, "learning_rate": 1e-3}


@dataclass(frozen=True)
class Run:
    """One run of PPO or GRPO. `start` and `judge` are folders: of the policy, and of the reward model (PPO)."""

    title: str
    start: Path
    judge: Path | None = None
    rewards: tuple[str, ...] = ()  # by name (GRPO)
    use_lora: bool = False
    max_prompt: int = 96  # tokens; longer prompts are left out
    settings: dict[str, Any] = field(default_factory=dict)


class Outcome(NamedTuple):
    """What a run left behind: its logs, what it was told, and how `final/` compares by single log-probabilities."""

    run: Run
    reference: str
    logs: list[dict[str, float]]
    evaluations: list[dict[str, float]]
    verdicts: list[str]  # names, each once
    told: str  # the first verdict, in words
    prompts: int  # of one rollout
    asked: int  # held-out prompts
    final_difference: float  # largest |final/ in transformers or peft - the trained policy|
    final_apart: float  # the same between final/ and the starting policy
    freed: int  # bytes, by sharing one backbone

    @property
    def is_finite(self) -> bool:
        return all(math.isfinite(value) for line in [*self.logs, *self.evaluations] for value in line.values())

    @property
    def skipped(self) -> int:
        return int(self.logs[-1]["skipped_steps"])

    @property
    def first_ratio_gap(self) -> float:
        """Mean |ratio - 1| over the tokens of the first step that was taken; nan where none was."""
        return next((line["ratio_gap"] for line in self.logs if "ratio_gap" in line), math.nan)

    @property
    def lowest_kl(self) -> float:
        """The lowest divergence of a rollout in standard errors of its mean over responses; below -3 is no chance."""
        found = [(line["kl"], line["kl_std"] / self.prompts**0.5) for line in self.logs if "kl" in line]
        return min((kl / error for kl, error in found if error > 1e-4), default=math.nan)  # less is rounding


# ---- where runs start ------------------------------------------------------------------------------------------------


def model_folder(name: str) -> Path:
    return data_folder() / "models" / name


def sft(model: str, folder: Path, rows: Sequence[Any], max_length: int = 96, **settings: Any) -> Path:
    """A short SFT on chosen answers that are short enough to end within `max_length`; its final/."""
    policy, tokenizer, _ = load_model_and_tokenizer(str(model_folder(model)), "cpu")
    chats = [{"messages": [*p.prompt, *p.responses[0]]} for p in (read_preference(r, "a row")[1] for r in rows)]
    short = [c for c in chats if len(c["messages"]) == 2 and 0 < len(c["messages"][1]["content"]) < 120]
    data = InstructionDataset(short, tokenizer, max_length=max_length, format_type="chat")
    recipe: dict[str, Any] = {"learning_rate": 2e-3, "num_epochs": 3, "batch_size": 16}
    config = SFTConfig(output_dir=str(folder), gradient_accumulation_steps=1, **QUIET, **(recipe | settings))
    with silence():
        SFTTrainer(policy, tokenizer, data, None, config).train()
    return folder / "final"


def judge(start: Path, folder: Path, rows: Sequence[Any], use_lora: bool, **settings: Any) -> Path:
    """A reward model of the rows' preferences, an adapter or a head on a model that stands still; its final/."""
    tokenizer = load_model_and_tokenizer(str(start), "cpu", frozen=True)[1]
    model = create_reward_model_from_pretrained(
        str(start), tokenizer, "cpu", use_lora=use_lora, frozen_base=not use_lora
    )
    recipe: dict[str, Any] = {"learning_rate": 1e-3 if use_lora else 3e-2, "max_steps": 30, "batch_size": 16}
    config = RewardModelConfig(
        output_dir=str(folder),
        gradient_accumulation_steps=1,
        frozen_base=not use_lora,
        **QUIET,
        **(recipe | settings),
    )
    with silence():
        RewardModelTrainer(model, tokenizer, RewardModelDataset(rows, tokenizer, 128), None, config).train()
    return folder / "final"


# ---- one run ---------------------------------------------------------------------------------------------------------


def carry_out(run: Run, train: Sequence[Any], held_out: Sequence[Any], folder: Path) -> tuple[Outcome, Any]:
    """The run, and its trainer after it."""
    torch.manual_seed(SEED)
    policy, tokenizer, _ = load_model_and_tokenizer(str(run.start), "cpu", use_lora=run.use_lora)
    prompts = PromptDataset(train, tokenizer, run.max_prompt)
    asked = PromptDataset(held_out, tokenizer, run.max_prompt) if held_out else None
    freed = 0
    if run.judge is not None:
        reward_model, its_tokenizer, _ = load_reward_model(str(run.judge), "cpu")
        values = create_value_network_from_policy(policy)
        freed = share_backbone(policy, values, reward_model) if run.use_lora else 0
        reward: Any = ModelReward(reward_model, its_tokenizer)
        settings = PPOConfig(output_dir=str(folder), **QUIET, **(PPO | run.settings))
        trainer: Any = PPOTrainer(policy, values, reward, None, tokenizer, prompts, asked, settings)
    else:
        reward = rewards_from_names(run.rewards)
        config = GRPOConfig(output_dir=str(folder), **QUIET, **(GRPO | run.settings))
        trainer = GRPOTrainer(policy, reward, tokenizer, prompts, None, asked, config)
    probes = [prompts[i]["input_ids"] for i in range(min(8, len(prompts)))]
    started = logprobs(policy, probes)
    with silence():
        trainer.train()
        trained = logprobs(policy, probes)
        plain = [logprobs(model, probes) for model in opened_plainly(folder / "final")]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logs = [line for line in lines if "response_length" in line or "loss" in line]
    health = Health(trainer.config, trainer.config.METHOD)
    said = [verdict for line in logs for verdict in health.note(line)]
    outcome = Outcome(
        run,
        trainer.reference_kind,
        logs,
        [line for line in lines if "eval_reward" in line],
        list(dict.fromkeys(verdict.name for verdict in said)),
        said[0].text if said else "",
        trainer.prompts_per_rollout,
        len(asked) if asked is not None else 0,
        max(largest(trained, found) for found in plain),
        min(largest(started, found) for found in plain),
        freed,
    )
    return outcome, trainer


def read_by_ids(trainer: Any) -> float:
    """The share of the last evaluation's responses that the reward model reads as the ids that the policy wrote."""
    known = trainer.reward.parts[0][1].knows_ids(trainer.evaluated.attempts)
    return sum(known) / len(known)


REMARKS = """SFT: three epochs on HH's short chosen answers. The reward model is a head on stories260k, whose weights
stay as they are, or (LoRA) an adapter on the policy's own start; 30 steps on HH's pairs. It was not measured here, and
more steps get 56 % of held-out pairs right (real-preferences.md): the reward is a proxy, and nothing shows that answers
became better. Read by ids: the share of responses that the reward model reads as the policy wrote them; the others are
encoded anew. KL in nats a response, k1 and k3; the first rollout, whose KL is rounding, is left out of the lowest.
Standard errors of a change are those of independent samples. What PPO finds first is the penalty of not ending: where
answers can end, soon all do. stories260k has never seen its end token, so it is told (no_end) and finds nothing else in
40 steps."""


# ---- sections --------------------------------------------------------------------------------------------------------


def ppo_section() -> str:
    split = splits(read_rows(HH), SEED)[0]
    held_out = split.held_out[: 3 * EVALUATED]
    outcomes, shares = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chat, letters = sft(BASIC, folder / "chat", split.train), sft(LETTERS, folder / "letters", split.train, 160)
        stories = model_folder(STORIES)
        outside = judge(stories, folder / "outside", split.train, use_lora=False)
        own = judge(chat, folder / "own", split.train, use_lora=True)
        steps = {"max_steps": 40, "num_epochs": 2}
        for number, run in enumerate(
            (
                Run("gpt2-basic-chat after SFT", chat, outside, settings=steps | {"learning_rate": 3e-4}),
                Run("the same, LoRA", chat, own, (), True, settings=steps | {"learning_rate": 3e-3}),
                Run("babyllama-char after SFT", letters, outside, (), False, 160, steps | {"learning_rate": 3e-4}),
                Run("stories260k as it is", stories, outside, settings=steps | {"learning_rate": 1e-4}),
            )
        ):
            outcome, trainer = carry_out(run, split.train, held_out, folder / f"ppo{number}")
            outcomes.append(outcome)
            shares.append(read_by_ids(trainer))
            print(f"PPO {run.title}: {outcome.evaluations[0]['eval_reward']:+.3f}", flush=True)
    return f"## PPO on HH's prompts\n\n{ppo_tables(outcomes, shares)}\n"


def ppo_tables(outcomes: Sequence[Outcome], shares: Sequence[float]) -> str:
    """What must hold of every run, and what became of the reward."""
    must = [
        ["run", "reference", "finite", "first ratio, less 1", "lowest KL, in standard errors", "least k3", "final/"]
    ]
    came = [["run", "held-out prompts", "read by ids", "reward on them", "change", "KL (k3)", "ended", "verdicts"]]
    for outcome, share in zip(outcomes, shares, strict=True):
        before, after = outcome.evaluations[0], outcome.evaluations[-1]
        least = min(line["kl_k3"] for line in outcome.logs if "kl_k3" in line)
        must.append(
            [
                outcome.run.title,
                outcome.reference + (f", {outcome.freed / 2**20:.1f} MiB shared" if outcome.freed else ""),
                "yes" if outcome.is_finite else "NO",
                f"{outcome.first_ratio_gap:.1e}",
                f"{outcome.lowest_kl:+.1f}",
                f"{least:.1e}",
                f"{outcome.final_difference:.0e} off ({outcome.final_apart:.2f} from the start)",
            ]
        )
        came.append(
            [
                outcome.run.title,
                str(outcome.asked),
                f"{share:.0%}",
                f"{before['eval_reward']:+.3f} → {after['eval_reward']:+.3f}",
                change(before, after, outcome.asked),
                f"{after['eval_kl']:.2f} ({after['eval_kl_k3']:.2f})",
                f"{before['eval_eos_rate']:.0%} → {after['eval_eos_rate']:.0%}",
                ", ".join(outcome.verdicts) or "none",
            ]
        )
    return f"{markdown(must)}\n\n{markdown(came)}\n\n{REMARKS}"


def change(before: dict[str, float], after: dict[str, float], prompts: int) -> str:
    """Of the mean reward, with its standard error as if the two were independent (they share prompts and noise)."""
    error = math.hypot(before["eval_reward_std"], after["eval_reward_std"]) / prompts**0.5
    return f"{after['eval_reward'] - before['eval_reward']:+.3f} ± {error:.3f}"


def grpo_section() -> str:
    rows = read_rows(GSM8K)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        chat = sft(BASIC, folder / "chat", splits(read_rows(HH), SEED)[0].train)
        runs = (
            Run("numeric", chat, None, ("numeric",), False, 160, {"max_steps": 8}),
            Run("exact_match, KL in the loss", chat, None, ("exact_match",), False, 160, {"max_steps": 8, "beta": 0.1}),
            Run("ended + 0.2 * length:12", chat, None, ("ended", "0.2*length:12"), False, 160, {"max_steps": 16}),
            Run(
                "a question mark, DAPO, LoRA",
                chat,
                None,
                (r"regex:\?",),
                True,
                160,
                {"max_steps": 16, "loss": "dapo", "learning_rate": 3e-3},
            ),
        )
        outcomes = [carry_out(run, rows, [], folder / f"grpo{i}")[0] for i, run in enumerate(runs)]
    lines = [
        ["reward", "steps", "skipped", "reward, first → last rollout", "first ratio, less 1", "moved by", "verdicts"]
    ]
    for outcome in outcomes:
        scores = [line["reward"] for line in outcome.logs if "reward" in line]
        lines.append(
            [
                outcome.run.title,
                str(int(outcome.logs[-1]["step"])),
                str(outcome.skipped),
                f"{scores[0]:.2f} → {scores[-1]:.2f}",
                "no step" if math.isnan(outcome.first_ratio_gap) else f"{outcome.first_ratio_gap:.1e}",
                f"{outcome.final_apart:.2g}",
                ", ".join(outcome.verdicts) or "none",
            ]
        )
    return f"## GRPO on GSM8K's questions\n\n{markdown(lines)}\n\nWhat the first run is told: “{outcomes[0].told}”\n"


def markdown(lines: Sequence[Sequence[str]]) -> str:
    rows = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


# ---- killed, and gone on ---------------------------------------------------------------------------------------------


def kill_section() -> str:
    """The command line as a user types it: once left alone, once killed with -9 in the middle of a rollout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train = splits(read_rows(HH), SEED)[0].train
        chat = sft(BASIC, folder / "chat", train)
        own = judge(chat, folder / "own", train, use_lora=True, max_steps=4)
        command = (
            f"train-ppo --model {chat} --reward-model {own} --dataset {data_folder() / HH} --max-length 96 "
            "--eval-max-samples 16 --batch-size 8 --minibatches 2 --epochs-per-rollout 2 --max-new-tokens 24 "
            "--max-steps 14 --logging-steps 1 --save-steps 3 --learning-rate 3e-3 --kl-target 2 --scale-rewards "
            "--num-samples 0 --report-to"
        ).split()
        whole, broken = folder / "whole", folder / "broken"
        started([*command, "--output-dir", str(whole)]).wait()
        kill_at(started([*command, "--output-dir", str(broken)]), broken / "metrics.jsonl", step=8)
        newest = max(broken.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1])).name
        started([*command, "--output-dir", str(broken), "--resume"]).wait()
        files = sorted(path.relative_to(whole) for path in (whole / "final").rglob("*.safetensors"))
        same = bool(files) and all((whole / file).read_bytes() == (broken / file).read_bytes() for file in files)
        logs = [without_clock(each / "metrics.jsonl") for each in (whole, broken)]
    names = ", ".join(path.name for path in files)
    return f"""## PPO, killed and resumed

LoRA, adaptive KL, scaled rewards, four steps on each rollout; kill -9 after step 8 of 14, resumed from {newest}.
The files of final/ ({names}) are {"the same" if same else "NOT THE SAME"} to the bit, and
{"so are" if logs[0] == logs[1] else "NOT SO"} all {len(logs[0])} lines of the log but for what a clock made.
"""


def started(words: Sequence[str]) -> subprocess.Popen[bytes]:
    quiet = subprocess.DEVNULL
    return subprocess.Popen([sys.executable, str(MAIN), *words], stdout=quiet, stderr=quiet)


def kill_at(process: subprocess.Popen[bytes], log: Path, step: int) -> None:
    """Ends the process without a word, once its log has that step."""
    while process.poll() is None:
        if log.is_file() and f'"step": {step},' in log.read_text(encoding="utf-8"):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return
        time.sleep(0.02)
    sys.exit(f"error: the run ended by itself before step {step}")


def without_clock(log: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [{name: value for name, value in line.items() if "per_second" not in name} for line in lines]


# ---- the command -----------------------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[], str]] = {"ppo": ppo_section, "grpo": grpo_section, "kill": kill_section}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; none: all, and the record is written")
    parts = parser.parse_args().parts
    if unknown := set(parts) - PARTS.keys():
        parser.error(f"unknown part {', '.join(sorted(unknown))}: choose from {', '.join(PARTS)}")
    torch.set_num_threads(1)
    data_folder()
    sections = []
    for part in parts or PARTS:
        sections.append(PARTS[part]())
        print(f"\n{sections[-1]}", flush=True)
    if not parts:
        title = f"# PPO and GRPO on real input\n\nMade by `python -m benchmarks.real_rl`. {machine()}.\n"
        RESULTS.write_text("\n".join([title, *sections]), encoding="utf-8")
        print(f"written to {RESULTS}")


if __name__ == "__main__":
    main()
