"""The menu of `python main.py`: shows what is here and what makes sense next, asks, and calls the same handlers.

Nothing is set here; `src/menu/` says how it is made. Ctrl-C goes one step back, in the menu itself it leaves; so does
Ctrl-D everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from auto_bot_tuner.utils.errors import Interrupted, UsageError, UserError
from src.menu import learn, tools, training
from src.menu.advice import Suggestion, suggestions
from src.menu.draft import Draft, read
from src.menu.home import draw
from src.menu.screen import Leave, Option, choose, complain, is_dumb, say
from src.menu.stock import Stock, look_around

Action = Callable[[Stock], Any]


def main_menu() -> None:
    """Ask, run, ask again, until Quit, Ctrl-C or Ctrl-D.

    Raises:
        UsageError: the terminal cannot move its cursor.
        Interrupted: SIGTERM, after a running training has saved its checkpoint.
    """
    if is_dumb():
        raise UsageError(
            "the menu moves the cursor, which this terminal (TERM=dumb) cannot: set TERM=xterm, or name a command "
            "(python main.py --help)"
        )
    compared: set[str] = set()
    try:
        while True:
            read.cache_clear()  # presets go by folders, and those may have changed
            stock = look_around()
            proposed = suggestions(stock, compared)
            options = entries(stock, proposed)
            draw(stock, proposed, menu_lines=len(options) + 3)
            action = choose("What would you like to do?", options, out="leaves")
            if action is None:
                return
            if isinstance(action, Suggestion):
                action = follow(action.draft, compared)
            carry_out(action, stock)
    except Leave:
        say()
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:  # SIGTERM arrives as a subclass
            raise


def carry_out(action: Action, stock: Stock) -> None:
    """One entry; Ctrl-C at its first question leads back here, and so does whatever is wrong."""
    try:
        action(stock)
    except Interrupted:
        raise
    except UserError as error:
        complain(f"error: {error}")
    except ImportError as error:
        complain(f"error: {error.name or error} is not here: run `make install` again")
    except KeyboardInterrupt as stop:
        if type(stop) is not KeyboardInterrupt:
            raise


def entries(stock: Stock, proposed: list[Suggestion]) -> list[Option]:
    """The lines of the menu: what is proposed, then all there is."""
    lines = [Option(f"→ {each.title}", each, each.why) for each in proposed]
    lines += [
        Option(
            "Start here: the demo", demo, "Every method on the bundled world, offline: base → SFT → RM, DPO, PPO, GRPO."
        ),
        Option("Train", lambda stock: training.Training(stock).ask(), "SFT, reward model, DPO, PPO, GRPO."),
    ]
    if stock.resumable:
        lines.append(Option("Resume", training.choose_to_resume, f"{len(stock.resumable)} run(s) were interrupted."))
    return [
        *lines,
        Option("Chat", tools.chat, "Talk with a model."),
        Option("Compare", lambda stock: tools.use(tools.COMPARE, stock), "What do several models answer?"),
        Option("Evaluate", tools.evaluate, "Perplexity, accuracy, win rates, the report card of a reward model …"),
        Option("Inspect data", tools.inspect, "Rows, pairs and responses, token by token."),
        Option("Models and data", tools.models_and_data, "What is here; download, merge, export, push."),
        Option("Report", lambda stock: tools.use(tools.REPORT, stock), "A page about a run, or runs side by side."),
        Option("Learn", lambda stock: learn.learn(), "A chapter on each method."),
        Option("Doctor", lambda stock: tools.at_once(Draft("doctor")), "What will work on this machine?"),
        Option("Quit", None),
    ]


def demo(stock: Stock) -> None:
    """The whole pipeline, or a look at it."""
    ways = [
        Option("The whole demo   six minutes on two cores", ()),
        Option("A quick look     some 90 seconds", ("--quick",)),
    ]
    while True:
        way = choose("The demo:", ways)
        try:
            tools.reviewed(tools.Questions(Draft("demo", way), stock))
            return
        except KeyboardInterrupt as stop:
            if type(stop) is not KeyboardInterrupt:
                raise


def follow(draft: Draft, compared: set[str]) -> Action:
    """What choosing a proposal does; a comparison that came to its end is remembered in `compared`."""
    if draft.verb == "demo":
        return demo
    if draft.verb == "train-config":
        return lambda stock: training.resume(draft)
    if draft.verb.startswith("train-"):
        return lambda stock: training.suggested(draft, stock)

    def ask_the_rest(stock: Stock) -> None:
        questions = tools.Questions(draft, stock)

        def last() -> None:
            if tools.reviewed(questions) == "done" and draft.start == ("compare",):
                compared.add(draft.answers["--model"][-1])

        questions.ask(["--dataset"], last)

    return ask_the_rest
