"""The entries beside training: chat, compare, evaluate, inspect, models and data, report, doctor."""

from __future__ import annotations

from typing import Any, NamedTuple

from auto_bot_tuner.utils.sizes import readable_size
from src.menu.ask import Questions
from src.menu.draft import Draft, key_of, member, members
from src.menu.home import tree
from src.menu.launch import Outcome, review, start, then
from src.menu.screen import Option, choose, say, table, verbatim, walk
from src.menu.stock import NAMES, Stock


class Tool(NamedTuple):
    """A command that the menu offers: its title, its words, and the settings that are asked."""

    title: str
    verb: str
    start: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    about: str = ""


CHAT = Tool("Chat", "chat", (), ("model",))
COMPARE = Tool("Compare", "evaluate", ("compare",), ("--model", "--against", "--dataset"))
REPORT = Tool("Report", "report", (), ("runs",))
DOCTOR = Tool("Doctor", "doctor")

# What is asked of a measurement; of others, what they need.
EVALUATE = {
    "perplexity": ("--model", "--dataset"),
    "generation": ("--model", "--dataset"),
    "accuracy": ("--model", "--dataset"),
    "compare": COMPARE.asks,
    "reward": ("--model", "--dataset"),
    "winrate": ("--model", "--against", "--dataset", "--judge"),
    "benchmark": ("--model", "--tasks"),
}
TITLES = {
    "perplexity": "Perplexity    how surprised is it by text or answers?",
    "generation": "Generations   what does it write, varied and finished?",
    "accuracy": "Accuracy      how many answers are right?",
    "compare": "Compare       several models, answers side by side",
    "reward": "Reward        the report card of a reward model",
    "winrate": "Win rate      which of two answers better?",
    "benchmark": "Benchmark     tasks of EleutherAI's harness",
}
INSPECT = {
    "sft": ("--model", "--dataset"),
    "reward": ("--model", "--dataset"),
    "dpo": ("--model", "--dataset"),
    "ppo": ("--model", "--reward-model", "--dataset"),
    "grpo": ("--model", "--reward", "--dataset"),
}
INSPECTED = {
    "sft": "rows: what is trained, what is prompt",
    "reward": "pairs, and what else they teach",
    "dpo": "pairs, and what else they teach",
    "ppo": "a response: log-probability, KL, reward, value, advantage",
    "grpo": "a group of responses with their scores",
}
STOCK = (
    Tool(
        "Download a model", "download", ("model",), about="From the Hugging Face hub, once; then no network is needed."
    ),
    Tool("Download a data set", "download", ("dataset",), about="From the Hugging Face hub, once."),
    Tool(
        "Merge an adapter into its base",
        "convert",
        ("merge-lora",),
        ("--lora-checkpoint", "--output"),
        "One model folder without LoRA; the largest difference of the logits is printed.",
    ),
    Tool(
        "Export: safetensors, GGUF or Ollama",
        "convert",
        ("export",),
        ("--checkpoint", "--format", "--output"),
        "For llama.cpp, Ollama and others; checked by loading it back.",
    ),
    Tool("Put a model onto the hub", "push", (), (), "With its card. Needs `hf auth login` first."),
)


def use(tool: Tool, stock: Stock) -> None:
    """Ask what the tool needs, review, run, and leave its words in sight until a key says on."""
    questions = Questions(Draft(tool.verb, tool.start), stock)
    kind = member(tool.verb, tool.start[0] if tool.start else "")
    asks = tool.asks or needed(kind)
    questions.ask(asks, lambda: reviewed(questions))


def needed(kind: Any) -> tuple[str, ...]:
    """The settings without a default."""
    import dataclasses

    from auto_bot_tuner.utils.settings import all_settings

    return tuple(key_of(setting) for setting in all_settings(kind) if setting.default is dataclasses.MISSING)


def reviewed(questions: Questions) -> Outcome:
    _, outcome = review(questions.draft, questions.change)
    then("Done.")
    return outcome


def at_once(draft: Draft) -> None:
    """For what costs nothing to start: the line is shown, and it starts."""
    verbatim(draft.line)
    if start(draft) != "done" or draft.verb != "chat":
        then("Back?" if draft.verb == "chat" else "Done.")


def chat(stock: Stock) -> None:
    questions = Questions(Draft("chat"), stock)
    questions.ask(CHAT.asks, lambda: at_once(questions.draft))


def evaluate(stock: Stock) -> None:
    from commands import arguments_class

    names = [name for name, _ in members(arguments_class("evaluate"))]
    options = [Option(TITLES.get(name, name.capitalize()), name) for name in names]
    walk([lambda: use_named("evaluate", choose("Measure what?", options), EVALUATE, stock)])


def use_named(verb: str, name: str, asks: dict[str, tuple[str, ...]], stock: Stock) -> None:
    use(Tool(name, verb, (name,), asks.get(name, ())), stock)


def inspect(stock: Stock) -> None:
    options = [Option(f"{NAMES[method]:13} {INSPECTED[method]}", method) for method in INSPECT]
    walk([lambda: inspect_for(choose("Look at the data of which method?", options), stock)])


def inspect_for(method: str, stock: Stock) -> None:
    use(Tool("Inspect", "inspect", ("--method", method), INSPECT[method]), stock)


def models_and_data(stock: Stock) -> None:
    """What is here in full, and everything that brings models in and out."""
    options: list[Option] = [Option("What is here", None, "Every model, run and data set, with sizes.")]
    options += [Option(tool.title, tool, tool.about) for tool in STOCK]

    def go() -> None:
        tool = choose("Models and data:", options)
        if tool is None:
            everything(stock)
        else:
            use(tool, stock)

    walk([go])


def everything(stock: Stock) -> None:
    """All that is here, however long."""
    say("\nModels and runs", "bold")
    sized = {run.folder: readable_size(run.size_bytes) for run in stock.runs}
    for line in table([(name, words) for name, words, _ in tree(stock)]):
        say("  " + line)
    say("\nRun folders", "bold")
    for line in table([(str(folder), text) for folder, text in sized.items()] or [("none", "")]):
        say("  " + line)
    say("\nData sets", "bold")
    for line in table([(entry.name, f"{entry.origin}: {entry.about}") for entry in stock.data]):
        say("  " + line)
    then("Seen?")
