"""The demo on a terminal: a line of figures after each stage, and all tables at the end, the main one last."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from commands.demo_results import START, TEMPERATURES, Result

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from auto_bot_tuner.evaluation.accuracy import AccuracyReport
    from auto_bot_tuner.evaluation.intervals import Share

SAMPLES = 5
Answering = Sequence[tuple[Result, "AccuracyReport"]]


def found(result: Result, earlier: Sequence[Result]) -> str:
    """What came of a stage, by its figures alone: a run that is too short says so by itself."""
    before = {other.name: other for other in earlier}
    if result.pairs:
        names = [kind for kind in ("all", "right against wrong", "length alone") if kind in result.pairs]
        return "Pairs ranked right: " + ", ".join(f"{kind} {result.pairs[kind].value:.1%}" for kind in names) + "."
    if result.report is None:
        return ""
    start = before.get(START) or before.get("base")
    parts = [changed("accuracy", start, result), changed("ended", start, result)]
    if result.kl is not None and start is not None:
        parts = [f"gold {fmean(start.gold['greedy']):.2f} → {fmean(result.gold['greedy']):.2f}", parts[0]]
        parts += [f"win rate {result.wins['greedy'].rate:.1%}", f"{abs(result.kl):.1f} nats from {START}"]
    if result.puzzles and start is not None and start.puzzles:
        how = "temperature 1"
        parts.insert(0, f"puzzles at {how} {start.puzzles[how].value:.1%} → {result.puzzles[how].value:.1%}")
    text = ", ".join(parts)
    return text[:1].upper() + text[1:] + "."


def changed(name: str, start: Result | None, result: Result) -> str:
    """`accuracy 0.0% → 93.0%`, from the stage that this one started from."""
    shares = [
        (other.report.overall if name == "accuracy" else other.report.ended)
        for other in (start, result)
        if other is not None and other.report is not None
    ]
    return f"{name} " + " → ".join(f"{share.value:.1%}" for share in shares)


def show(results: list[Result], rows: list[dict[str, Any]]) -> None:
    """Details first: what stands last is what one sees when it is over."""
    from rich.console import Console

    console = Console()
    answering = [(result, result.report) for result in results if result.report is not None]
    tables = [task_table(answering), *pair_tables(results), *puzzle_tables(results)]
    for table in tables:
        console.print("", table)
    show_samples(console, answering, rows)
    for table in (*win_tables(results), stage_table(results)):
        console.print("", table)


def show_samples(console: Console, answering: Answering, rows: list[dict[str, Any]]) -> None:
    """The same questions, answered by each stage."""
    from rich.text import Text

    from auto_bot_tuner.utils.terminal import neutral

    for i in some_of_each_kind(rows):
        console.print(Text("\n" + " ".join(answering[0][1].prompts[i].split()), style="bold"))
        for result, report in answering:
            answer, mark = report.responses[i], "✓" if report.correct[i] else "✗"
            text = neutral(" ".join(answer.text.split()) + ("" if answer.ended else " …"))
            console.print(
                Text(f"  {result.name:5} {mark} {text}", style="green" if mark == "✓" else ""),
                no_wrap=True,
                overflow="ellipsis",
            )


def some_of_each_kind(rows: list[dict[str, Any]]) -> list[int]:
    """The first row of every few tasks, so that the samples differ in kind."""
    first = {row["task"]: i for i, row in reversed(list(enumerate(rows)))}
    tasks = sorted(first)
    return [first[task] for task in tasks[:: max(1, len(tasks) // SAMPLES)]]


def table_of(first: str, columns: Sequence[str], title: str) -> Table:
    """A table whose first column are names, the others numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        first, title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False, show_edge=False
    )
    for column in columns:
        table.add_column(column, justify="right")
    return table


def stage_table(results: Sequence[Result]) -> Table:
    prompts = next(result.report.overall.n for result in results if result.report is not None)
    columns = ("accuracy", "95 %", "ended", "gold", "gold T=1", "reward", "KL", "sec.")
    table = table_of("stage", columns, f"{prompts} held-out prompts (greedy answers; T=1: sampled)")
    for result in results:
        figures = [""] * 5
        if result.report is not None:
            figures = [*percents(result.report.overall), f"{result.report.ended.value:.0%}"]
            figures += [f"{fmean(result.gold[how]):.2f}" for how in TEMPERATURES]
        learned = ("" if value is None else f"{value:.2f}" for value in (result.reward, result.kl))
        table.add_row(result.name, *figures, *learned, f"{result.seconds:.0f}")
    return table


def win_tables(results: Sequence[Result]) -> list[Table]:
    """One, where some stage was compared."""
    table = table_of("against", ("answers", "win rate", "95 %", "wins", "ties", "losses"), f"Better than {START}?")
    compared = [(result.name, how, won) for result in results for how, won in result.wins.items()]
    for name, how, won in compared:
        low, high = won.interval
        mark = "" if not low <= 0.5 <= high else " ~"
        counts = (str(count) for count in (won.wins, won.ties, won.losses))
        table.add_row(name, how, f"{won.rate:.1%}{mark}", f"{low:.0%}–{high:.0%}", *counts)
    table.columns[0].header = "stage"
    table.caption, table.caption_justify = "by gold score; ~ not told apart from chance", "left"
    return [table] if compared else []


def pair_tables(results: Sequence[Result]) -> list[Table]:
    tables = []
    for result in results:
        if result.pairs:
            table = table_of("kind of pair", ("pairs", "right", "95 %"), f"{result.name}: held-out pairs ranked right")
            for kind, share in result.pairs.items():
                table.add_row(kind.replace("_", " "), str(share.n), *percents(share))
            tables.append(table)
    return tables


def task_table(answering: Answering) -> Table:
    stages = [result.name for result, _ in answering]
    table = table_of("task", ("prompts", *stages), "Accuracy by task, greedy answers")
    for task, share in answering[0][1].by_task.items():
        shares = (f"{report.by_task[task].value:.0%}" for _, report in answering)
        table.add_row(task.replace("_", " "), str(share.n), *shares)
    return table


def puzzle_tables(results: Sequence[Result]) -> list[Table]:
    """One, where some stage was asked puzzles."""
    asked = [result for result in results if result.puzzles]
    if not asked:
        return []
    columns = [words for how in TEMPERATURES for words in (how, "95 %")]
    count = asked[0].puzzles["greedy"].n
    table = table_of("stage", columns, f"{count} held-out puzzles: lists to sort downwards")
    for result in asked:
        table.add_row(result.name, *(words for how in TEMPERATURES for words in percents(result.puzzles[how])))
    return [table]


def percents(share: Share) -> tuple[str, str]:
    """A share and its 95 % interval."""
    low, high = share.interval
    return f"{share.value:.1%}", f"{low:.0%}–{high:.0%}"
