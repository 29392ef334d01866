"""`chat` and `evaluate` as people run them: piped, and at a terminal (a pseudo-terminal)."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from auto_bot_tuner.evaluation import GenerationConfig
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.terminal import neutral
from commands import chat as chat_command
from commands import evaluate as evaluate_command
from commands.chat import Chat
from tests.models import save_tiny_model, tiny_model

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), "gpt2")


@pytest.fixture
def chat(gpt2_tokenizer: Any) -> Chat:
    return Chat(tiny_model("gpt2"), gpt2_tokenizer, "", GenerationConfig(max_new_tokens=6))


def talk(folder: Path, lines: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    generation = GenerationConfig(max_new_tokens=6, **settings)
    chat_command.run(chat_command.Arguments(model=str(folder), generation=generation))


def test_piped_messages_are_answered_one_a_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Greedy: the answers are `generate_response`'s, the second with the first turn before it."""
    talk(folder, f"Hello\n\nAnd you?\n/save {tmp_path}/talk.jsonl\n", monkeypatch)
    out, err = capsys.readouterr()
    (row,) = map(json.loads, (tmp_path / "talk.jsonl").read_text(encoding="utf-8").splitlines())
    assert [message["role"] for message in row["messages"]] == ["user", "assistant"] * 2
    assert row["messages"][2]["content"] == "And you?"
    model, tokenizer = tiny_model("gpt2"), chat_tokenizer(folder)
    for turn in (1, 3):
        answer = evaluation_answer(model, tokenizer, row["messages"][:turn])
        assert row["messages"][turn]["content"] == answer
        assert neutral(answer) in out
    assert "cut off" in err and "cut off" not in out


def chat_tokenizer(folder: Path) -> Any:
    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    return load_model_and_tokenizer(folder)[1]


def evaluation_answer(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> str:
    from auto_bot_tuner.evaluation import generate_response

    return generate_response(model, tokenizer, messages, GenerationConfig(max_new_tokens=6))


def test_commands(chat: Chat, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chat.answer("Hello")
    assert chat.obey("/system Be brief.")
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant"]
    file = tmp_path / "talk.jsonl"
    file.write_text('{"messages": []}\n', encoding="utf-8")
    assert chat.obey(f"/save {file}")
    assert len(file.read_text(encoding="utf-8").splitlines()) == 2, "saving appends, it never overwrites"
    assert chat.obey("/reset")
    assert chat.messages == [{"role": "system", "content": "Be brief."}]
    assert chat.obey("/system")
    assert chat.messages == []
    assert chat.obey("/help")
    assert "/save FILE" in capsys.readouterr().err
    assert not chat.obey("/quit")
    for line, words in [("/sing", "unknown command"), ("/save", "file name"), (f"/save {file}", "nothing to save")]:
        with pytest.raises(UserError, match=words):
            chat.obey(line)
    chat.answer("Hello")
    with pytest.raises(UserError, match="cannot write"):
        chat.obey(f"/save {tmp_path}/no/such/folder/talk.jsonl")


def test_a_history_that_outgrows_the_context_loses_its_oldest_turns_and_says_so(
    chat: Chat, capsys: pytest.CaptureFixture[str]
) -> None:
    chat.system = "Be brief."
    for number in range(12):
        chat.answer(f"This is message {number}, and it has a number of words in it.")
    assert "turn(s) were forgotten" in capsys.readouterr().err
    roles = [message["role"] for message in chat.messages]
    assert roles == ["system", *["user", "assistant"] * (len(roles) // 2)]
    assert len(roles) < 25
    assert chat.messages[-2]["content"].startswith("This is message 11")


def test_a_message_that_is_too_long_alone_is_refused(chat: Chat) -> None:
    chat.answer("Hello")
    before = list(chat.turns)
    with pytest.raises(UserError, match="context is 128"):
        chat.answer("word " * 200)
    assert chat.turns == before, "and nothing is forgotten for its sake"


def test_sampled_answers_to_the_same_question_differ(chat: Chat) -> None:
    chat.config = GenerationConfig(max_new_tokens=6, temperature=1.0)
    chat.answer("Hello")
    first = chat.turns
    chat.reset("")
    chat.answer("Hello")
    assert chat.turns != first


def test_escape_codes_of_the_model_are_shown_not_obeyed(chat: Chat, capsys: pytest.CaptureFixture[str]) -> None:
    def pieces() -> Any:
        yield from ["red \x1b[31m", "title \x1b]0;gone\x07", "8-bit \x9b2J", "back\r\b", "tab\tline\n", "\u202eltr"]
        return True

    said: list[str] = []
    assert chat_command.show(pieces(), said)
    out = capsys.readouterr().out
    assert out == "red ␛[31mtitle ␛]0;gone␇8-bit �2Jback␍␈tab\tline\n�ltr\n"
    assert "".join(said).startswith("red \x1b[31m"), "the conversation keeps what was written"


def test_a_piped_message_that_cannot_be_answered_fails_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="context is 128"):
        talk(folder, "word " * 200 + "\n", monkeypatch)


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are a thing of Unix")
def test_at_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_leaves(tmp_path: Path) -> None:
    from tests.pseudo_terminal import CTRL_C, CTRL_D, ENTER, Terminal

    # 19,000 tokens would take minutes: only Ctrl-C ends this answer in time.
    model = save_tiny_model(tmp_path / "model", "gpt2", n_positions=20_000)
    words = ["chat", str(model), "--temperature", "1", "--max-new-tokens", "19000"]
    with Terminal(words, tmp_path, TERM="dumb") as terminal:

        def is_told_how_to_leave() -> bool:
            """A Ctrl-C in the instant before readline begins to wait is heard at the next key: so press again."""
            terminal.type(CTRL_C)
            end = time.monotonic() + 5
            while "/quit leaves" not in terminal.text and time.monotonic() < end:
                terminal.read(0.1)
            return "/quit leaves" in terminal.text

        terminal.wait("you>")
        terminal.type("Hello" + ENTER)
        # The answer flows: libraries that are still loading may swallow a Ctrl-C.
        terminal.until(lambda: len(terminal.words.partition("Hello")[2].split()) > 5, "words of an answer")
        terminal.type(CTRL_C)
        terminal.wait("(stopped)")
        terminal.until(lambda: terminal.text.rstrip().endswith("you>"), "the next question")
        terminal.until(is_told_how_to_leave, "how to leave")
        terminal.type("/nonsense" + ENTER)
        terminal.wait("unknown command")
        terminal.type(CTRL_D)
        assert terminal.end() == 0


def evaluate(kind: str, folder: Path, **settings: Any) -> dict[str, Any]:
    file = folder.parent / "numbers.json"
    arguments = getattr(evaluate_command, f"{kind.capitalize()}Arguments")
    evaluate_command.run(arguments(model=str(folder), json_file=str(file), **settings))
    numbers: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return numbers


def test_evaluate_perplexity_of_text_and_of_answers(folder: Path, tmp_path: Path, gpt2_tokenizer: Any) -> None:
    from auto_bot_tuner.evaluation import compute_perplexity

    texts = ["The cow eats grass.", "Once upon a time"]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    (tmp_path / "text.txt").write_text(texts[0])
    expected = compute_perplexity(tiny_model("gpt2"), gpt2_tokenizer, texts)
    numbers = evaluate("perplexity", folder, dataset=str(tmp_path / "text.jsonl"))
    assert numbers["metrics"] == pytest.approx(expected, rel=1e-5)
    of_file = evaluate("perplexity", folder, dataset=str(tmp_path / "text.txt"))["metrics"]
    assert of_file["num_tokens"] == len(gpt2_tokenizer(texts[0])["input_ids"]) - 1

    (tmp_path / "chat.jsonl").write_text(json.dumps({"instruction": "Say yes", "output": "Yes yes"}) + "\n")
    answers = evaluate("perplexity", folder, dataset=str(tmp_path / "chat.jsonl"))["metrics"]
    assert answers["num_tokens"] == len(gpt2_tokenizer("Yes yes")["input_ids"]) + 1  # and the end token
    # A window narrower than the conversation slides over it: every token of the answer is scored all the same.
    slid = evaluate("perplexity", folder, dataset=str(tmp_path / "chat.jsonl"), window=4)["metrics"]
    assert slid["num_tokens"] == answers["num_tokens"]


def test_evaluate_generation_and_accuracy(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "2"}) + "\n")
    short = GenerationConfig(max_new_tokens=4)
    numbers = evaluate("accuracy", folder, dataset=str(tmp_path / "rows.jsonl"), generation=short)
    assert numbers["accuracy"] == 0
    assert numbers["by_task"]["all"]["prompts"] == 1
    numbers = evaluate("generation", folder, prompt=("Hello", "1 + 1?"), generation=short)
    assert [sample["prompt"] for sample in numbers["samples"]] == ["Hello", "1 + 1?"]
    for row in (
        {"prompt": "Hello"},
        {"question": "Hello"},
        {"instruction": "Hello"},
        {"prompt": "Hello", "answer": "x"},
    ):
        (tmp_path / "asked.jsonl").write_text(json.dumps(row) + "\n")
        numbers = evaluate("generation", folder, dataset=str(tmp_path / "asked.jsonl"), generation=short)
        assert [sample["prompt"] for sample in numbers["samples"]] == ["Hello"]
    with pytest.raises(UserError, match="either --dataset"):
        evaluate("generation", folder)
    with pytest.raises(UserError, match=r"rows\.jsonl line 1: "):
        (tmp_path / "rows.jsonl").write_text(json.dumps({"text": "no question"}) + "\n")
        evaluate("accuracy", folder, dataset=str(tmp_path / "rows.jsonl"))
    with pytest.raises(UserError, match="cannot write"):
        evaluate_command.run(
            evaluate_command.GenerationArguments(
                model=str(folder), prompt=("Hi",), json_file=str(tmp_path / "rows.jsonl" / "x.json")
            )
        )
