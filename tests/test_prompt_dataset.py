"""Prompts for a policy: the question of every kind of row, with the ids that training has before the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.sources import load_split
from auto_bot_tuner.rollouts import PromptDataset
from auto_bot_tuner.sft import InstructionDataset
from auto_bot_tuner.utils.errors import UserError
from tests.reward_runs import byte_tokenizer

USER = [{"role": "user", "content": "Why?"}]
TURNS = [*USER, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]
ANSWERED = [*TURNS, {"role": "assistant", "content": "Done."}]
SYSTEM = {"role": "system", "content": "Be brief."}
HH = {"chosen": "\n\nHuman: Why?\n\nAssistant: So.", "rejected": "\n\nHuman: Why?\n\nAssistant: No."}

ROWS: dict[str, tuple[dict[str, Any], list[dict[str, str]]]] = {
    "alpaca": ({"instruction": "Why?", "input": "", "output": "So."}, USER),
    "alpaca with an input": (
        {"instruction": "Why?", "input": "x", "output": "So."},
        [{"role": "user", "content": "Why?\n\n### Input:\nx"}],
    ),
    "alpaca without an answer": ({"instruction": "Why?"}, USER),
    "chat, up to the last answer": ({"messages": ANSWERED}, TURNS),
    "chat that waits for an answer": ({"messages": TURNS}, TURNS),
    "chat with a system message": ({"messages": [SYSTEM, *ANSWERED]}, [SYSTEM, *TURNS]),
    "prompt and completion": ({"prompt": "Why?", "completion": "So."}, USER),
    "question and answer": ({"question": "Why?", "answer": "So. #### 4"}, USER),
    "prompt alone": ({"prompt": "Why?"}, USER),
    "messages as a prompt": ({"prompt": TURNS}, TURNS),
    "pair": ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, USER),
    "pair of message lists": (
        {"chosen": ANSWERED, "rejected": [*TURNS, {"role": "assistant", "content": "No."}]},
        TURNS,
    ),
    "HH transcripts": (HH, USER),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return byte_tokenizer()


@pytest.mark.parametrize("name", ROWS)
def test_the_question_of_every_kind_of_row(name: str, tokenizer: Any) -> None:
    row, conversation = ROWS[name]
    dataset = PromptDataset([row], tokenizer)
    assert dataset.conversation(0) == conversation
    assert dataset.row(0) == row  # the reference answer stays at hand


def test_the_ids_are_those_that_training_has_before_the_answer(tokenizer: Any) -> None:
    trained = InstructionDataset([{"messages": ANSWERED}], tokenizer, format_type="chat")[0]
    prompt = PromptDataset([{"messages": ANSWERED}], tokenizer)[0]
    length = len(prompt["input_ids"])
    assert torch.equal(prompt["input_ids"], trained["input_ids"][:length])
    # The answer, and nothing of the prompt, comes right after it.
    last_answer = len("Done.") + 1  # byte by byte, and the end token
    assert length + last_answer == len(trained["input_ids"])
    assert prompt["input_ids"].dtype == torch.long and prompt["attention_mask"].tolist() == [1] * length


def test_a_long_prompt_is_dropped_whole_and_counted(tokenizer: Any) -> None:
    rows = [{"prompt": "a" * 10}, {"prompt": "b" * 11}, {"prompt": "c" * 10, "id": 7}]
    limit = len(PromptFormat.from_tokenizer(tokenizer).encode_prompt([{"role": "user", "content": "a" * 10}]))
    dataset = PromptDataset(rows, tokenizer, max_length=limit)
    assert [c[-1]["content"][0] for c in map(dataset.conversation, range(len(dataset)))] == ["a", "c"]
    assert dataset.lengths == [limit, limit]
    # Whatever is asked by number goes by the numbers of what is left.
    assert dataset.row(1)["id"] == 7 and dataset.where(1) == "row 2" and dataset.row(-1)["id"] == 7
    assert tokenizer.decode(dataset[1]["input_ids"]).count("c" * 10) == 1
    assert (dataset.summary.kept, dataset.summary.dropped) == (2, 1)
    assert "prompts  2 of 3 rows" in str(dataset.summary)
    assert "dropped  1 rows (1 longer than max_length)" in str(dataset.summary)
    with pytest.raises(IndexError):
        dataset[2]


def test_where_no_prompt_is_left_the_error_says_why_and_what_helps(tokenizer: Any) -> None:
    with pytest.raises(UserError, match=r"2 longer than max_length.*raise --max-length, which is 5 tokens$"):
        PromptDataset([{"prompt": "abc"}, {"prompt": "d"}], tokenizer, max_length=5)
    with pytest.raises(UserError, match=r"no prompt is left to answer \(no rows given\)"):
        PromptDataset([], tokenizer)
    with pytest.raises(UserError, match=r"1 empty prompt\): give rows"):
        PromptDataset([{"prompt": " \n"}], tokenizer)


def test_rows_that_ask_nothing_are_dropped_and_counted(tokenizer: Any) -> None:
    no_shared_turn = {"chosen": "\n\nHuman: A?\n\nAssistant: x", "rejected": "\n\nHuman: B?\n\nAssistant: y"}
    dataset = PromptDataset([{"prompt": ""}, HH, no_shared_turn], tokenizer)
    assert dataset.summary.drop_reasons == {"empty prompt": 1, "no shared prompt": 1}
    assert len(dataset) == 1 and dataset.where(0) == "row 1"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "A story."}, "row 1: expected something to answer"),
        ({"title": "x"}, "row 1: expected the columns of a known format"),
        ("just words", "row 1: expected an object with named columns"),
        ({"prompt": 7}, "row 1"),
        ({"prompt": "half \ud83d"}, "row 1, column content: character 5 is half of a surrogate pair"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "row 1"),
    ],
)
def test_rows_that_cannot_be_understood_are_one_clear_line(row: Any, words: str, tokenizer: Any) -> None:
    with pytest.raises(UserError, match=words) as raised:
        PromptDataset([{"prompt": "fine"}, row], tokenizer)
    assert "\n" not in str(raised.value)


def test_a_system_prompt_goes_before_those_that_have_none(tokenizer: Any) -> None:
    rows = [{"prompt": "Why?"}, {"messages": [SYSTEM, *ANSWERED]}, HH]
    dataset = PromptDataset(rows, tokenizer, system_prompt="Other.")
    other = {"role": "system", "content": "Other."}
    assert [dataset.conversation(i)[0] for i in range(3)] == [other, SYSTEM, other]
    assert "Other." in tokenizer.decode(dataset[0]["input_ids"])


def test_prompts_are_different_ones_and_unicode_comes_back(tokenizer: Any) -> None:
    rows = [{"prompt": "é 🙂"}, {"prompt": "é 🙂"}, {"prompt": "你好"}, {"prompt": "x"}]
    dataset = PromptDataset(rows, tokenizer)
    assert len(dataset) == 4  # a row each: what is asked twice is answered twice
    assert [prompt[0]["content"] for prompt in dataset.prompts(2)] == ["é 🙂", "你好"]
    assert "é 🙂" in tokenizer.decode(dataset[0]["input_ids"])


def test_rows_of_a_source_keep_file_line_and_columns(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "asked.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2", "level": "easy"}\n\n{"question": "2+2?", "answer": "4"}\n')
    dataset = PromptDataset(load_split(str(file), "train"), tokenizer)
    assert sorted(dataset.where(i) for i in range(2)) == ["asked.jsonl line 1", "asked.jsonl line 3"]
    assert {dataset.row(i)["answer"] for i in range(2)} == {"2", "4"}


def test_a_hugging_face_data_set_is_read_in_columns(tokenizer: Any) -> None:
    from datasets import Dataset

    rows = Dataset.from_dict({"question": ["1?", "2?"], "answer": ["a", "b"]})
    dataset = PromptDataset(rows, tokenizer)
    assert dataset.row(1) == {"question": "2?", "answer": "b"} and len(dataset) == 2


# --- real data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "column", "kept"),
    [
        ("gsm8k/train-2000.jsonl", "answer", 2000),
        ("hh-rlhf/harmless-base-1156.jsonl", "chosen", 1156),
        ("chat/oasst-en-threads-546.jsonl", "messages", 546),
    ],
)
def test_real_rows(name: str, column: str, kept: int, shared_data: Path, gpt2_tokenizer: Any) -> None:
    dataset = PromptDataset(load_split(str(shared_data / name), "train"), gpt2_tokenizer, max_length=4000)
    assert len(dataset) == kept and dataset.summary.dropped == 0
    for index in range(0, kept, 97):
        messages = dataset.conversation(index)
        assert messages[-1]["role"] == "user" and dataset.row(index)[column]
        text = gpt2_tokenizer.decode(dataset[index]["input_ids"], clean_up_tokenization_spaces=False)
        assert messages[-1]["content"] in text and text.endswith("### Response:\n")
        assert dataset.lengths[index] == len(dataset[index]["input_ids"])
