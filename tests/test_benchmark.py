"""`evaluate benchmark`: lm-eval's tasks from local files, their scores computed once more without lm-eval."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest
import torch
import yaml

import main
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation import GenerationConfig
from auto_bot_tuner.evaluation import benchmark as benchmark_module
from auto_bot_tuner.evaluation.benchmark import data_error
from auto_bot_tuner.evaluation.benchmark_scores import interval_of
from auto_bot_tuner.evaluation.generation import respond
from auto_bot_tuner.evaluation.intervals import Share
from auto_bot_tuner.rlhf import create_reward_model_from_pretrained
from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer
from tests.models import save_lora_checkpoint, save_tiny_model

pytest.importorskip("lm_eval")

QUESTIONS = [
    {"question": f"The colour of {thing}", "choices": ["red", "green grass", "blue", "dark grey"], "answer": i % 4}
    for i, thing in enumerate(["the cow", "a stone", "water", "my hat", "an apple", "the moon", "fire", "milk"])
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of random weights, wide enough to have opinions, and a LoRA checkpoint on it."""
    base = tmp_path_factory.mktemp("models")
    save_tiny_model(base / "base", "gpt2", seed=3, initializer_range=0.3)
    save_lora_checkpoint(base / "base", base / "adapter")
    return base


@pytest.fixture
def desk(tmp_path: Path, folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with two tasks. Only they are in the index: lm-eval's own 14,000 take seconds to find."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for library in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", True)  # else they try again for half a minute
    for name in ("base", "adapter"):
        (tmp_path / name).symlink_to(folders / name)
    (tmp_path / "tasks").mkdir()
    write_task("colours", QUESTIONS, output_type="multiple_choice", doc_to_choice="{{choices}}")
    whole = benchmark_module.task_manager
    monkeypatch.setattr(benchmark_module, "task_manager", lambda path, with_built_in: whole(path, with_built_in=False))
    return tmp_path


def write_task(name: str, rows: list[dict[str, Any]], **settings: Any) -> None:
    Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(Path(f"{name}.jsonl").resolve())}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        **settings,
    }
    Path(f"tasks/{name}.yaml").write_text(yaml.safe_dump(task))


def scores(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """({"task metric": score}, what was printed) of a command that must succeed, and whose noise must not be heard."""
    code = main.main(f"evaluate benchmark {command} --include-path tasks --json out.json".split())
    out, err = capsys.readouterr()
    assert code == 0 and err == "", err
    assert max(map(len, out.splitlines())) <= 80
    found = json.loads(Path("out.json").read_text())["scores"]
    return {f"{score['task']} {score['metric']}": score for score in found}, out


def logprob(model: Any, prompt: list[int], answer: list[int]) -> float:
    """log p(answer | prompt), one token after the other."""
    with torch.no_grad():
        logprobs = model(torch.tensor([prompt + answer])).logits[0].double().log_softmax(dim=-1)
    return sum(float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))


def chosen(model: Any, tokenizer: Any, in_chat_format: bool) -> list[int]:
    """The choice of highest log-probability for each question, without lm-eval."""
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    picks = []
    for row in QUESTIONS:
        asked = {"role": "user", "content": row["question"]}
        values = []
        for choice in row["choices"]:
            if in_chat_format:
                encoded = prompt_format.encode([asked, {"role": "assistant", "content": choice}])
                prompt = prompt_format.encode_prompt([asked])
                assert encoded.input_ids[: len(prompt)] == prompt
                answer = encoded.input_ids[len(prompt) : -1]  # without the end token
            else:
                prompt, answer = (tokenizer(text)["input_ids"] for text in (row["question"], f" {choice}"))
            values.append(logprob(model, prompt, answer))
        picks.append(values.index(max(values)))
    return picks


@pytest.mark.parametrize("name", ["base", "adapter"])
@pytest.mark.parametrize("in_chat_format", [False, True])
def test_the_score_is_that_of_plain_log_likelihoods(
    name: str, in_chat_format: bool, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers of the task are set to what plain transformers (and peft) choose; then all are right, and then none.

    In chat format the ids are those of training: lm-eval by itself would move the line break of "### Response:" over.
    """
    model, tokenizer, _ = load_model_and_tokenizer(name, "cpu", frozen=True)
    picks = chosen(model, tokenizer, in_chat_format)
    assert len(set(picks)) > 1
    settings = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    for task, answers in (("mine", picks), ("not_mine", [3 - pick for pick in picks])):
        write_task(task, [{**row, "answer": pick} for row, pick in zip(QUESTIONS, answers, strict=True)], **settings)
    flag = "--apply-chat-template" if in_chat_format else ""
    found, out = scores(f"--model {name} --tasks mine not_mine {flag}", capsys)
    assert found["mine acc"]["value"] == 1 and found["not_mine acc"]["value"] == 0
    assert found["mine acc"]["questions"] == 8
    assert found["mine acc"]["interval"] == pytest.approx(list(Share(8, 8).interval))
    assert ("in the model's chat format" in out) == in_chat_format


def test_prompt_and_answer_are_tokenised_as_in_training(desk: Path) -> None:
    """In chat format the line break that opens the answer belongs to the prompt, and does not melt into the answer.

    The end of an answer is the template's, which here is not the tokenizer's end of text.
    """
    from auto_bot_tuner.evaluation.benchmark_model import CheckpointLM

    model, tokenizer, _ = load_model_and_tokenizer("base", "cpu", frozen=True)
    asked, told = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "\nBecause."}
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    prompt = prompt_format.encode_prompt([asked])
    whole = prompt_format.encode([asked, told]).input_ids
    lm = CheckpointLM(model, tokenizer, batch_size=1, in_chat_format=True)
    text = lm.apply_chat_template([asked])
    assert lm._encode_pair(text, told["content"]) == (prompt, whole[len(prompt) : -1])
    assert lm.tok_encode(text) == prompt and lm.max_gen_toks == 64  # half of the context
    assert lm.eot_token_id == tokenizer.eos_token_id
    raw = CheckpointLM(model, tokenizer, batch_size=1, in_chat_format=False)
    assert raw._encode_pair("Why? ", "So") == (tokenizer("Why?")["input_ids"], tokenizer(" So")["input_ids"])
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|end|>{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    tokenizer.add_tokens(["<|end|>"])
    lm = CheckpointLM(model, tokenizer, batch_size=1, in_chat_format=True)
    assert lm.eot_token_id == tokenizer.convert_tokens_to_ids("<|end|>") != tokenizer.eos_token_id


def test_an_adapter_has_another_score_than_its_base(desk: Path) -> None:
    picks = {}
    for name in ("base", "adapter"):
        model, tokenizer, _ = load_model_and_tokenizer(name, "cpu", frozen=True)
        picks[name] = chosen(model, tokenizer, True)
    assert picks["base"] != picks["adapter"]  # or the test above would prove nothing about adapters


def test_answers_are_those_of_our_own_engine_and_end_where_they_end(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """lm-eval's greedy answers in chat format, in batches with padding, beside those of `respond`: ends and all."""
    model, tokenizer, _ = load_model_and_tokenizer("tiny", "cpu", frozen=True)
    asked = ["Add 3 and 4.", "What is the opposite of hot? Say it in one word, please.", "Why?", "Spell fig."]
    config = GenerationConfig(max_new_tokens=100)
    told = respond(model, tokenizer, [[{"role": "user", "content": text}] for text in asked], config)
    assert any(response.ended for response in told)
    rows = [{"question": text, "answer": response.text} for text, response in zip(asked, told, strict=True)]
    settings: dict[str, Any] = {
        "output_type": "generate_until",
        "generation_kwargs": {"max_gen_toks": 100, "until": []},
        "metric_list": [{"metric": "exact_match"}],
    }
    write_task("talk", rows, **settings)
    found, _ = scores("--model tiny --tasks tasks/talk.yaml --apply-chat-template --batch-size 4", capsys)
    assert found["talk exact_match"]["value"] == 1


def test_limit_shots_picture_and_list(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = {"fewshot_split": "test", "output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    write_task("shown", QUESTIONS, **examples)
    found, out = scores("--model base --tasks s* --limit 3 --num-fewshot 2 --plot a/scores.svg", capsys)
    assert {(score["questions"], score["shots"]) for score in found.values()} == {(3, 2)}
    assert "first 3 questions of each task:" in out and "shown: acc" not in out
    assert Path("a/scores.svg").read_text().startswith("<?xml")
    assert main.main(["evaluate", "benchmark", "--tasks", "list", "--include-path", "tasks"]) == 0
    assert capsys.readouterr().out.split() == ["colours", "shown"]


def test_intervals() -> None:
    """Wilson's for right and wrong: three of three have a standard error of 0 and are no certainty."""
    assert interval_of(1.0, 0.0, [1.0, 1.0, 1.0]) == Share(3, 3).interval
    assert interval_of(0.5, 0.1, [0.3, 0.7]) == pytest.approx((0.5 - 0.196, 0.5 + 0.196))
    assert interval_of(12.0, None, []) is None


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main.main(f"evaluate benchmark {command}".split())
    out, message = capsys.readouterr()
    assert message.startswith("error: ") and message.count("\n") == 1 and "unexpected" not in message, message
    assert out == ""
    return code, message


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        ("--model base --tasks colors", 1, ("no task colors", "did you mean colours", "--tasks list")),
        ("--model base --tasks nowhere.yaml", 1, ("nowhere.yaml", "no such file")),
        ("--tasks colours", 2, ("--model MODEL",)),
        ("--model base", 2, ("--tasks",)),
        ("--model base --tasks colours --plot picture.gif", 2, ("--plot", ".png")),
        ("--model nowhere/at/all --tasks colours", 1, ("nowhere/at/all",)),
        ("--model rm --tasks colours", 1, ("is a reward model",)),
        ("--model base --tasks gone", 1, ("data of task gone", "gone.jsonl", "mend dataset_path or data_files")),
        ("--model base --tasks hub", 1, ("data of task hub", "nobody/has_this", "hub")),
        ("--model base --tasks unsafe", 1, ("unsafe", "code that the model writes")),
        ("--model base --tasks crooked", 1, ("crooked",)),
        ("--model base --tasks long", 1, ("999",)),
    ],
)
def test_what_benchmark_refuses(
    command: str, code: int, words: tuple[str, ...], desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: dict[str, Any] = {"output_type": "multiple_choice", "doc_to_choice": "{{choices}}"}
    write_task("gone", QUESTIONS, **settings)
    Path("gone.jsonl").unlink()
    write_task("hub", QUESTIONS, dataset_path="nobody/has_this", **settings)
    write_task("unsafe", QUESTIONS, unsafe_code=True, dataset_path="nobody/has_this", **settings)  # told before data
    write_task("crooked", QUESTIONS, **{**settings, "test_split": "exam"})
    limits = {"generation_kwargs": {"max_gen_toks": 999}, "metric_list": [{"metric": "exact_match"}]}
    write_task("long", QUESTIONS, output_type="generate_until", **limits)
    if "--model rm" in command:
        _, tokenizer, _ = load_model_and_tokenizer("base", "cpu", frozen=True)
        create_reward_model_from_pretrained("base", tokenizer).save_pretrained("rm", tokenizer)
    got = refused(f"{command} --include-path tasks", capsys)
    assert got[0] == code, got
    for word in words:
        assert word in got[1]


@pytest.mark.parametrize("is_offline", [True, False])
def test_data_that_the_hub_has_names_the_cause_and_the_command(
    is_offline: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", is_offline)
    message = str(data_error("arc", ConnectionError("Couldn't reach 'allenai/ai2_arc' on the Hub (X)")))
    assert "the data of task arc, allenai/ai2_arc, is not here" in message
    assert ("unset it" in message) == is_offline == ("connect to the network" not in message)
    assert "python main.py download dataset allenai/ai2_arc" in message


def test_without_lm_eval_the_line_says_how_to_install_it(
    desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: None if name == "lm_eval" else real(name))
    code, message = refused("--model base --tasks colours", capsys)
    assert code == 1 and "uv pip install lm-eval" in message
    monkeypatch.undo()


def test_an_include_path_that_is_none(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = refused("--model base --tasks colours --include-path nowhere", capsys)
    assert code == 1 and "--include-path nowhere" in message
