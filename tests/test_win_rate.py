"""Win rates against planted judges, judges that look at the place and not at the answer, and functions of users."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from auto_bot_tuner.evaluation import judges
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.evaluation.judges import Answer, comparing_judge, function_judge, gold_judge, scoring_judge
from auto_bot_tuner.evaluation.win_rates import longer_wins, outcomes_of_scores, win_rate
from auto_bot_tuner.utils.errors import UsageError, UserError

PROMPTS = [[{"role": "user", "content": f"Question {i}?"}] for i in range(4)]


def answers(*texts: str) -> list[Answer]:
    return [Answer(text, ended=True) for text in texts]


# --- the rate --------------------------------------------------------------------------------------------------------


def test_ties_count_half() -> None:
    result = win_rate([1, 1, 1, 0.5, 0.5, 0])
    assert (result.wins, result.ties, result.losses, result.prompts) == (3, 2, 1, 6)
    assert result.rate == pytest.approx(4 / 6)
    assert result.interval == Share(4, 6).interval and not result.significant  # too few to resample
    assert "not significant" in str(result)


@pytest.mark.parametrize(("wins", "significant"), [(3, False), (4, True)])
def test_few_prompts_that_all_come_out_alike_are_no_certainty(wins: int, significant: bool) -> None:
    """A fair coin gives three heads in a row in one of eight tries; Wilson's interval of 3/3 begins at 43.8 %."""
    result = win_rate([1.0] * wins)
    assert result.rate == 1 and result.interval[0] < 0.6 and result.significant is significant
    assert win_rate([0.5] * 100).significant is False


def test_a_planted_judge_is_found_and_a_coin_is_not_called_significant() -> None:
    rng = random.Random(0)
    better = win_rate([float(rng.random() < 0.7) for _ in range(400)])
    assert better.significant and better.interval[0] < 0.7 < better.interval[1]
    half = 1.96 * (0.7 * 0.3 / 400) ** 0.5
    assert better.interval == pytest.approx((better.rate - half, better.rate + half), abs=0.012)
    coins = [win_rate([rng.choice([0.0, 0.5, 1.0]) for _ in range(60)]).significant for _ in range(200)]
    assert fmean(coins) < 0.1  # 5 % of true coins look like more, at this level
    assert "not significant" not in str(better)


def test_samples_of_one_prompt_are_not_independent() -> None:
    """Ten samples that always agree say no more than one: the interval is that of the prompts, not three times less."""
    rng = random.Random(1)
    by_prompt = [float(rng.random() < 0.6) for _ in range(100)]
    repeated = win_rate([outcome for outcome in by_prompt for _ in range(10)], samples=10)
    once = win_rate(by_prompt)
    assert repeated.interval == once.interval and repeated.prompts == 100
    assert repeated.wins == 10 * once.wins and repeated.rate == pytest.approx(once.rate)


def test_outcomes_and_lengths_by_hand() -> None:
    assert outcomes_of_scores([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == [0.0, 0.5, 1.0]
    # Longer won in 0 and 1, lost in 2; 3 is a tie, and in 4 the lengths are equal.
    assert longer_wins([1.0, 0.0, 1.0, 0.5, 1.0], [9, 3, 3, 9, 5], [5, 8, 8, 3, 5]) == Share(2, 3)
    assert longer_wins([0.5], [3], [9]) is None
    with pytest.raises(UserError, match="no comparison"):
        win_rate([])


# --- judges ----------------------------------------------------------------------------------------------------------


def test_the_better_score_wins_and_equal_answers_tie_whatever_rounding_says() -> None:
    noise = iter(range(100))

    def score(prompts: Sequence[Any], given: Sequence[Answer]) -> list[float]:
        return [len(answer.text) + 1e-9 * next(noise) for answer in given]

    judgement = scoring_judge(score)(PROMPTS[:3], answers("long", "same", "a"), answers("no", "same", "bb"))
    assert judgement.outcomes == [1.0, 0.5, 0.0] and judgement.undecided == 0
    assert judgement.scores is not None and judgement.scores[1] == pytest.approx([2, 4, 2])


def test_a_judge_that_prefers_a_place_is_found_out() -> None:
    """It takes the first where neither answer is rude: asked in both orders, these are ties and position bias."""
    asked = []

    def compare(prompt: str, first: str, second: str) -> float:
        asked.append((prompt, first, second))
        return 0.0 if "rude" in first else 1.0

    judge = comparing_judge(compare)
    judgement = judge(PROMPTS, answers("a", "b", "rude", "same"), answers("c", "rude", "d", "same"))
    assert judgement.outcomes == [0.5, 1.0, 0.0, 0.5]
    assert judgement.undecided == 1 and judgement.scores is None
    assert asked[:2] == [("Question 0?", "a", "c"), ("Question 0?", "c", "a")] and len(asked) == 6


def test_a_comparing_judge_may_say_tie() -> None:
    judgement = comparing_judge(lambda *_: 0.5)(PROMPTS[:1], answers("a"), answers("b"))
    assert judgement.outcomes == [0.5] and judgement.undecided == 0
    # A win in one order and a tie in the other is a contradiction too.
    half = comparing_judge(lambda _, first, __: 1.0 if first == "a" else 0.5)(PROMPTS[:1], answers("a"), answers("b"))
    assert half.outcomes == [0.5] and half.undecided == 1


ROW = {"task": "animal_fact", "key": "cow", "output": "The cow eats grass."}


def test_the_gold_judge_scores_each_sample_by_its_own_row() -> None:
    rows = [ROW, {**ROW, "output": "The owl eats mice."}]
    judge = gold_judge(rows, "row {}".format)
    prompts = [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]]
    first = [
        *answers("The cow eats grass.", "Sure! The cow eats grass.", "The owl eats mice."),
        Answer("The owl", False),
    ]
    judgement = judge(prompts, first, answers(*["The cow eats grass."] * 4))
    assert judgement.scores == ([1.0, 1.5, 1.0, -0.5], [1.0, 1.0, 0.0, 0.0])  # the numbers of gold_score's own table
    assert judgement.outcomes == [0.5, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("missing", ["task", "key", "output"])
def test_rows_without_an_answer_key_are_refused_by_the_gold_judge(missing: str) -> None:
    row = {name: value for name, value in ROW.items() if name != missing}
    with pytest.raises(UserError, match=rf"row 1: the gold judge needs .*and {missing} is missing: use tiny-"):
        gold_judge([ROW, row], "row {}".format)


# --- functions of users ----------------------------------------------------------------------------------------------


@pytest.fixture
def judge_file(tmp_path: Path) -> Path:
    file = tmp_path / "my_judge.py"
    file.write_text(
        "from dataclasses import dataclass\n"
        "import numpy\n"
        "@dataclass\n"
        "class Rule:\n"
        "    weight: int = 2\n"
        "def score(prompt, response, weight=Rule().weight):\n"
        "    return numpy.float32(weight * len(response) + len(prompt))\n"
        "def compare(prompt, first, second):\n"
        "    return len(first) > len(second)\n"
        "def text(prompt, response):\n"
        "    return '7'\n"
        "def nothing(prompt, response):\n"
        "    pass\n"
        "def nan(prompt, response):\n"
        "    return float('nan')\n"
        "def unsure(prompt, first, second):\n"
        "    return 0.7\n"
        "def deep(prompt, response):\n"
        "    return helper({})\n"
        "def helper(table):\n"
        "    return table[\n"
        "        'missing']\n"
        "def leaves(prompt, response):\n"
        "    raise SystemExit(3)\n"
        "def alone(prompt):\n"
        "    return 1\n"
        "number = 5\n"
    )
    return file


def test_a_function_that_scores_and_one_that_compares(judge_file: Path) -> None:
    given = (PROMPTS[:2], answers("aaa", "b"), answers("a", "bb"))
    judgement = function_judge(f"{judge_file}:score")(*given)
    assert judgement.scores == ([6 + 11, 2 + 11], [2 + 11, 4 + 11]) and judgement.outcomes == [1.0, 0.0]
    assert function_judge(f"{judge_file}:compare")(*given).outcomes == [1.0, 0.0]


def test_a_prompt_of_several_turns_is_told_line_by_line() -> None:
    turns = [("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    assert judges.as_text([{"role": role, "content": content} for role, content in turns]) == (
        "user: Hi\nassistant: Hello\nuser: Bye"
    )


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("my_judge.py", UsageError, "names no function: write .*my_judge.py:function"),
        ("other.py:score", UsageError, "no such file"),
        ("my_judge.py:scroe", UsageError, "no function scroe in"),
        ("my_judge.py:number", UsageError, "no function number in"),
        ("my_judge.py:alone", UsageError, "takes 1 argument, expected .*score.*1, 0 or 0.5"),
        ("notes.txt:score", UsageError, "no Python file"),
        ("broken.py:score", UserError, r"broken\.py:2: SyntaxError: "),
        ("fails.py:score", UserError, r"fails\.py:3: ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_a_judge_that_cannot_be_had_is_one_line(
    name: str, error: type[UserError], words: str, judge_file: Path
) -> None:
    (judge_file.parent / "notes.txt").write_text("score")
    (judge_file.parent / "broken.py").write_text("x = 1\ndef score(:\n")
    (judge_file.parent / "fails.py").write_text("\n\nimport no_such_module\n")
    with pytest.raises(error, match=words) as raised:
        function_judge(str(judge_file.parent / name))
    assert "\n" not in str(raised.value) and type(raised.value) is error


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("text", "returned '7', expected a finite number"),
        ("nothing", "returned None, expected a finite number"),
        ("nan", "returned nan, expected a finite number"),
        ("unsure", r"returned 0\.7, expected 1 \(first is better\), 0 \(second\) or 0\.5"),
        ("deep", r"failed at .*my_judge\.py:21: KeyError: 'missing'"),
        ("leaves", r"failed at .*my_judge\.py:24: SystemExit: 3"),
    ],
)
def test_a_judge_that_fails_or_says_something_else_is_one_line(function: str, words: str, judge_file: Path) -> None:
    judge = function_judge(f"{judge_file}:{function}")
    with pytest.raises(UserError, match=words) as raised:
        judge(PROMPTS[:1], answers("a"), answers("b"))
    assert "\n" not in str(raised.value) and re.match("--judge ", str(raised.value))
