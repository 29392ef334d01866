"""What a person sees while a run goes: a live line with time left and speed, and the numbers worth a look."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from auto_bot_tuner.training.events import Event
from auto_bot_tuner.utils.terminal import neutral

# Shown in this order where a method reports them; the rest is in metrics.jsonl.
WORTH_A_LOOK = ("loss", "accuracy", "reward_margin", "reward", "kl", "grad_norm", "learning_rate", "tokens_per_second")


class ProgressLine:
    """A line per log, and on a terminal a live bar below them with the time left and the speed."""

    def __init__(self, total_steps: int, done_steps: int, console: Console | None = None) -> None:
        self.console = console or Console()
        self.total_steps = total_steps
        self.progress = Progress(
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[speed]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task("", total=total_steps, completed=done_steps, speed="")

    def __call__(self, event: Event) -> None:
        if event.name == "start":
            self.progress.start()
        elif event.name == "step":
            self.progress.update(self.task, completed=event.step)
        elif event.name == "log":
            if (speed := event.metrics.get("tokens_per_second")) is not None:  # none where all steps were skipped
                self.progress.update(self.task, speed=f"{speed:,.0f} tokens/s")
            # On a narrow terminal the last numbers are left out; a file has them all.
            fits = {"no_wrap": True, "overflow": "ellipsis"} if self.console.is_terminal else {"soft_wrap": True}
            self.console.print(f"step {event.step}/{self.total_steps}  {readable(event.metrics)}", **fits)
        elif event.name == "evaluate":
            self.console.print(f"[bold]step {event.step}[/]  {readable(event.metrics)}", soft_wrap=True)
        elif event.name == "samples":
            for sample in event.metrics["samples"]:
                self.show_sample(sample)
        elif event.name == "note":
            self.note(event.metrics["text"])
        elif event.name == "save":
            self.note(f"saved {event.metrics['path']}")
        elif event.name == "end":
            self.progress.stop()

    def note(self, text: str) -> None:
        self.console.print(f"[dim]{escape(neutral(text))}[/]", soft_wrap=True)

    def show_sample(self, sample: dict[str, object]) -> None:
        """One prompt and its answer on two lines. Model output is data: no markup, no control codes."""
        end = "[green]■[/]" if sample["ended"] else "[red]… (did not stop)[/]"
        if "score" in sample:
            end += f" [dim]score {sample['score']:.2f}[/]"
        side = f"{one_line(sample['side'])} " if sample.get("side") else ""  # which of a pair it is
        self.console.print(
            f"  [dim]{one_line(sample['prompt'])}[/]\n  {side}→ {one_line(sample['response'])} {end}", soft_wrap=True
        )


def readable(metrics: dict[str, float]) -> str:
    """The numbers worth a look, without their eval_ prefix's repetition: `loss 1.234  accuracy 0.567`."""
    names = [name for name in (*WORTH_A_LOOK, *(f"eval_{name}" for name in WORTH_A_LOOK)) if name in metrics]
    names += [name for name in ("eval_perplexity",) if name in metrics]
    return "  ".join(f"{name} {number(metrics[name])}" for name in names)


def number(value: float) -> str:
    """Four significant digits: 0.1234, 1234, 2e-05."""
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def one_line(text: object, width: int = 160) -> str:
    """Text as one printable line: newlines and control characters (they could drive the terminal) become marks."""
    flat = neutral(str(text).strip().replace("\n", "⏎"))
    return escape(flat if len(flat) <= width else flat[: width - 1] + "…")
