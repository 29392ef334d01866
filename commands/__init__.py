"""The verbs of `python main.py`. Each is a module here with `Arguments` (a dataclass: its flags) and `run(arguments)`.

The command line and the menu call the same `run`. A verb whose flags have layers below them (a preset, a YAML file)
also has `layers(argv)`: the `Arguments` that those layers give, over which the flags are laid.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

CONFIGS = Path(__file__).parent.parent / "configs"


class Verb(NamedTuple):
    """One command: where its handler lives, and its line in `--help`."""

    module: str
    help: str


VERBS = {
    "train-sft": Verb("train_sft", "Supervised fine-tuning: a base model learns to answer by imitating answers."),
    "train-reward": Verb("train_reward", "Reward model: learns to score answers from people's comparisons."),
    "train-dpo": Verb("train_dpo", "Direct preference optimisation (DPO) and its family, from comparisons."),
    "train-ppo": Verb("train_ppo", "RLHF: the policy answers, a reward model scores, and PPO learns from it."),
    "train-grpo": Verb("train_grpo", "GRPO and relatives: several answers compete, by verifiable rewards or others."),
    "train-config": Verb("train_config", "Train as a YAML file says; flags win over the file."),
    "inspect": Verb("inspect_data", "Look at the data token by token, as the trainer gets it."),
    "chat": Verb("chat", "Talk with a model."),
    "evaluate": Verb("evaluate", "Measure a model: perplexity, answers, accuracy, rewards, win rates, benchmarks."),
    "frontier": Verb("frontier", "Reward against divergence: best-of-n, and PPO at several prices of a nat."),
    "reward-hacking": Verb("reward_hacking", "A reward with a planted flaw, what PPO makes of it, and three cures."),
    "report": Verb("report", "One self-contained page about a run, or several runs side by side."),
    "convert": Verb("convert", "Merge an adapter; export to safetensors, GGUF or Ollama, checked by loading it back."),
    "download": Verb("download", "Fetch a model or a data set from the hub once; list what is there."),
    "push": Verb("push", "Put a trained model onto the hub, with its card."),
    "doctor": Verb("doctor", "Look at this machine and say what will work on it."),
    "completion": Verb("completion", "Print a script with which the shell completes commands and flags."),
    "demo": Verb("demo", "The whole pipeline on the bundled tiny model: no network, no GPU."),
}


def parse(verb: str, argv: Sequence[str]) -> Any:
    """The `Arguments` of a verb. Its handler is imported here, and nothing heavy before its `run` is called."""
    from auto_bot_tuner.utils.arguments import parse_arguments
    from auto_bot_tuner.utils.errors import check_words

    check_words(argv)
    handler = importlib.import_module(f"commands.{VERBS[verb].module}")
    layers = handler.layers(argv) if hasattr(handler, "layers") else None
    return parse_arguments(handler.Arguments, argv, f"python main.py {verb}", layers)


def arguments_class(verb: str) -> Any:
    """What the flags of a verb are made of."""
    return importlib.import_module(f"commands.{VERBS[verb].module}").Arguments


def run(verb: str, argv: Sequence[str]) -> None:
    """Parse `argv` and do the verb's work: all that main.py and the menu need."""
    from auto_bot_tuner.utils.terminal import outliving_its_reader

    arguments = parse(verb, argv)
    trains = verb.startswith("train-") or verb in ("demo", "reward-hacking", "frontier")
    with outliving_its_reader() if trains else contextlib.nullcontext():
        importlib.import_module(f"commands.{VERBS[verb].module}").run(arguments)
