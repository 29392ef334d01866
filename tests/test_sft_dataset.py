"""`InstructionDataset`: what the trainer gets of a row, what is counted, what is cached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from auto_bot_tuner.data import cache
from auto_bot_tuner.sft import InstructionDataset, load_instruction_dataset, preview_formatted_sample
from auto_bot_tuner.utils.errors import UsageError, UserError

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Blue."},
    {"instruction": "Add the numbers.", "input": "1, 2", "output": "3"},
]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi!"},
            {"role": "user", "content": "Bye"},
            {"role": "assistant", "content": "See you."},
        ]
    }
]


def test_an_item_is_unpadded_with_labels_on_the_answer(gpt2_tokenizer: Any) -> None:
    dataset = InstructionDataset(ROWS, gpt2_tokenizer)
    prompt = "### Instruction:\nAdd the numbers.\n\n### Input:\n1, 2\n\n### Response:\n"
    prompt_ids = gpt2_tokenizer(prompt)["input_ids"]
    answer_ids = [*gpt2_tokenizer("3")["input_ids"], gpt2_tokenizer.eos_token_id]
    item = dataset[1]
    assert item["input_ids"].tolist() == prompt_ids + answer_ids
    assert item["labels"].tolist() == [-100] * len(prompt_ids) + answer_ids
    assert item["attention_mask"].tolist() == [1] * len(item["input_ids"])
    assert {tensor.dtype for tensor in item.values()} == {torch.long}
    assert dataset.lengths[1] == len(item["input_ids"])
    assert dataset.trained_tokens == [len(gpt2_tokenizer("Blue.")["input_ids"]) + 1, 2]
    assert [row["input_ids"].tolist() for row in dataset][1] == item["input_ids"].tolist()  # a for loop ends


def test_all_assistant_turns_are_trained(gpt2_tokenizer: Any) -> None:
    labels = InstructionDataset(CHATS, gpt2_tokenizer, format_type="chat")[0]["labels"]
    assert gpt2_tokenizer.decode(labels[labels != -100]) == "Hi!<|endoftext|>See you.<|endoftext|>"


def test_every_kind_of_dataset_gives_the_same_items(gpt2_tokenizer: Any, tmp_path: Path) -> None:
    import datasets

    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    kinds = [ROWS, datasets.Dataset.from_list(ROWS), load_instruction_dataset(str(path))]
    items = [[item["labels"].tolist() for item in InstructionDataset(kind, gpt2_tokenizer)] for kind in kinds]
    assert items[0] == items[1] == items[2]


def test_train_on_prompt_trains_all_but_the_first_token(gpt2_tokenizer: Any) -> None:
    item = InstructionDataset(ROWS, gpt2_tokenizer, train_on_prompt=True)[0]
    assert item["labels"].tolist() == [-100, *item["input_ids"].tolist()[1:]]


def test_system_prompt(gpt2_tokenizer: Any) -> None:
    dataset = InstructionDataset(ROWS, gpt2_tokenizer, system_prompt="Be kind.")
    assert preview_formatted_sample(dataset, 0).startswith("Be kind.\n\n### Instruction:\nName a colour.")


def test_preview_marks_what_is_trained(gpt2_tokenizer: Any) -> None:
    assert preview_formatted_sample(InstructionDataset(ROWS, gpt2_tokenizer), 0) == (
        "### Instruction:\nName a colour.\n\n### Response:\n⟦Blue.<|endoftext|>⟧"
    )


def test_summary_counts_rows_cuts_and_drops(gpt2_tokenizer: Any) -> None:
    rows: list[dict[str, Any]] = [
        *ROWS,
        {"instruction": "Say nothing.", "output": "  "},
        {"instruction": "Talk.", "output": "word " * 100},
        {"messages": [*CHATS[0]["messages"][:3], {"role": "assistant", "content": "word " * 12}]},
        {"messages": [{"role": "system", "content": "long " * 100}, *CHATS[0]["messages"]]},
        {"text": "A document."},
    ]
    dataset = InstructionDataset(rows, gpt2_tokenizer, max_length=32, format_type="auto")
    summary = dataset.summary
    assert summary.formats == {"alpaca": 4, "chat": 2, "text": 1}
    assert (summary.rows, summary.kept, summary.dropped) == (7, 5, 2)
    assert summary.drop_reasons == {"empty answer": 1, "no room for an answer": 1}
    assert (summary.cut, summary.cut_turns, summary.cut_prompts, summary.cut_responses) == (2, 1, 0, 1)
    assert (summary.tokens, summary.trained_tokens) == (sum(dataset.lengths), sum(dataset.trained_tokens))
    assert summary.trained_tokens == sum(int((item["labels"] != -100).sum()) for item in dataset)
    assert summary.longest == max(len(item["input_ids"]) for item in dataset) == 32
    assert [dataset.where(i) for i in range(len(dataset))] == ["row 0", "row 1", "row 3", "row 4", "row 6"]


def test_prompts_for_samples(gpt2_tokenizer: Any) -> None:
    assert InstructionDataset(CHATS + ROWS, gpt2_tokenizer, format_type="auto").prompts(2) == [
        CHATS[0]["messages"][:3],
        [{"role": "user", "content": "Name a colour."}],
    ]


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        ([], {}, "no row is left to train on .no rows given"),
        ([{"instruction": "a", "output": ""}] * 3, {}, "3 empty answer"),
        (ROWS, {"max_length": 8}, "2 no room for an answer.*max_length larger than 8"),
        ([*ROWS, {"instruction": "a"}], {}, "row 2: expected the columns"),
        (ROWS, {"format_type": "chat"}, "row 0: .*messages or conversations"),
        ([{"instruction": "a", "output": "b"}, "hello"], {}, "row 1: expected an object"),
    ],
)
def test_bad_rows_are_one_line(gpt2_tokenizer: Any, rows: Any, settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected) as error:
        InstructionDataset(rows, gpt2_tokenizer, **settings)
    assert "\n" not in str(error.value)


def test_several_splits_at_once_are_refused(gpt2_tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="choose a split"):
        InstructionDataset({"train": ROWS}, gpt2_tokenizer)


def test_a_row_that_the_template_refuses_is_named(gpt2_tokenizer: Any) -> None:
    gpt2_tokenizer.chat_template = (
        "{% for m in messages %}{% if 'bad' in m['content'] %}{{ raise_exception('no bad\nwords') }}{% endif %}"
        "{{ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    rows = [{"text": "plain"}, {"instruction": "", "output": "dropped"}, *ROWS, {"instruction": "bad", "output": "x"}]
    with pytest.raises(UserError, match=r"^row 4: the chat template refuses .*no bad words"):
        InstructionDataset(rows, gpt2_tokenizer, format_type="auto")


# --- the cache ----------------------------------------------------------------------------------------------------


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    monkeypatch.setattr(cache, "SMALLEST", 10)
    return [{"instruction": f"Count to {i}.", "output": "one " * (i % 9)} for i in range(30)]


def items(dataset: InstructionDataset) -> list[Any]:
    return [[*(item["labels"].tolist() for item in dataset)], dataset.summary, dataset.rows, dataset.lengths]


def test_cached_is_fresh(gpt2_tokenizer: Any, many: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = items(InstructionDataset(many, gpt2_tokenizer, max_length=16))
    with monkeypatch.context() as patch:
        patch.setattr(InstructionDataset, "_tokenise", None)  # it may not be called
        assert items(InstructionDataset(many, gpt2_tokenizer, max_length=16)) == fresh


@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_damaged_entry_is_made_again(gpt2_tokenizer: Any, many: list[dict[str, str]], damage: str) -> None:
    fresh = items(InstructionDataset(many, gpt2_tokenizer))
    (entry,) = cache.cache_folder().glob("*.safetensors")
    whole = entry.read_bytes()
    entry.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "noise": b"\x07" * 100}[damage])
    assert items(InstructionDataset(many, gpt2_tokenizer)) == fresh
    assert entry.read_bytes() == whole


@pytest.mark.parametrize("change", ["row", "template", "max_length", "train_on_prompt", "system_prompt", "vocabulary"])
def test_whatever_changes_the_tokens_changes_the_key(
    gpt2_tokenizer: Any, many: list[dict[str, str]], change: str
) -> None:
    InstructionDataset(many, gpt2_tokenizer)
    settings: dict[str, Any] = {}
    if change == "row":
        many[7] = {**many[7], "instruction": "Count to 7!"}
    elif change == "template":
        gpt2_tokenizer.chat_template = (
            "{% for m in messages %}{{ m['role'] + ':' + m['content'] + eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}assistant:{% endif %}"
        )
    elif change == "vocabulary":
        gpt2_tokenizer.add_tokens(["Count"])
    else:
        settings = {change: {"max_length": 20, "train_on_prompt": True, "system_prompt": "Hm."}[change]}
    changed = items(InstructionDataset(many, gpt2_tokenizer, **settings))
    assert len(list(cache.cache_folder().glob("*.safetensors"))) == 2
    for entry in cache.cache_folder().iterdir():
        entry.unlink()
    assert items(InstructionDataset(many, gpt2_tokenizer, **settings)) == changed


def test_a_cache_that_cannot_be_written_is_no_error(
    gpt2_tokenizer: Any, many: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AUTO_BOT_TUNER_CACHE", str(tmp_path / "file" / "cache"))
    assert len(InstructionDataset(many, gpt2_tokenizer)) == 26  # 4 of 30 answers are empty


def test_old_entries_go(gpt2_tokenizer: Any, many: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "NEWEST_KEPT", 2)
    for max_length in (20, 24, 28):
        InstructionDataset(many, gpt2_tokenizer, max_length=max_length)
    assert len(list(cache.cache_folder().iterdir())) == 2


# --- real rows ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer_folder", ["gpt2-tokenizer", "models/stories260k", "models/gpt2-basic-chat-690k"])
@pytest.mark.parametrize("data", ["alpaca/alpaca-5k.jsonl", "chat/oasst-en-threads-546.jsonl"])
def test_real_rows(shared_data: Path, tokenizer_folder: str, data: str) -> None:
    """Real tokenizers: one collapses white space, one prefixes "▁" and adds BOS. Every answer ends, or was cut."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / tokenizer_folder)
    rows = load_instruction_dataset(str(shared_data / data), "train[:60]")
    dataset = InstructionDataset(rows, tokenizer, max_length=200, format_type="auto")
    assert len(dataset) == 60
    for index, item in enumerate(dataset):
        ids, labels = item["input_ids"].tolist(), item["labels"].tolist()
        trained = [label for label in labels if label != -100]
        assert len(ids) <= 200
        assert (trained[-1] == tokenizer.eos_token_id) == (dataset.cuts(index).response == 0)
        starts_with_bos = tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id
        assert (ids[0] == tokenizer.bos_token_id) == starts_with_bos
        prompt = dataset.prompt_format.encode_prompt(dataset.prompts(index + 1)[index])
        if not any(dataset.cuts(index)):
            assert ids[: len(prompt)] == prompt
