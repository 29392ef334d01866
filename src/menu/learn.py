"""Learn: the chapters of docs/ in the terminal, a screen at a time."""

from __future__ import annotations

from pathlib import Path

from src.menu.screen import Option, choose, console, one_step

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
ORDER = ("sft", "reward-models", "dpo", "ppo", "grpo", "reward-hacking", "evaluation", "export", "glossary")


def learn() -> None:
    """Choose a chapter and read it; Ctrl-C goes back to the chapters, and from there to the menu."""
    found = chapters()
    options = [Option(title, path) for path, title in found.items()] or [Option("there are no chapters here", None)]
    at = None
    while True:
        at = choose("Which chapter?", options, at)
        if at is None:
            return
        with one_step():
            read(at)


def chapters() -> dict[Path, str]:
    """The chapters in the order of the story, then the others; with their titles."""
    paths = sorted(
        DOCS.glob("*.md"),
        key=lambda path: (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem),
    )
    return {path: title_of(path) for path in paths}


def title_of(path: Path) -> str:
    """The first heading."""
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("# ").strip() for line in file if line.startswith("# ")), path.stem)


def read(path: Path) -> None:
    """The chapter, a screen at a time."""
    from rich.markdown import Markdown

    width = min(console.size.width, 100)
    with console.capture() as capture:
        console.print(Markdown(path.read_text(encoding="utf-8")), width=width)
    lines = capture.get().splitlines()
    at, step = 0, max(5, console.size.height - 5)
    while at < len(lines):
        print("\n".join(lines[at : at + step]))
        at += step
        if at < len(lines):
            here = f"{path.name}, {min(100, 100 * at // len(lines))} %"
            if not choose(here, [Option("go on", True), Option("another chapter", False)], stays=False):
                return
    choose(f"{path.name}, the end", [Option("another chapter", False)], stays=False)
