"""Diversity by hand, accuracy and its interval, and the reports over a model."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from auto_bot_tuner.evaluation import (
    GenerationConfig,
    compare_model_outputs,
    compute_diversity_metrics,
    evaluate_generation_quality,
)
from auto_bot_tuner.evaluation.accuracy import Share, evaluate_accuracy, pass_at
from auto_bot_tuner.evaluation.generation import generate_response
from auto_bot_tuner.evaluation.reference import exact_match, question_and_answer
from auto_bot_tuner.utils.errors import UserError
from tests.models import tiny_model

SHORT = GenerationConfig(max_new_tokens=6)


def test_diversity_by_hand() -> None:
    """Words: a b a b | a b c. Pairs: ab ba ab | ab bc, 3 different of 5. Triples: aba bab | abc, 3 of 3."""
    metrics = compute_diversity_metrics(["a b a b", "a b c"])
    assert metrics["distinct_1"] == pytest.approx(3 / 7)
    assert metrics["distinct_2"] == pytest.approx(3 / 5)
    assert metrics["distinct_3"] == 1
    assert metrics["mean_words"] == 3.5
    assert metrics["unique"] == 1
    assert metrics["repetition"] == 0  # the one 4-gram


def test_loops_and_stock_phrases_are_told_apart() -> None:
    loop = compute_diversity_metrics(["the the the the the the the"])  # four 4-grams, one different
    assert loop["repetition"] == pytest.approx(3 / 4)
    assert loop["self_repetition"] == 0
    # 4-grams of the first: iatl atlo tlom; of the second: iatl atlm. Shared: one of three, one of two.
    stock = compute_diversity_metrics(["I am the law of men", "I am the law makers"])
    assert stock["repetition"] == 0
    assert stock["self_repetition"] == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_empty_and_equal_texts() -> None:
    metrics = compute_diversity_metrics(["", "", "yes"])
    assert metrics["unique"] == pytest.approx(2 / 3)
    assert metrics["empty"] == pytest.approx(2 / 3)
    assert "distinct_2" not in metrics and "repetition" not in metrics
    with pytest.raises(UserError, match="no texts"):
        compute_diversity_metrics([])


def test_quality_report_describes_what_the_model_wrote(gpt2_tokenizer: Any) -> None:
    model = tiny_model("gpt2")
    prompts = ["Hello", [{"role": "user", "content": "Name a colour."}]]
    report = evaluate_generation_quality(model, gpt2_tokenizer, prompts, SHORT)
    assert report.prompts == ["Hello", "Name a colour."]
    assert report.responses[0].text == generate_response(model, gpt2_tokenizer, "Hello", SHORT)
    logprobs = [value for response in report.responses for value in response.logprobs]
    assert report.metrics["mean_logprob"] == pytest.approx(math.fsum(logprobs) / len(logprobs))
    assert report.metrics["mean_tokens"] == 6
    assert report.metrics["ended"] == 0
    with pytest.raises(UserError, match="no prompts"):
        evaluate_generation_quality(model, gpt2_tokenizer, [], SHORT)


def test_models_are_compared_on_the_same_prompts(gpt2_tokenizer: Any) -> None:
    models = {"a": (tiny_model("gpt2", seed=0), gpt2_tokenizer), "b": (tiny_model("gpt2", seed=1), gpt2_tokenizer)}
    reports = compare_model_outputs(models, ["Hello"], SHORT)
    assert reports["a"].prompts == reports["b"].prompts == ["Hello"]
    assert reports["b"].responses[0].text == generate_response(*models["b"], "Hello", SHORT)
    assert reports["a"].responses[0].text != reports["b"].responses[0].text


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_of_the_literature(k: int, n: int, low: float, high: float) -> None:
    assert Share(k, n).interval == pytest.approx((low, high), abs=5e-5)


def test_accuracy_counts_right_answers_by_task(gpt2_tokenizer: Any) -> None:
    model = tiny_model("gpt2")
    right = generate_response(model, gpt2_tokenizer, "Hello", SHORT)
    rows = [
        {"instruction": "Hello", "output": f" {right.upper()}.\n", "task": "greet"},
        {"instruction": "Hello", "output": "something else", "task": "greet"},
        {"prompt": "Name a colour.", "answer": "red"},
    ]
    report = evaluate_accuracy(model, gpt2_tokenizer, rows, config=SHORT)
    assert report.correct == [True, False, False]
    assert report.overall == Share(1, 3)
    assert report.by_task == {"all": Share(0, 1), "greet": Share(1, 2)}
    assert report.ended == Share(0, 3)
    by_first_letter = evaluate_accuracy(model, gpt2_tokenizer, rows, lambda row, response: "task" in row, SHORT)
    assert by_first_letter.correct == [True, True, False]
    with pytest.raises(UserError, match="no rows"):
        evaluate_accuracy(model, gpt2_tokenizer, [])


def test_question_and_answer_of_every_format() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    more = [*turns, {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]
    assert question_and_answer({"messages": more}, "row 0") == (more[:3], "d")
    for row in (
        {"question": "a", "answer": "b"},
        {"prompt": "a", "answer": "b"},
        {"prompt": "a", "completion": "b"},
        {"instruction": "a", "input": "", "output": "b"},
    ):
        assert question_and_answer(row, "row 0") == (turns[:1], "b")
    for row in ({"text": "a"}, {"messages": more[:3]}):
        with pytest.raises(UserError, match="row 7: expected a question with an answer"):
            question_and_answer(row, "row 7")


@pytest.mark.parametrize("response", ["Paris", "paris.", "  Paris \n", '"Paris"'])
def test_exact_match_forgives_form_only(response: str) -> None:
    assert exact_match({"question": "?", "answer": "Paris."}, response)
    assert not exact_match({"question": "?", "answer": "Paris."}, response + " it is")


@pytest.mark.parametrize(
    ("answer", "response", "same"),
    [
        ("5", "-5", False),
        ("-5", "-5.", True),
        ("-5", "\u22125", True),  # the typographic minus
        ("42", "42.0", True),
        ("1234", "1,234", True),
        ("5", "5 apples", False),
        ("48 / 2 = 24\n#### 24", "24", True),
    ],
)
def test_exact_match_takes_numbers_as_numbers(answer: str, response: str, same: bool) -> None:
    """A minus is no punctuation at the end: 5 and -5 are not equal."""
    assert exact_match({"question": "?", "answer": answer}, response) == same


def test_pass_at_k_is_the_share_of_choices_with_a_right_one() -> None:
    for n, c in ((5, 2), (4, 0), (3, 3), (6, 1)):
        for k in range(1, n + 1):
            choices = list(itertools.combinations(range(n), k))
            by_counting = sum(any(i < c for i in choice) for choice in choices) / len(choices)
            assert pass_at(k, n, c) == pytest.approx(by_counting)


def test_several_answers_to_a_question_count_as_one_question(gpt2_tokenizer: Any) -> None:
    """Two questions, four sampled answers each; the scorer calls two of the first right and none of the second."""
    model, seen = tiny_model("gpt2"), list[str]()
    rows = [{"prompt": "Hello", "answer": "x", "task": "a"}, {"prompt": "Why?", "answer": "x", "task": "b"}]

    def first_two(row: Any, response: str) -> bool:
        seen.append(response)
        return row["task"] == "a" and len(seen) <= 2

    warm = GenerationConfig(max_new_tokens=6, temperature=1.0)
    report = evaluate_accuracy(model, gpt2_tokenizer, rows, first_two, warm, samples=4)
    assert len(set(seen)) == 8 and report.prompts == ["Hello"] * 4 + ["Why?"] * 4
    assert report.overall == Share(0.5, 2) and report.by_task == {"a": Share(0.5, 1), "b": Share(0, 1)}
    assert {k: share.value for k, share in report.pass_at.items()} == pytest.approx(
        {1: 1 / 4, 2: (1 - 1 / 6) / 2, 4: 1 / 2}  # of the six pairs of the first question one has no right answer
    )
    with pytest.raises(UserError, match="temperature above 0"):
        evaluate_accuracy(model, gpt2_tokenizer, rows, config=SHORT, samples=2)
