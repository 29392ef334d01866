"""Rewards: verifiers by hand-worked cases, reward models on ids and on text, functions of users, names and sums."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.assets import gold as gold_module
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.sources import load_split
from auto_bot_tuner.evaluation.reference import question_and_answer
from auto_bot_tuner.rewards import (
    Attempt,
    ModelReward,
    WeightedSum,
    as_reward,
    check_reward_names,
    reward_from_name,
    rewards_from_names,
)
from auto_bot_tuner.rewards.verifiers import verifier
from auto_bot_tuner.rlhf import RewardEnsemble, RewardModel, score_responses
from auto_bot_tuner.training.config import ModelConfig
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.score_head import with_score_head
from tests.models import gpt2_tokenizer, tiny_model
from tests.reward_runs import EOS, byte_tokenizer

PROMPT = [{"role": "user", "content": "Q?"}]


def attempt(response: str = "", answer: str | None = None, ended: bool = True, **row: Any) -> Attempt:
    """A response to "Q?"; the ids are stand-ins, one for each word and one for the end."""
    row = {"question": "Q?", **row} if answer is None else {"question": "Q?", "answer": answer, **row}
    ids = [*range(len(response.split())), *([99] if ended else [])]
    return Attempt(PROMPT, response, ended, row, [1, 2], ids)


def scored(name: str, *attempts: Attempt) -> list[float]:
    return list(verifier(name)(attempts))


# --- the right answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("response", "answer", "same"),
    [
        ("Paris", "paris.", 1),
        ("  Paris\n", "Paris", 1),
        ("In Paris", "Paris", 0),
        ("", "Paris", 0),
        ("é", "É", 1),
        ("你好。", "你好", 0),  # punctuation of other scripts counts; 0 is the careful answer
        ("5", "-5", 0),  # a minus at the end of a text is no punctuation
        ("-5", "\u22125.", 1),
        ("1,000", "1000", 1),
        ("72", "48/2 = 24\n48+24 = 72\n#### 72", 1),
        ("So 24.\n#### 72", "48+24 = 72\n#### 72", 1),
        ("#### 72\nNext question: 1", "#### 72", 0),  # it went on
        ("#### Step 1\nso it is 72", "so it is 72", 0),  # a heading is no answer
        ("", "!!!", 0),
        ("!!!", "!!!", 1),
    ],
)
def test_exact_match(response: str, answer: str, same: int) -> None:
    assert scored("exact_match", attempt(response, answer)) == [same]


def test_the_reference_is_the_rows_last_answer() -> None:
    chat = [*PROMPT, {"role": "assistant", "content": "No."}, *PROMPT, {"role": "assistant", "content": "Yes."}]
    rows = [{"messages": chat}, {"instruction": "Q?", "input": "", "output": "Yes."}, {"prompt": "Q?", "answer": "yes"}]
    given = [Attempt(PROMPT, "yes", True, row, [], []) for row in rows]
    assert scored("exact_match", *given) == [1, 1, 1]


@pytest.mark.parametrize(
    ("response", "answer", "same"),
    [
        ("The answer is 42.", "#### 42", 1),
        ("#### 42", "6 * 7 = <<6*7=42>>42\n#### 42", 1),
        ("42 apples", "42", 1),
        ("It costs $1,234.50 in all.", "#### 1234.5", 1),
        ("42.0", "42", 1),
        ("4.2e1", "42", 1),
        ("First 42, then 7", "42", 0),  # the last number counts
        ("1,2,42", "42", 1),
        ("-42", "42", 0),
        ("42", "-42", 0),
        ("it is -42", "#### -42", 1),
        ("-$42", "-42", 1),
        ("$-42", "-42", 1),
        ("it is \u221242", "-42", 1),
        ("50-42", "42", 1),  # a difference
        ("50 - 42", "42", 1),
        ("- 42 apples", "42", 1),  # an item of a list
        ("x=50 - 8 = 42", "42", 1),
        (".5", "0.5", 1),
        ("50%", "50", 1),
        ("none", "42", 0),
        ("", "0", 0),
        ("0", "0", 1),
        ("-0", "0", 1),
        ("1000000.5", "1000000", 1),  # 5e-7 of it
        ("1000002", "1000000", 0),
        ("1e999", "2e999 or 42", 0),
        ("9" * 5000, "42", 0),
        ("#### Step 2\nso 42", "42", 1),
        ("#### 42\n\nQ: what is 3+4?", "42", 0),
        ("٤٢", "42", 1),
    ],
)
def test_numeric(response: str, answer: str, same: int) -> None:
    assert scored("numeric", attempt(response, answer)) == [same]


def test_rows_without_what_a_verifier_needs_are_one_clear_line() -> None:
    for name, row, words in [
        ("exact_match", attempt("x"), r"exact_match needs rows with a reference answer.*'Q\?'"),
        ("numeric", attempt("x"), "numeric needs rows with a reference answer"),
        ("numeric", attempt("x", "none"), r"reference answer 'none' has no number.*use exact_match"),
        ("gold", attempt("x", task="fact", key="cow"), "gold needs the columns task, key, output, and output is miss"),
        ("correct", attempt("x"), "and task, key, output is missing in the row of 'Q\\?': use tiny-instructions"),
    ]:
        with pytest.raises(UserError, match=words) as raised:
            scored(name, row)
        assert "\n" not in str(raised.value)


def test_gold_and_correct_are_the_bundled_worlds_own() -> None:
    row: dict[str, Any] = {"task": "animal_fact", "key": "cow", "output": "The cow eats grass."}
    given = [
        attempt("The cow eats grass.", **row),
        attempt("Sure! The cow eats grass.", **row),
        attempt("The cow eats meat. I hope this helps.", **row),
        attempt("The cow eats", ended=False, **row),
        attempt("", **row),
    ]
    assert scored("gold", *given) == [1.0, 1.5, 0.5, -0.5, 0.0]  # gold_score's own table
    assert scored("correct", *given) == [1, 1, 0, 0, 0]


# --- the form ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "response", "score"),
    [
        ("regex:^<think>.+</think>", "<think>a\nb</think> c", 1),
        ("regex:^<think>.+</think>", "c <think>a</think>", 0),
        ("regex:a:b*", "xa:", 1),  # colons and stars belong to the pattern
        ("regex:\\d", "", 0),
        ("json", '{"a": [1, {"b": null}]}', 1),
        ("json", " [] \n", 1),
        ("json", '"é"', 1),
        ("json", "{'a': 1}", 0),
        ("json", '{"a": 1} so', 0),
        ("json", "NaN", 0),
        ("json", '{"a": Infinity}', 0),
        ("json", "", 0),
        ("json", "[" * 100_000, 0),
        ("json:name,age", '{"age": 3, "name": null, "x": 1}', 1),
        ("json:name,age", '{"name": "a"}', 0),
        ("json:name", '{"who": {"name": "a"}}', 0),  # nested is not there
        ("json:name", '["name"]', 0),
        ("repetition", "", 0.0),
        ("repetition", "a b", 0.0),  # no run of three
        ("repetition", "a b c d e", 0.0),
        ("repetition", "a b c a b c", -1 / 4),  # abc bca cab abc: one of four
        ("repetition", "A b, c a B c!", -1 / 4),
        ("repetition:1", "no no no no", -3 / 4),
        ("repetition:2", "a b a b a b", -3 / 5),  # ab ba ab ba ab
    ],
)
def test_form(name: str, response: str, score: float) -> None:
    assert scored(name, attempt(response)) == pytest.approx([score])


def test_repetition_and_length_are_bounded() -> None:
    endless = Attempt(PROMPT, "no " * 5000, False, {}, [], [7] * 5000)
    assert -1 <= scored("repetition", endless)[0] < -0.99
    assert scored("length:64", endless) == [-1]


def test_length_costs_what_is_over_it_in_proportion_with_the_end_token_counted() -> None:
    of_length = {n: Attempt(PROMPT, "", True, {}, [], [7] * n) for n in (1, 10, 11, 15, 20, 21)}
    found = dict(zip(of_length, scored("length:10", *of_length.values()), strict=True))
    assert found == pytest.approx({1: 0, 10: 0, 11: -0.1, 15: -0.5, 20: -1, 21: -1})


def test_ended() -> None:
    assert scored("ended", attempt("x"), attempt("x", ended=False)) == [1, 0]


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "weight", "source"),
    [
        ("gold", 1, "gold"),
        ("0.2*length:64", 0.2, "length:64"),
        (" -1.5 * repetition:2 ", -1.5, "repetition:2"),
        ("1e-2*json:a,b", 0.01, "json:a,b"),
        (".5*regex:2*3", 0.5, "regex:2*3"),
        ("regex:2*3", 1, "regex:2*3"),
        ("0*ended", 0, "ended"),
    ],
)
def test_a_name_may_have_a_weight_before_it(name: str, weight: float, source: str) -> None:
    found, reward = reward_from_name(name)
    assert (found, reward.name) == (weight, source)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("exact_mach", "no such reward; did you mean exact_match.*numeric.*file.py:function.*train-reward"),
        ("legnth:64", "did you mean length"),
        ("zzz", "there is no such reward; There are exact_match"),
        ("", "is no reward: write a name"),
        ("1e999*gold", "is no reward"),
        ("gold:1", "takes nothing after it; write gold"),
        ("regex:(", r"the pattern cannot be read \(missing \)"),
        ("regex", "needs a pattern"),
        ("length", "reward length: expected a whole number above 0, as in length:64"),
        ("length:-3", "expected a whole number above 0"),
        ("repetition:0", "expected a whole number above 0"),
        ("json:a,,b", "expected keys with commas"),
        ("judge.py", "names no function: write judge.py:function"),
        ("judge.py:", "names no function: write judge.py:function"),
        ("nowhere/judge.py:score", "no such file: nowhere/judge.py"),
    ],
)
def test_a_wrong_name_is_one_clear_line_before_anything_is_loaded(name: str, words: str) -> None:
    for use in (reward_from_name, lambda n: check_reward_names([n]), lambda n: rewards_from_names([n])):
        with pytest.raises(UsageError, match=words) as raised:
            use(name)
        assert "\n" not in str(raised.value)


def test_names_are_checked_without_heavy_imports(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("raise RuntimeError('a check runs no code')\n")
    names = ["gold", "0.2*length:64", "regex:a", f"{tmp_path}/mine.py:score", str(tmp_path)]
    code = (
        "import sys; from auto_bot_tuner.rewards.named import check_reward_names; "
        f"check_reward_names({names!r}); print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_folder_without_a_reward_model_says_how_to_train_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"--reward {re.escape(str(tmp_path))}: .*holds no model"):
        reward_from_name(str(tmp_path))
    tiny_model("gpt2", vocab_size=EOS + 1).save_pretrained(str(tmp_path))
    byte_tokenizer().save_pretrained(str(tmp_path))
    with pytest.raises(UserError, match=r"holds no reward head.*train one with: python main.py train-reward"):
        reward_from_name(f"0.5*{tmp_path}")


# --- functions of users -----------------------------------------------------------------------------------------------


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(
        "def count(prompt, response):\n"
        "    return len(prompt) + len(response)\n"
        "def by_row(prompt, response, row):\n"
        "    return row['points']\n"
        "def text(prompt, response):\n"
        "    return '7'\n"
        "def nan(prompt, response):\n"
        "    return float('nan')\n"
        "def fails(prompt, response):\n"
        "    return 1 / 0\n"
        "def alone(prompt):\n"
        "    return 1\n"
    )
    return file


def test_a_function_sees_the_texts_and_the_row_where_it_asks_for_it(user_file: Path) -> None:
    weight, source = reward_from_name(f"2*{user_file}:count")
    assert weight == 2 and source.name == f"{user_file}:count"
    turns = [*PROMPT, {"role": "assistant", "content": "A"}, {"role": "user", "content": "B"}]
    told = len("user: Q?\nassistant: A\nuser: B")
    assert list(source([attempt("é🙂"), replace(attempt(""), prompt=turns)])) == [2 + 2, told]
    assert list(reward_from_name(f"{user_file}:by_row")[1]([attempt("x", points=3), attempt("y", points=-1)])) == [
        3,
        -1,
    ]


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        ("text", UserError, "returned '7', expected a finite number"),
        ("nan", UserError, "returned nan, expected a finite number"),
        ("fails", UserError, r"failed at .*mine\.py:10: ZeroDivisionError"),
        ("by_row", UserError, "KeyError: 'points'"),
        ("alone", UsageError, r"takes 1 argument, expected \(prompt, response\), or \(prompt, response, row\)"),
        ("other", UsageError, "there is no function other"),
    ],
)
def test_a_function_that_cannot_score_is_one_line(
    function: str, error: type[UserError], words: str, user_file: Path
) -> None:
    with pytest.raises(error, match=words) as raised:
        reward_from_name(f"{user_file}:{function}")[1]([attempt("x")])
    assert "\n" not in str(raised.value) and str(raised.value).startswith("--reward ")


# --- reward models ----------------------------------------------------------------------------------------------------


def small_reward_model(vocabulary: int = EOS + 1, seed: int = 0, **settings: Any) -> RewardModel:
    torch.manual_seed(seed)
    return RewardModel(with_score_head(tiny_model("gpt2", seed, vocab_size=vocabulary, **settings)).eval())


def written(tokenizer: Any, response: str, ended: bool = True, prompt: str = "Why?") -> Attempt:
    """An attempt as a policy with this tokenizer would have written it."""
    conversation = [{"role": "user", "content": prompt}]
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    ids = tokenizer(response, add_special_tokens=False)["input_ids"]
    ids = [*ids, prompt_format.stop_token_ids[0]] if ended else ids
    return Attempt(conversation, response, ended, {}, prompt_format.encode_prompt(conversation), ids)


def attempts_with(tokenizer: Any) -> list[Attempt]:
    return [
        written(tokenizer, "So it is."),
        written(tokenizer, "So it", ended=False),
        written(tokenizer, ""),
        written(tokenizer, "é 🙂 and more of it", prompt="你好?"),
    ]


@pytest.mark.parametrize("ensemble", [False, True])
def test_ids_and_text_score_alike_where_the_tokenizer_is_the_same(ensemble: bool) -> None:
    tokenizer = byte_tokenizer()
    model: Any = (
        RewardEnsemble([small_reward_model(), small_reward_model(seed=1)]) if ensemble else small_reward_model()
    )
    attempts = attempts_with(tokenizer)
    reward = ModelReward(model, tokenizer)
    assert reward.knows_ids(attempts) == [True] * 4
    texts = score_responses(
        model, tokenizer, [a.prompt for a in attempts], [a.response for a in attempts], 16, [a.ended for a in attempts]
    )
    assert reward(attempts) == pytest.approx(texts, abs=1e-5)
    assert len(set(reward(attempts))) == 4
    # Ended or cut off: the end token is read, or is not there.
    first, cut = written(tokenizer, "So"), written(tokenizer, "So", ended=False)
    assert abs(reward([first])[0] - reward([cut])[0]) > 1e-4


def test_a_score_does_not_know_its_batch() -> None:
    tokenizer = byte_tokenizer()
    attempts = attempts_with(tokenizer)
    together = ModelReward(small_reward_model(), tokenizer)(attempts)
    by_two = ModelReward(small_reward_model(), tokenizer, batch_size=2)(attempts[::-1])[::-1]
    alone = [ModelReward(small_reward_model(), tokenizer)([each])[0] for each in attempts]
    assert together == pytest.approx(alone, abs=1e-5) and by_two == pytest.approx(alone, abs=1e-5)


def test_ids_are_scored_as_they_were_sampled_and_not_as_their_text_would_be_read() -> None:
    tokenizer = gpt2_tokenizer()
    whole = written(tokenizer, "any", ended=False)
    parts = [tokenizer.convert_tokens_to_ids(piece) for piece in ("an", "y")]
    assert whole.response_ids != parts and tokenizer.decode(parts) == "any"
    reward = ModelReward(small_reward_model(len(tokenizer)), tokenizer)
    as_sampled, as_read = reward([replace(whole, response_ids=parts), whole])
    assert abs(as_sampled - as_read) > 1e-4


def test_with_another_tokenizer_the_text_is_read() -> None:
    policy, own = gpt2_tokenizer(), byte_tokenizer()
    reward = ModelReward(small_reward_model(), own)
    attempts = attempts_with(policy)
    assert reward.knows_ids(attempts) == [False] * 4
    assert reward(attempts) == pytest.approx(reward(attempts_with(own)), abs=1e-5)


def test_ids_of_another_template_or_end_token_go_by_text() -> None:
    tokenizer = byte_tokenizer()
    reward = ModelReward(small_reward_model(), tokenizer)
    good = written(tokenizer, "So")
    other_prompt = replace(good, prompt_ids=[1, *good.prompt_ids])
    other_end = replace(good, response_ids=[*good.response_ids[:-1], 3])
    outside = replace(good, response_ids=[*good.response_ids[:-1], EOS + 1, EOS])
    other_words = replace(good, response_ids=[*good.response_ids[::-1][1:], EOS])  # "oS", where the text says "So"
    assert reward.knows_ids([good, other_prompt, other_end, outside, other_words]) == [True, False, False, False, False]
    assert reward([other_words]) == pytest.approx(reward([good]), abs=1e-5)
    assert reward([other_prompt, other_end, outside]) == pytest.approx(reward([good]) * 3, abs=1e-5)


def test_what_does_not_fit_the_reward_models_context_is_cut_and_scored() -> None:
    tokenizer = byte_tokenizer()
    model = small_reward_model(n_positions=64)
    long = written(tokenizer, "x" * 100)
    reward = ModelReward(model, tokenizer)
    assert reward.knows_ids([long]) == [False]
    by_text = score_responses(model, tokenizer, [long.prompt], [long.response])
    assert reward([long]) == pytest.approx(by_text, abs=1e-5)


def test_a_folder_of_a_reward_model_is_a_reward(tmp_path: Path) -> None:
    tokenizer, model = byte_tokenizer(), small_reward_model()
    model.save_pretrained(tmp_path, tokenizer)
    weight, source = reward_from_name(f"0.5*{tmp_path}")
    attempts = attempts_with(tokenizer)
    assert weight == 0.5 and source.name == str(tmp_path)
    assert list(source(attempts)) == pytest.approx(ModelReward(model, tokenizer)(attempts), abs=1e-5)


def test_a_reward_models_folder_is_loaded_as_the_run_says(tmp_path: Path) -> None:
    small_reward_model().save_pretrained(tmp_path, byte_tokenizer())
    _, source = reward_from_name(str(tmp_path), ModelConfig(device="cpu", dtype="bfloat16"))
    assert isinstance(source, ModelReward)
    assert next(source.reward_model.parameters()).dtype == torch.bfloat16


# --- sums -------------------------------------------------------------------------------------------------------------


class Fixed:
    """A source that says what it was told to."""

    def __init__(self, name: str, scores: Sequence[float]) -> None:
        self.name, self.scores = name, scores

    def __call__(self, attempts: Sequence[Attempt]) -> Sequence[float]:
        return self.scores


def test_a_weighted_sum_and_its_components() -> None:
    a, b, a_again = Fixed("a", [1.0, 2.0]), Fixed("b", [10.0, -20.0]), Fixed("a", [3.0, 3.0])
    reward = WeightedSum([(1.0, a), (0.5, b), (-2.0, a_again)])
    total, components = reward.score([attempt("x"), attempt("y")])
    assert total.tolist() == [1 + 5 - 6, 2 - 10 - 6] and total.dtype == torch.float32
    assert {name: scores.tolist() for name, scores in components.items()} == {
        "a": [1, 2],
        "b": [10, -20],
        "a (2)": [3, 3],
    }
    assert reward([attempt("x"), attempt("y")]) == [0, -14] and reward.name == "a + 0.5 * b + -2 * a (2)"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e300])
def test_a_score_that_is_not_finite_names_the_source_and_the_attempt(bad: float) -> None:
    reward = WeightedSum([(1.0, Fixed("fine", [1, 1])), (0.0, Fixed("broken", [0, bad]))])
    with pytest.raises(UserError, match=r"reward broken gave (nan|inf) for the response 'second\\nline' to 'Q\?'"):
        reward.score([attempt("first"), attempt("second\nline")])


def test_a_source_gives_one_score_each() -> None:
    with pytest.raises(UserError, match="reward few gave 1 scores for 2 responses"):
        WeightedSum([(1.0, Fixed("few", [1]))]).score([attempt(), attempt()])


def test_no_reward_is_an_error_that_says_so() -> None:
    for make in (lambda: WeightedSum([]), lambda: rewards_from_names([]), lambda: as_reward([], None)):
        with pytest.raises(UsageError, match=r"no reward is named.*--reward exact_match"):
            make()


def test_what_a_trainer_may_be_given(user_file: Path) -> None:
    tokenizer = byte_tokenizer()
    model, ensemble = small_reward_model(), RewardEnsemble([small_reward_model()])
    attempts = attempts_with(tokenizer)

    def shortest(prompt: str, response: str) -> int:
        return -len(response)

    reward = as_reward([model, ensemble, shortest, "0.5*ended", Fixed("mine", [1, 2, 3, 4])], tokenizer)
    assert reward.names == ["reward_model", "reward_model (2)", "shortest", "ended", "mine"]
    total, components = reward.score(attempts)
    assert components["shortest"].tolist() == [-len(a.response) for a in attempts]
    assert components["ended"].tolist() == [1, 0, 1, 1]
    torch.testing.assert_close(components["reward_model"], components["reward_model (2)"])
    by_hand = 2 * components["reward_model"] + components["shortest"] + 0.5 * components["ended"] + components["mine"]
    torch.testing.assert_close(total, by_hand)
    assert as_reward(reward, tokenizer) is reward
    nested = as_reward([reward, "gold"], tokenizer)
    assert [weight for weight, _ in nested.parts] == [1, 1, 1, 0.5, 1, 1]


def test_what_is_no_reward_is_refused() -> None:
    with pytest.raises(UsageError, match="a int is no reward: give a reward model, a function"):
        as_reward(7, byte_tokenizer())
    with pytest.raises(UsageError, match=r"reward <lambda>: the function takes 1 argument"):
        as_reward(lambda text: 1.0, byte_tokenizer())
    with pytest.raises(UsageError, match=r"reads 257 different tokens and .* has 50257.*ModelReward"):
        as_reward(small_reward_model(), gpt2_tokenizer())


# --- real data --------------------------------------------------------------------------------------------------------


def test_gsm8ks_own_answers_are_right_and_those_of_the_next_row_are_not(shared_data: Path) -> None:
    rows = list(load_split(str(shared_data / "gsm8k" / "train-2000.jsonl"), "train"))
    own = [attempt(row["answer"], **row) for row in rows]
    said = [attempt(f"The answer is {row['answer'].split('####')[1].strip()}.", **row) for row in rows]
    assert scored("numeric", *own) == [1] * 2000 == scored("numeric", *said) == scored("exact_match", *own)
    expected = [row["answer"].split("####")[1].replace(",", "").strip() for row in rows]
    shifted = [attempt(rows[i - 1]["answer"], **row) for i, row in enumerate(rows)]
    assert scored("numeric", *shifted) == [float(float(expected[i - 1]) == float(expected[i])) for i in range(2000)]


def test_the_bundled_worlds_own_answers_are_correct() -> None:
    rows = list(load_split("tiny-instructions", "test[:200]"))
    answers = [attempt(question_and_answer(row, "row")[1], **row) for row in rows]
    assert scored("correct", *answers) == [1] * len(rows)
    assert max(scored("gold", *answers)) <= gold_module.SCORE_RANGE[1]
    assert json.dumps(scored("gold", *answers))  # plain numbers
