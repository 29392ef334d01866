"""`evaluate reward`, `winrate` and `compare` as people run them: what they print, what they write, what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import main
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.rlhf import create_reward_model_from_pretrained, load_reward_model, score_responses
from tests.evaluations import evaluate, write_rows
from tests.models import save_tiny_model

ANSWER = {"task": "animal_fact", "key": "cow", "output": "The cow eats grass."}
ROWS = [
    {"prompt": f"Question {i}?", "chosen": f"Yes, {i} it is.", "rejected": f"No {i}", "category": kind, **ANSWER}
    for i, kind in enumerate(["rude", "wrong", "wrong"] * 4)
]
SHORT = "--max-new-tokens 4 --max-samples 5"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two language models and a reward model, made once."""
    base = tmp_path_factory.mktemp("models")
    save_tiny_model(base / "a", "gpt2", seed=0)
    save_tiny_model(base / "b", "gpt2", seed=1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base / "a")
    tokenizer.pad_token = tokenizer.eos_token
    create_reward_model_from_pretrained(base / "a", tokenizer).save_pretrained(base / "rm", tokenizer)
    return base


@pytest.fixture
def desk(tmp_path: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's working directory: models, a reward model, preference rows, a judge."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "rm"):
        (tmp_path / name).symlink_to(folders / name)
    write_rows("rows.jsonl", ROWS)
    Path("judge.py").write_text(
        "def shorter(prompt, response):\n    return -len(response)\ndef place(prompt, first, second):\n    return 1\n"
    )
    return tmp_path


def fail(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """(exit code, the one line) of a command that must fail."""
    code = main.main(f"evaluate {command}".split())
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and "unexpected" not in message, message
    return code, message


# --- reward ----------------------------------------------------------------------------------------------------------


def test_the_card_tells_what_the_scores_say(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Accuracy and categories from the scores of `score_responses`, counted here."""
    numbers, out = evaluate("reward --model rm --dataset rows.jsonl --plot out/card.png", capsys)
    reward_model, tokenizer, _ = load_reward_model("rm")
    prompts = [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
    chosen, rejected = (
        score_responses(reward_model, tokenizer, prompts, [row[side] for row in ROWS])
        for side in ("chosen", "rejected")
    )
    right = [better > worse for better, worse in zip(chosen, rejected, strict=True)]
    assert numbers["pairs"] == 12 and numbers["accuracy"]["share"] == sum(right) / 12
    assert numbers["accuracy"]["interval_95"] == pytest.approx(list(Share(sum(right), 12).interval))
    assert numbers["by_category"]["rude"]["share"] == sum(right[::3]) / 4
    assert numbers["baselines"]["prefer the longer"]["share"] == 1 and numbers["verdicts"]
    assert "a bag of words" not in numbers["baselines"]  # a single file: there are no other rows to fit it on
    assert set(numbers["probes"]) >= {"cut off half way", "said twice"}
    for words in ("all pairs", "category wrong", "calibration error", "Verdict", "rows.jsonl, train"):
        assert words in out
    assert Path("out/card.png").read_bytes().startswith(b"\x89PNG")


def test_the_bag_of_words_is_fitted_on_other_rows(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "reward --model rm --dataset rows.jsonl --split train[8:] --train-split train[:8] --probes 0"
    numbers, out = evaluate(command, capsys)
    assert numbers["pairs"] == 4 and numbers["probes"] == {} and "spoilt" not in out
    assert numbers["baselines"]["a bag of words"] == {
        "share": 1.0,  # "yes" and "no" give it away
        "n": 4,
        "fitted_on": 8,
        "interval_95": list(Share(4, 4).interval),
    }


def test_the_bag_of_words_takes_the_training_split_and_never_what_is_measured(desk: Path) -> None:
    from commands.evaluate.reward import RewardArguments, training_rows

    assert len(training_rows(RewardArguments(model="rm"))) == 9000  # of tiny-preferences, whose test split is measured
    assert training_rows(RewardArguments(model="rm", split="train[:50]")) is None
    assert training_rows(RewardArguments(model="rm", dataset="rows.jsonl")) is None


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("reward --model a --dataset rows.jsonl", 1, ("no reward head", "train-reward")),
        ("reward --model rm --dataset good.jsonl", 1, ("good.jsonl line 1", "no partner")),
        ("reward --model rm --dataset alpaca.jsonl", 1, ("alpaca.jsonl line 1", "chosen + rejected")),
        ("reward --model rm --dataset same.jsonl", 1, ("no pair to measure", "2 identical")),
        ("reward --model rm --dataset nowhere.jsonl", 1, ("no such file",)),
        ("reward --model rm --plot card.txt", 2, ("--plot card.txt", ".png")),
        ("reward --model rm --plot rows.jsonl/card.png", 2, ("cannot write --plot",)),
        ("reward --model rm --dataset rows.jsonl --json rows.jsonl/x", 2, ("cannot write --json",)),
        ("reward --model rm --dataset rows.jsonl --train-dataset alpaca.jsonl", 1, ("alpaca.jsonl line 1",)),
    ],
)
def test_what_reward_refuses(
    command: str, code: int, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("good.jsonl", [{"prompt": "a", "completion": "b", "label": True}])
    write_rows("alpaca.jsonl", [{"instruction": "a", "output": "b"}])
    write_rows("same.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "b"}] * 2)
    assert (got := fail(command, capsys))[0] == code
    for word in words:
        assert word in got[1]


# --- winrate ---------------------------------------------------------------------------------------------------------


def test_a_function_of_the_users_judges(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The outcomes are those of the answers in the record, by the rule written down here."""
    command = f"winrate --model a --against b --dataset rows.jsonl --judge judge.py:shorter --temperature 1 {SHORT}"
    numbers, out = evaluate(f"{command} --samples 2 --show 1", capsys)
    samples = numbers["samples"]
    assert len(samples) == 10 and numbers["prompts"] == 5 and samples[0]["prompt"] == samples[1]["prompt"]
    assert samples[0]["responses"] != samples[1]["responses"]
    for sample in samples:
        first, second = map(len, sample["responses"])
        assert sample["outcome"] == (1 if first < second else 0 if first > second else 0.5)
    assert numbers["win_rate"] == pytest.approx(sum(sample["outcome"] for sample in samples) / 10)
    assert numbers["wins"] + numbers["ties"] + numbers["losses"] == 10 and numbers["position_bias"] == 0
    assert numbers["significant"] or "not significant" in out
    assert "5 prompts x 2 samples; judge: judge.py:shorter" in out and "mean score" in out and out.count("> ") == 1


def test_a_judge_that_prefers_a_place_is_reported(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, out = evaluate(
        f"winrate --model a --against b --dataset rows.jsonl --judge judge.py:place {SHORT}", capsys
    )
    assert numbers["win_rate"] == 0.5 and numbers["ties"] == 5 and numbers["position_bias"] == 1
    assert "position bias" in out and "100%" in out and "not significant" in out and "mean_score" not in numbers


def test_gold_and_a_reward_model_judge(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, _ = evaluate(f"winrate --model a --against b --dataset rows.jsonl --show 0 {SHORT}", capsys)
    assert numbers["judge"] == "gold" and numbers["mean_score"] == [-0.5, -0.5]  # wrong, and cut off
    assert numbers["win_rate"] == 0.5 and not numbers["significant"]

    numbers, _ = evaluate(f"winrate --model a --against b --judge rm --dataset rows.jsonl --show 0 {SHORT}", capsys)
    reward_model, tokenizer, _ = load_reward_model("rm")
    prompts = [[{"role": "user", "content": sample["prompt"]}] for sample in numbers["samples"]]
    for side in (0, 1):
        texts = [sample["responses"][side] for sample in numbers["samples"]]
        scores = score_responses(reward_model, tokenizer, prompts, texts, ended=[False] * 5)
        assert numbers["mean_score"][side] == pytest.approx(sum(scores) / 5, abs=1e-5)


def test_a_model_against_itself_is_all_ties(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, out = evaluate(f"winrate --model a --against a --judge rm --dataset rows.jsonl {SHORT}", capsys)
    assert (numbers["ties"], numbers["win_rate"]) == (5, 0.5) and "not significant" in out
    assert numbers["longer_wins"] is None


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("--judge b", 1, ("--judge b", "no reward head", "train-reward")),
        ("--judge nowhere/at/all", 1, ("--judge nowhere/at/all is neither gold nor file.py:function",)),
        ("--judge judge.py", 2, ("names no function",)),
        ("--judge missing.py:score", 2, ("no such file", "missing.py")),
        ("--judge judge.py:longer", 2, ("no function longer",)),
        ("--judge words.py:score", 1, ("returned 'good'", "finite number")),
        ("--dataset bare.jsonl", 1, ("bare.jsonl line 1", "gold judge", "task, key, output is missing")),
        ("--dataset nothing.jsonl", 1, ("nothing.jsonl line 1", "columns of a known format")),
        ("--samples 3", 2, ("--samples 3", "--temperature")),
        ("--against nowhere/at/all", 1, ("nowhere/at/all",)),
    ],
)
def test_what_winrate_refuses(
    command: str, code: int, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("bare.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    write_rows("nothing.jsonl", [{"number": 1}])
    Path("words.py").write_text("def score(prompt, response):\n    return 'good'\n")
    given = f"winrate --model a --against b --dataset rows.jsonl {SHORT}"
    assert (got := fail(f"{given} {command}", capsys))[0] == code
    for word in words:
        assert word in got[1]


# --- compare ---------------------------------------------------------------------------------------------------------


def test_answers_side_by_side(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from auto_bot_tuner.evaluation import GenerationConfig, generate_response
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    numbers, out = evaluate("compare --model a --against b --prompt Hello --prompt Why? --max-new-tokens 4", capsys)
    assert numbers["models"] == {"A": "a", "B": "b"}
    assert [sample["prompt"] for sample in numbers["samples"]] == ["Hello", "Why?"]
    for letter, name in numbers["models"].items():
        model, tokenizer, _ = load_model_and_tokenizer(name, frozen=True)
        expected = generate_response(model, tokenizer, "Why?", GenerationConfig(max_new_tokens=4))
        assert numbers["samples"][1]["responses"][letter] == expected
        assert numbers["metrics"][letter]["mean_tokens"] == 4
    assert "> Hello" in out and "(cut off)" in out and "tokens each" in out


def test_many_models_stand_below_each_other_and_rows_give_prompts(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy("rows.jsonl", "more.jsonl")
    command = "compare --model a --against b --against a --against b --dataset more.jsonl --max-samples 1"
    numbers, out = evaluate(f"{command} --max-new-tokens 3", capsys)
    assert list(numbers["models"]) == ["A", "B", "C", "D"] and len(numbers["samples"]) == 1
    for letter in "ABCD":
        assert f"\n{letter}: " in f"\n{out}"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("compare --model a --prompt Hello", 2, ("--models", "--against")),
        ("compare --models a", 2, ("two models",)),
        ("compare --models a b --prompt Hello --dataset rows.jsonl", 2, ("--dataset NAME or --prompt TEXT",)),
        ("compare --model a --against nowhere/at/all --prompt Hello", 1, ("nowhere/at/all",)),
        (f"compare --model a {'--against b ' * 30} --prompt Hello", 2, ("31 models",)),
    ],
)
def test_what_compare_refuses(
    command: str, code: int, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (got := fail(command, capsys))[0] == code
    for word in words:
        assert word in got[1]
