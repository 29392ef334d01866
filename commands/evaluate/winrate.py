"""`evaluate winrate`: two models answer the same prompts, and a judge says which answer is better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from pydantic import NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.training.config import STRICT
from auto_bot_tuner.utils.errors import UsageError, UserError
from commands.evaluate.answers import answers_of, print_models, print_side_by_side
from commands.evaluate.arguments import RowArguments
from commands.evaluate.inputs import load, to_answer
from commands.evaluate.printing import check_picture, columns, spread

if TYPE_CHECKING:  # these import torch, and flags are parsed before anything heavy is
    from auto_bot_tuner.evaluation.generation import Response
    from auto_bot_tuner.evaluation.judges import Judge, Judgement
    from auto_bot_tuner.evaluation.win_rates import WinRate

IS_FUNCTION = re.compile(r"\.py(:|$)")
WORDS = {1.0: "A wins", 0.5: "tie", 0.0: "B wins"}


@dataclass(config=STRICT, kw_only=True)
class WinrateArguments(RowArguments):
    """How often does --model answer better than --against? Win rate with a 95 % interval, and what may explain it."""

    # The model to compare with, of the same kinds as --model.
    against: str
    # Data set whose prompts both answer.
    dataset: str = "tiny-instructions"
    # Who decides: gold (the bundled world's scorer), a reward model's folder, or file.py:function of yours, which takes
    # (prompt, response) and returns a score, or (prompt, first, second) and returns 1, 0 or 0.5. This runs the file's
    # code.
    judge: str = "gold"
    # Answers to each prompt; more than one needs a --temperature above 0.
    samples: PositiveInt = 1
    # Print this many answers of both, with the judge's word.
    show: NonNegativeInt = 3
    # How the answers are written.
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    # Draw wins, ties and losses, also by which answer is longer, into this file: .png, .svg or .pdf.
    plot: str = ""


def measure(arguments: WinrateArguments) -> dict[str, Any]:
    """Let both models answer, judge and print; numbers and answers for `--json`."""
    check_picture(arguments.plot)
    if arguments.samples > 1 and not arguments.generation.temperature:
        raise UsageError(f"--samples {arguments.samples} would be the same answer: set a --temperature above 0")
    rows = load(arguments)
    asked = to_answer(rows)
    judge = judge_named(arguments, rows)  # a judge that does not exist is known before the models are loaded
    prompts = [conversation for conversation in asked for _ in range(arguments.samples)]
    names = [arguments.model, arguments.against]
    first, second = (report.responses for report in answers_of(arguments, names, prompts, arguments.generation))

    from auto_bot_tuner.evaluation.judges import Answer
    from auto_bot_tuner.evaluation.win_rates import win_rate

    judgement = judge(
        prompts, *([Answer(response.text, response.ended) for response in side] for side in (first, second))
    )
    result = win_rate(judgement.outcomes, arguments.samples, arguments.generation.seed)
    for i in spread(len(prompts), arguments.show):
        heads = (f"A: {WORDS[judgement.outcomes[i]]}", "B")
        print_side_by_side(prompts[i][-1]["content"], dict(zip(heads, (first[i].text, second[i].text), strict=True)))
    record = {"judge": arguments.judge, **numbers(result, judgement), **lengths(judgement, first, second)}
    print_result(arguments, result, record)
    if arguments.plot:
        from auto_bot_tuner.evaluation.answer_charts import draw_winrate

        words = [[len(response.text.split()) for response in side] for side in (first, second)]
        title = f"A: {arguments.model}\nB: {arguments.against}\n{arguments.dataset}; judge: {arguments.judge}"
        draw_winrate(result, judgement.outcomes, (words[0], words[1]), arguments.plot, title)
        print(f"picture: {arguments.plot}")
    samples = [
        {"prompt": prompt[-1]["content"], "responses": [a.text, b.text], "outcome": outcome}
        for prompt, a, b, outcome in zip(prompts, first, second, judgement.outcomes, strict=True)
    ]
    return {**record, "samples": samples}


def judge_named(arguments: WinrateArguments, rows: Any) -> Judge:
    """The judge that `--judge` names.

    Raises:
        UserError: it cannot judge: no such folder or function, a model without a reward head, rows without answers.
    """
    from auto_bot_tuner.evaluation import judges

    if arguments.judge == "gold":
        return judges.gold_judge(rows, rows.where)
    if IS_FUNCTION.search(arguments.judge):
        return judges.function_judge(arguments.judge)

    from auto_bot_tuner.rlhf import load_reward_model, score_responses

    settings = arguments.device, arguments.dtype, arguments.trust_remote_code
    try:
        reward_model, tokenizer, _ = load_reward_model(arguments.judge, *settings)
    except UserError as error:
        raise type(error)(f"--judge {arguments.judge} is neither gold nor file.py:function, and {error}") from error
    return judges.scoring_judge(
        lambda prompts, answers: score_responses(
            reward_model, tokenizer, prompts, [a.text for a in answers], ended=[a.ended for a in answers]
        )
    )


def numbers(result: WinRate, judgement: Judgement) -> dict[str, Any]:
    """What the judge said, for JSON and for the table."""
    record = {
        "win_rate": result.rate,
        "interval_95": list(result.interval),
        "significant": result.significant,
        "prompts": result.prompts,
        "wins": result.wins,
        "ties": result.ties,
        "losses": result.losses,
        "position_bias": judgement.undecided / len(judgement.outcomes),
    }
    if judgement.scores:
        record["mean_score"] = [fmean(side) for side in judgement.scores]
    return record


def lengths(judgement: Judgement, first: Sequence[Response], second: Sequence[Response]) -> dict[str, Any]:
    """How long the answers are, and whether the longer ones win."""
    from auto_bot_tuner.evaluation.win_rates import longer_wins

    words = [[len(response.text.split()) for response in side] for side in (first, second)]
    longer = longer_wins(judgement.outcomes, *words)
    return {
        "mean_words": [fmean(side) for side in words],
        "ended": [fmean(response.ended for response in side) for side in (first, second)],
        "longer_wins": None if longer is None else longer.value,
    }


def print_result(arguments: WinrateArguments, result: WinRate, record: dict[str, Any]) -> None:
    """The table of both models, and the win rate with what is to be said about it."""
    print_models({"A": arguments.model, "B": arguments.against})
    rows = [[name, *(form.format(value) for value in record[key])] for name, key, form in SIDES if key in record]
    many = f"{result.prompts} prompts" + (f" x {arguments.samples} samples" if arguments.samples > 1 else "")
    columns(f"{arguments.dataset}, {many}; judge: {arguments.judge}", ["", "A", "B"], rows)
    print(f"A {result}")
    if record["longer_wins"] is not None:
        print(f"the longer answer won {record['longer_wins']:.0%} of the decided pairs whose lengths differ")
    if record["position_bias"]:
        share = f"{record['position_bias']:.0%}"
        print(f"position bias: in {share} of the pairs the judge, asked in the other order,")
        print("took the same place again; they count as ties")


SIDES = (
    ("mean score", "mean_score", "{:.3f}"),
    ("mean words", "mean_words", "{:.1f}"),
    ("ended by itself", "ended", "{:.0%}"),
)
