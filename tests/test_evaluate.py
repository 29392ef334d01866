"""`evaluate accuracy`, `perplexity`, `generation` and `compare` as people run them, on base models and adapters."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import main
from auto_bot_tuner.evaluation import GenerationConfig, compute_perplexity
from auto_bot_tuner.evaluation.generation import generate_response
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.rlhf import create_reward_model_from_pretrained
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from tests.evaluations import evaluate, write_rows
from tests.models import save_lora_checkpoint, save_tiny_model

SHORT = "--max-new-tokens 6"
HOSTILE = "\x1b[31mred\x1b[0m [bold]b[/bold]\r\x07"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model, a LoRA checkpoint on it, and a reward model."""
    base = tmp_path_factory.mktemp("models")
    save_tiny_model(base / "base", "gpt2", seed=3, initializer_range=0.3)
    tokenizer = save_lora_checkpoint(base / "base", base / "adapter")
    create_reward_model_from_pretrained(base / "base", tokenizer).save_pretrained(base / "rm", tokenizer)
    return base


@pytest.fixture
def desk(tmp_path: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("base", "adapter", "rm"):
        (tmp_path / name).symlink_to(folders / name)
    write_rows("questions.jsonl", [{"question": f"What is {i}?", "answer": str(i)} for i in range(6)])
    Path("mine.py").write_text(
        "def odd(prompt, response, row):\n    return int(row['answer']) % 2\n"
        "def half(prompt, response):\n    return 0.5\n"
    )
    return tmp_path


def answer(name: str, prompt: str) -> str:
    model, tokenizer, _ = load_model_and_tokenizer(name, "cpu", frozen=True)
    return generate_response(model, tokenizer, prompt, GenerationConfig(max_new_tokens=6))


# --- accuracy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "adapter"])
def test_exact_match_finds_the_answers_that_the_model_gives(
    name: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(name, "What is 2?")
    write_rows("mine.jsonl", [{"question": "What is 2?", "answer": f" {told}."}, {"question": "Why?", "answer": "no"}])
    numbers, out = evaluate(f"accuracy --model {name} --dataset mine.jsonl {SHORT} --plot acc.svg", capsys)
    assert numbers["accuracy"] == 0.5 and numbers["scorer"] == "exact_match"
    assert "right is: the answer of the row" in out and "1 of 2" in out
    assert Path("acc.svg").read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("scorer", "share", "words"),
    [
        ("mine.py:odd", 0.5, "the function returns 1"),
        ("regex:.", 1.0, "pattern is found"),
        ("numeric", 0.0, "last number"),
        ("json", 0.0, "whole response is JSON"),
        ("ended", 0.0, "ended by itself"),
    ],
)
def test_a_scorer_says_what_is_right(
    scorer: str, share: float, words: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers, out = evaluate(f"accuracy --model base --dataset questions.jsonl --scorer {scorer} {SHORT}", capsys)
    assert numbers["accuracy"] == share and words in numbers["right_is"]
    assert words in " ".join(out.split())


def test_a_scorer_that_needs_no_answer_takes_rows_without_one(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows("open.jsonl", [{"prompt": "Say something."}, {"prompt": "And now?"}])
    numbers, _ = evaluate(f"accuracy --model base --dataset open.jsonl --scorer regex:. {SHORT}", capsys)
    assert numbers["accuracy"] == 1


def test_samples_give_a_mean_and_pass_at_k(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        f"accuracy --model base --dataset questions.jsonl --scorer mine.py:odd --samples 4 --temperature 1 {SHORT}"
    )
    numbers, out = evaluate(command, capsys)
    # Each question's four answers are all right or all wrong, so every k says the same.
    assert {k: share["share"] for k, share in numbers["pass_at"].items()} == {"1": 0.5, "2": 0.5, "4": 0.5}
    assert numbers["by_task"]["all"]["prompts"] == 6
    assert "mean@4" in out and "pass@2" in out and "3 of 6" in out


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("accuracy --model rm --dataset questions.jsonl", 1, ("is a reward model",)),
        ("accuracy --model base --dataset questions.jsonl --scorer exact", 2, ("exact_match", "--scorer exact")),
        ("accuracy --model base --dataset questions.jsonl --scorer length:9", 2, ("how good, not whether right",)),
        ("accuracy --model base --dataset questions.jsonl --scorer mine.py:half", 1, ("said 0.5", "1 (right)")),
        ("accuracy --model base --dataset questions.jsonl --scorer mine.py:none", 2, ("no function none",)),
        ("accuracy --model base --dataset questions.jsonl --scorer no.py:none", 2, ("no such file",)),
        ("accuracy --model base --dataset questions.jsonl --scorer correct", 1, ("questions.jsonl", "tiny-instr")),
        ("accuracy --model base --dataset words.jsonl --scorer numeric", 1, ("words.jsonl", "has no number")),
        ("accuracy --model base --dataset questions.jsonl --samples 2", 2, ("--temperature",)),
        ("accuracy --model base --dataset questions.jsonl --plot a.gif", 2, ("--plot a.gif",)),
        ("perplexity --model rm --dataset tiny-text", 1, ("is a reward model",)),
        ("generation --model rm --prompt Hi", 1, ("is a reward model",)),
        ("compare --models base rm --prompt Hi", 1, ("rm is a reward model",)),
        ("reward --model base --dataset pairs.jsonl", 1, ("reward head",)),
    ],
)
def test_what_is_refused(
    command: str, code: int, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("words.jsonl", [{"question": "Why?", "answer": "because"}])
    write_rows("pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    got = main.main(
        f"evaluate {command} {SHORT if 'perplexity' not in command and 'reward' not in command else ''}".split()
    )
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1 and "unexpected" not in message, message
    assert got == code, message
    for word in words:
        assert word in message


# --- perplexity, generation, compare ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["base", "adapter"])
def test_perplexity_of_a_long_text(name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "The cow eats grass, and the dog sleeps. " * 40  # far beyond the context of 128 tokens
    Path("text.txt").write_text(text)
    numbers, out = evaluate(f"perplexity --model {name} --dataset text.txt --plot loss.svg", capsys)
    model, tokenizer, _ = load_model_and_tokenizer(name, "cpu", frozen=True)
    expected = compute_perplexity(model, tokenizer, text)
    assert numbers["metrics"] == pytest.approx(expected)
    assert numbers["window"] == 128 and numbers["rows_longer_than_window"] == 1
    assert math.isclose(numbers["metrics"]["perplexity"], math.exp(numbers["metrics"]["loss"]))
    assert "slides over them" in out and Path("loss.svg").is_file()


def test_compare_shows_base_and_trained_in_one_command(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a word about data: the bundled questions, whose answers are checked."""
    command = f"compare --models base adapter --max-samples 3 --show 1 {SHORT} --plot lengths.png"
    numbers, out = evaluate(command, capsys)
    assert numbers["models"] == {"A": "base", "B": "adapter"} and len(numbers["samples"]) == 3
    sample = numbers["samples"][0]
    assert sample["responses"] == {"A": answer("base", sample["prompt"]), "B": answer("adapter", sample["prompt"])}
    assert sample["responses"]["A"] != sample["responses"]["B"]
    assert out.count("> ") == 1 and "right" in out and "0.0%" in out and "tokens each" in out
    assert numbers["right_interval_95"] == {key: list(Share(0, 3).interval) for key in "AB"}
    assert out.index("right") < out.index("95 % interval") < out.index("0.0% to 56.2%") < out.index("ended by itself")
    assert "6.0000" not in out and "   6.0 " in out  # no four decimals for what has one
    assert Path("lengths.png").read_bytes().startswith(b"\x89PNG")


def test_what_rows_hold_is_shown_and_never_obeyed(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters and rich's markup in prompts and in names of tasks."""
    write_rows("bad.jsonl", [{"question": f"{HOSTILE} {i}", "answer": "x", "task": f"{HOSTILE}{i}"} for i in range(2)])
    for command in (f"compare --models base adapter --dataset bad.jsonl {SHORT}",):
        out = evaluate(command, capsys)[1]
        assert "\x1b" not in out and "\x07" not in out and "␛[31mred" in out and "[bold]b[/bold]" in out
    code = main.main(f"evaluate accuracy --model base --dataset bad.jsonl {SHORT}".split())
    out = capsys.readouterr().out
    assert code == 0 and "\x1b" not in out and "\r" not in out and "[bold]b[/bold]" in out


def test_generation_draws_lengths(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    numbers, out = evaluate(f"generation --model adapter --prompt Hello {SHORT} --plot a/lengths.pdf", capsys)
    assert numbers["metrics"]["mean_tokens"] == 6 and "log-probability per token" in out
    assert Path("a/lengths.pdf").read_bytes().startswith(b"%PDF")


def test_winrate_draws_who_is_longer(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("judge.py").write_text("def longer(prompt, response):\n    return len(response)\n")
    command = "winrate --model base --against adapter --dataset questions.jsonl --judge judge.py:longer --plot win.svg"
    numbers, out = evaluate(f"{command} {SHORT}", capsys)
    assert numbers["wins"] + numbers["ties"] + numbers["losses"] == 6
    drawn = Path("win.svg").read_text()
    assert drawn.startswith("<?xml") and "picture: win.svg" in out
