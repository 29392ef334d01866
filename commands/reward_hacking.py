"""The reward-hacking lab: a flawed reward, a policy that finds the flaw, three cures, and the picture of it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.training.config import STRICT, PositiveFloat
from auto_bot_tuner.utils.terminal import neutral
from commands import demo
from commands.evaluate.printing import WIDTH, check_picture
from commands.json_file import check_writable, write_json
from commands.training import say

if TYPE_CHECKING:
    from auto_bot_tuner.evaluation.divergence_charts import Line
    from auto_bot_tuner.rlhf.hacking_lab import Curve

# How much longer than --quick: twice the rollouts, and 1,350 measured responses instead of 300 (each about a third of
# the work of one that is trained on).
WHOLE = 2.4
TRAINED = ("checkpoints/sft/tiny/final", "checkpoints/demo/sft/final")  # where an SFT model may be already


@dataclass(config=STRICT, kw_only=True)
class Arguments:
    """Reward hacking on the bundled world: a reward with a planted flaw, and three cures. No network, no GPU."""

    # Half the training and fewer prompts: a look, not a result.
    quick: bool = False
    # SFT model of the bundled world to start from. Empty: checkpoints/sft/tiny/final or the demo's where there is one,
    # else one is trained as configs/sft_tiny_standard.yaml says.
    model: str = ""
    # Seed of the prompts' order and of all sampling.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42
    # Rollouts of each arm, of 64 prompts. 0: 16, quick 8.
    rollouts: NonNegativeInt = 0
    # What the arm `kl` pays for a nat of divergence.
    kl_coefficient: PositiveFloat = 0.4
    # Where the arm `early-stop` ends: nats a response.
    kl_limit: PositiveFloat = 6.0
    # Write the curves to this file as JSON.
    json: str = ""
    # Picture of the curves: .svg, .png or .pdf. Empty: reward-hacking.svg in output_dir.
    plot: str = ""
    # Folder of the runs, one for each arm; those of an earlier lab in it are overwritten.
    output_dir: str = "checkpoints/reward-hacking"


def run(arguments: Arguments) -> None:
    """Train every arm, then print, draw and write what came of it.

    Raises:
        UserError: the model cannot be had, or a run fails.
        UsageError: a file cannot be written.
    """
    picture = arguments.plot or str(Path(arguments.output_dir) / "reward-hacking.svg")
    check_writable(arguments.json)
    check_picture(arguments.plot)

    from auto_bot_tuner.evaluation.divergence_charts import draw_against_divergence
    from auto_bot_tuner.rlhf import hacking_lab as lab

    model = start_model(arguments)
    scale = lab.scale_of(arguments.quick, arguments.rollouts)
    curves: list[Curve] = []
    arms = lab.arms(arguments.kl_coefficient, arguments.kl_limit)
    for number, arm in enumerate(arms, start=1):
        say(f"\n── Arm {number} of {len(arms)}: {arm.name}, paid by {arm.words} ──")
        curves.append(lab.run_arm(arm, model, scale, arguments.seed, str(Path(arguments.output_dir) / arm.name)))
        # Written after each arm: what is done is not lost when a later one fails.
        write_json(arguments.json, record(arguments, model, scale, curves, picture))
    draw_against_divergence(panels(curves), picture, f"Reward hacking: {model}, seed {arguments.seed}")
    show(curves)
    if arguments.quick:
        say("\n" + textwrap.fill(only_a_look(curves), WIDTH))
    say(f"\npicture: {picture}")


def start_model(arguments: Arguments) -> str:
    """The SFT model to start from, and a line that says which it is."""
    if arguments.model:
        return arguments.model
    found = next((folder for folder in TRAINED if (Path(folder) / "config.json").is_file()), None)
    if found is not None:
        say(f"start            {found}, which is here already (another: --model FOLDER)")
        return found
    say("start            no SFT model is here yet: it is trained first, as configs/sft_tiny_standard.yaml says")
    return demo.trained("sft", "tiny", demo.Arguments(quick=arguments.quick, output_dir=arguments.output_dir))


def record(arguments: Arguments, model: str, scale: Any, curves: Sequence[Curve], picture: str) -> dict[str, Any]:
    return {
        "model": model,
        "seed": arguments.seed,
        "rollouts": scale.rollouts,
        "prompts": scale.prompts,
        "kl_coefficient": arguments.kl_coefficient,
        "kl_limit": arguments.kl_limit,
        "plot": picture,
        "arms": [curve.as_json() for curve in curves],
    }


# --- what is shown ----------------------------------------------------------------------------------------------------


def panels(curves: Sequence[Curve]) -> dict[str, list[Line]]:
    """Proxy and gold of every arm against the divergence."""
    from auto_bot_tuner.evaluation.divergence_charts import Line

    def lines(name: str) -> list[Line]:
        return [
            Line(curve.arm.name, [p.kl for p in curve.points], [getattr(p, name) for p in curve.points])
            for curve in curves
        ]

    return {"proxy: what is measured": lines("proxy"), "gold: what is wanted": lines("gold")}


def show(curves: Sequence[Curve]) -> None:
    """Charts, the table of where each arm ended, what one prompt's answer became, and what it all means."""
    from auto_bot_tuner.evaluation.divergence_charts import text_chart

    for title, lines in panels(curves).items():
        say("\n" + text_chart(lines, title))
    say("")
    print_table(curves)
    start = curves[0].points[0]
    say(f"one prompt       {neutral(start.prompt)}\n  {'start':11} {one_line(start.sample)}")
    for curve in curves:
        say(f"  {curve.arm.name:11} {one_line(curve.points[-1].sample)}")
    say("")
    for curve in curves:
        say(verdict(curve))


def print_table(curves: Sequence[Curve]) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    # The heads are short, so that on 80 columns none is broken.
    grid = Table(Column("arm", no_wrap=True), title="Proxy and gold (best: gold's highest), at temperature 1")
    for head in ("proxy", "gold", "best", "KL", "√KL", "tokens", "steps", "s"):
        grid.add_column(head, justify="right", no_wrap=True)

    def row(name: str, point: Any, best: float, seconds: float | None) -> list[str]:
        figures = (point.proxy, point.gold, best, point.kl, point.sqrt_kl)
        clock = "" if seconds is None else f"{seconds:.0f}"
        return [name, *(f"{x:.2f}" for x in figures), f"{point.response_length:.0f}", str(point.step), clock]

    start = curves[0].points[0]
    grid.add_row(*row("start", start, start.gold, None))
    grid.add_section()
    for curve in curves:
        best = max(point.gold for point in curve.points)
        grid.add_row(*row(curve.arm.name, curve.points[-1], best, curve.seconds))
    Console().print(grid)


def verdict(curve: Curve) -> str:
    """What an arm's curve says, in a sentence."""
    start, end = curve.points[0], curve.points[-1]
    best = max(curve.points, key=lambda point: point.gold)
    moved = f"{curve.arm.name}: proxy {end.proxy - start.proxy:+.2f}, gold {end.gold - start.gold:+.2f}"
    if curve.is_hacked:
        return (
            f"{moved}: hacked. The measure says better and the truth says worse; gold was best ({best.gold:.2f}) at "
            f"√KL {best.sqrt_kl:.1f}, and nothing in the proxy's curve shows where that was."
        )
    if end.gold < start.gold - curve.NOISE:
        return f"{moved}: worse, and not for the flaw's sake."
    ended = f" It stopped at {end.kl:.1f} nats, after {end.step} steps." if curve.is_stopped else ""
    return f"{moved}: not hacked so far.{ended}"


def only_a_look(curves: Sequence[Curve]) -> str:
    """Of --quick: what it cannot show, and what the whole lab takes here."""
    minutes = max(1, round(WHOLE * sum(curve.seconds for curve in curves) / 60))
    return (
        f"This was a look: {max(curve.points[-1].step for curve in curves)} steps are mostly too few for a policy to "
        f"be hacked. The whole lab, the same command without --quick, takes about {minutes} "
        f"minute{'s' * (minutes > 1)} here."
    )


def one_line(text: str, width: int = 200) -> str:
    flat = neutral(" ".join(text.split()))
    return flat if len(flat) <= width else flat[: width - 1] + "…"
