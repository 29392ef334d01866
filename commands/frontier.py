"""The KL–reward frontier: best-of-n and PPO at several prices of divergence, measured on the same held-out prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.rlhf.config import PPOConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError
from auto_bot_tuner.utils.json_files import read_lines
from commands import train_ppo
from commands.evaluate.printing import check_picture
from commands.json_file import check_writable, write_json
from commands.layers import preset_layers
from commands.rollouts import prompts_of
from commands.training import rows_of, say

if TYPE_CHECKING:
    from auto_bot_tuner.data.rows import Rows
    from auto_bot_tuner.evaluation.divergence_charts import Line
    from auto_bot_tuner.evaluation.frontier import FrontierPoint


@dataclass(config=STRICT, kw_only=True)
class Arguments(train_ppo.Arguments):
    """Reward against divergence: best-of-n of a model, and PPO from it at several prices of a nat."""

    # Numbers of responses to choose the best from, each a point. No training: the yardstick.
    best_of: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16)
    # Prices of a nat (kl_coefficient), each a PPO run of its own; all other settings are those below.
    beta: tuple[Annotated[NonNegativeFloat, Field(allow_inf_nan=False)], ...] = ()
    # Write the points to this file as JSON.
    json: str = ""
    # Picture of the points: .svg, .png or .pdf. Empty: frontier.svg in output_dir.
    plot: str = ""


def run(arguments: Arguments) -> None:
    """Measure every point, then print, draw and write them.

    Raises:
        UserError: models, rewards or data cannot be had, or a run fails.
        UsageError: settings contradict each other, or a file cannot be written.
    """
    check(arguments)
    picture = arguments.plot or str(Path(arguments.training.output_dir) / "frontier.svg")
    if arguments.dry_run:
        say(plan(arguments))
        return

    from auto_bot_tuner.training.run_folder import check_run_folder

    for beta in arguments.beta:  # a folder that holds a run already is told now, not after the first of them
        check_run_folder(run_of(arguments, beta).training)
    train_rows, eval_rows = rows_of(arguments, dry_run=True)
    if eval_rows is None:
        raise UsageError(
            "the frontier is measured on held-out prompts: give --eval-dataset, or --eval-fraction above 0"
        )
    arguments = watching_gold(arguments, [train_rows, eval_rows])
    points = sampled_points(arguments, eval_rows) if arguments.best_of else []
    write_json(arguments.json, record(arguments, points, picture))
    for beta in arguments.beta:
        say(f"\n── PPO at {beta:g} a nat ──")
        points.append(trained_point(run_of(arguments, beta), beta, len(eval_rows)))
        # Written after each run: what is done is not lost when a later one fails.
        write_json(arguments.json, record(arguments, points, picture))
    show(points, picture, f"Reward against divergence from {arguments.model.name}")


def check(arguments: Arguments) -> None:
    """What can be said before anything is read.

    Raises:
        UsageError: nothing is to be measured, settings contradict each other, or a file cannot be written.
    """
    training = settings(arguments)
    if not arguments.best_of and not arguments.beta:
        raise UsageError("nothing to measure: give --best-of with numbers of responses, --beta with prices, or both")
    for name, values in (("best-of", arguments.best_of), ("beta", arguments.beta)):
        if len(set(values)) < len(values):
            raise UsageError(f"--{name} {' '.join(f'{value:g}' for value in values)}: one of them stands there twice")
    if training.kl_target is not None:
        raise UsageError("--kl-target would move the price that --beta sets: leave it out")
    if training.resume:
        raise UsageError("--resume goes on with one run, and these are several: start anew with --overwrite")
    check_writable(arguments.json)
    check_picture(arguments.plot)
    train_ppo.check_settings(training)


def settings(arguments: Arguments) -> PPOConfig:
    assert isinstance(arguments.training, PPOConfig)
    return arguments.training


def watching_gold(arguments: Arguments, sources: Sequence[Rows]) -> Arguments:
    """In the bundled world the gold score is measured beside the reward, with a weight of 0."""
    from auto_bot_tuner.data.rows import each_row
    from auto_bot_tuner.rewards.named import weight_and_name
    from auto_bot_tuner.rewards.verifiers import GOLD_COLUMNS

    names = settings(arguments).reward
    is_there = any(weight_and_name(name)[1] == "gold" for name in names)
    rows = (row for source in sources for row in each_row(source))
    of_the_world = (
        isinstance(row, Mapping) and all(isinstance(row.get(name), str) for name in GOLD_COLUMNS) for row in rows
    )
    if is_there or not all(of_the_world):
        return arguments
    return dataclasses.replace(arguments, training=dataclasses.replace(settings(arguments), reward=(*names, "0*gold")))


def run_of(arguments: Arguments, beta: float) -> train_ppo.Arguments:
    """The settings of one of the runs: all but the price and the folder are shared."""
    folder = str(Path(arguments.training.output_dir) / f"beta-{beta:g}")
    training = dataclasses.replace(settings(arguments), kl_coefficient=beta, output_dir=folder)
    return train_ppo.Arguments(model=arguments.model, dataset=arguments.dataset, training=training)


def plan(arguments: Arguments) -> str:
    runs = ", ".join(f"{beta:g}" for beta in arguments.beta) or "none"
    sizes = ", ".join(map(str, arguments.best_of)) or "none"
    return f"best of          {sizes}\nPPO runs         {runs}\nmodel            {arguments.model.name}"


# --- points -----------------------------------------------------------------------------------------------------------


def sampled_points(arguments: Arguments, rows: Rows) -> list[FrontierPoint]:
    """Best-of-n of the model that the runs start from, sampled as they sample."""
    from auto_bot_tuner.evaluation.best_of import best_of
    from auto_bot_tuner.evaluation.config import GenerationConfig
    from auto_bot_tuner.evaluation.frontier import best_of_points
    from auto_bot_tuner.utils.model_loading import load_from_config

    training = settings(arguments)
    reward = train_ppo.reward_of(training, train_ppo.reward_models(training, arguments.model), arguments.model)
    policy, tokenizer, _ = load_from_config(arguments.model)
    prompts = prompts_of(rows, tokenizer, arguments.dataset)
    n = max(arguments.best_of)
    say(f"best of {n}: {n} responses to each of {len(prompts)} held-out prompts, by {reward.name}")
    writing = GenerationConfig(
        temperature=training.temperature,
        max_new_tokens=training.max_new_tokens,
        seed=training.seed,
        batch_tokens=training.rollout_batch_tokens,
    )
    return best_of_points(best_of(policy, tokenizer, prompts, reward, n, writing), arguments.best_of)


def trained_point(config: train_ppo.Arguments, beta: float, prompts: int) -> FrontierPoint:
    """The point of one PPO run, trained here; its last evaluation is in its metrics.jsonl."""
    from auto_bot_tuner.evaluation.frontier import point_of_run

    train_ppo.train(config)
    lines = read_lines(Path(config.training.output_dir) / "metrics.jsonl")
    evaluation = next(line for line in reversed(lines) if "eval_kl" in line)
    return point_of_run(beta, evaluation, prompts)


# --- what is shown ----------------------------------------------------------------------------------------------------


def record(arguments: Arguments, points: Sequence[FrontierPoint], picture: str) -> dict[str, Any]:
    return {"model": arguments.model.name, "plot": picture, "points": [point.as_json() for point in points]}


def panels(points: Sequence[FrontierPoint]) -> dict[str, list[Line]]:
    """Reward and, where the rows have one, gold score: a line for each method, from near to far."""
    from auto_bot_tuner.evaluation.divergence_charts import Line

    near_first = sorted(points, key=lambda point: point.kl)
    methods = {"best-of": "best of n", "ppo": "PPO"}
    found = {}
    for name, title in (("reward", "reward: what is measured"), ("gold", "gold: what is wanted")):
        lines = []
        for method, label in methods.items():
            known = [point for point in near_first if point.method == method and getattr(point, name) is not None]
            if known:
                lines.append(Line(label, [point.kl for point in known], [getattr(point, name) for point in known]))
        if lines:
            found[title] = lines
    return found


def show(points: Sequence[FrontierPoint], picture: str, title: str) -> None:
    """The picture, the charts, the table, and each run beside best-of-n at the same distance."""
    from auto_bot_tuner.evaluation.divergence_charts import draw_against_divergence, text_chart

    draw_against_divergence(panels(points), picture, title)
    for name, lines in panels(points).items():
        say("\n" + text_chart(lines, name))
    say("")
    print_table(points)
    for point in points:
        if point.method == "ppo":
            say(comparison(point, points))
    say(f"best-of-n is at most log n - (n - 1)/n nats away (2009.01325)\npicture: {picture}")


def print_table(points: Sequence[FrontierPoint]) -> None:
    from rich.console import Console
    from rich.table import Table

    from auto_bot_tuner.evaluation.frontier import undominated

    grid = Table("", title="Nearest first; ✓ no other has more reward for no more divergence")
    for head in ("KL", "√KL", "reward", "gold", "frontier"):
        grid.add_column(head, justify="right")
    for point, is_best in sorted(zip(points, undominated(points), strict=True), key=lambda pair: pair[0].kl):
        gold = "" if point.gold is None else f"{point.gold:.3f}"
        reward = f"{point.reward:.3f} ± {1.96 * point.reward_error:.3f}"
        grid.add_row(point.name, f"{point.kl:.2f}", f"{point.sqrt_kl:.2f}", reward, gold, "✓" if is_best else "")
    Console().print(grid)


def comparison(point: FrontierPoint, points: Sequence[FrontierPoint]) -> str:
    """A trained policy beside best-of-n, as far away."""
    from auto_bot_tuner.evaluation.frontier import reward_at

    sampled = [other for other in points if other.method == "best-of"]
    there = reward_at(sampled, point.kl)
    told = f"{point.name}: {point.reward:.3f} at {point.kl:.2f} nats"
    if there is None:
        return f"{told}; no best-of-n measured here goes as far" if sampled else told
    return f"{told}, where best-of-n has {there:.3f} ({point.reward - there:+.3f})"


layers = partial(preset_layers, Arguments)
