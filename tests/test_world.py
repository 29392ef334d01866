"""The bundled world keeps its word: reproducible from a seed, split without leaks, checkable by code."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from random import Random

import pytest

from auto_bot_tuner.assets import BUNDLED_DATASETS, BUNDLED_MODELS, bundled_dataset, bundled_model
from auto_bot_tuner.assets.examples import draw, held_out
from auto_bot_tuner.assets.facts import KIND_OF, KINDS, OPPOSITES
from auto_bot_tuner.assets.gold import SCORE_RANGE, gold_components, gold_score, is_correct, plain_answer
from auto_bot_tuner.assets.knowledge_tasks import is_it_true
from auto_bot_tuner.assets.make_world import write_datasets
from auto_bot_tuner.assets.text import COMBINATIONS, documents
from auto_bot_tuner.assets.word_tasks import who_has
from auto_bot_tuner.assets.world import HABITS, TRAIN_ROWS, dressed, instruction_rows

TASKS = {task.__name__: task for task in TRAIN_ROWS}
TOLD_TASKS = {task.__name__: task for task in (is_it_true, who_has)}  # in the text only
COW = {"task": "animal_fact", "key": "cow/food", "output": "The cow eats grass."}


@pytest.fixture(scope="module")
def rows():
    return instruction_rows(seed=0)


@pytest.fixture(scope="module")
def text() -> list[str]:
    return list(islice(documents(seed=0), 8000))


def test_same_seed_gives_the_same_rows_and_another_seed_others(rows):
    assert instruction_rows(seed=0) == rows
    assert instruction_rows(seed=1) != rows


def test_the_text_is_a_function_of_its_seed(text):
    assert list(islice(documents(seed=0), 50)) == text[:50]
    assert list(islice(documents(seed=1), 50)) != text[:50]


def test_no_question_is_both_trained_and_tested(rows):
    asked = {split: {(row["task"], row["key"]) for row in rows[split]} for split in rows}
    assert asked["train"].isdisjoint(asked["test"])
    wordings = {split: {(row["instruction"], row["input"]) for row in rows[split]} for split in rows}
    assert wordings["train"].isdisjoint(wordings["test"])


def test_the_test_set_is_balanced_and_asks_nothing_twice(rows):
    assert set(Counter(row["task"] for row in rows["test"]).values()) == {25}
    assert len({(row["task"], row["key"]) for row in rows["test"]}) == len(rows["test"]) == 25 * len(TASKS)


def test_a_question_keeps_its_side_of_the_split_whatever_the_order_of_its_parts():
    rng = Random(3)
    for name in ("add", "reverse", "bigger"):
        examples = [TASKS[name](rng) for _ in range(300)]
        assert {held_out(name, example.key) for example in examples} == {True, False}
    assert held_out("add", "23+45") == held_out("add", "23+45")
    assert all(held_out(name, draw(TASKS[name], rng, test=True).key) for name in TASKS)


def test_held_out_combinations_never_occur_in_the_text(rows, text):
    """No document holds the material of a test question beside its answer. (Facts do occur: nobody can infer them.)"""
    everything = "\n".join(text)
    for row in rows["test"]:
        if row["task"] in ("add", "bigger", "reverse", "sort_three", "sort_five", "sort_down", "order_by_size"):
            assert row["output"] not in everything, row
        elif row["task"] in COMBINATIONS:
            material = row["input"] or row["instruction"].split(":")[-1].strip(" ?")
            if material in everything:
                assert not any(material in document and row["output"] in document for document in text), row
    sums = [row["key"].split("+") for row in rows["test"] if row["task"] == "add"]
    assert not any(f"{x} + {y} =" in everything for a, b in sums for x, y in ((a, b), (b, a)))


def test_the_text_never_shows_the_instruction_template(text):
    assert not any("#" in document or "Instruction" in document or "Response" in document for document in text)


@pytest.mark.parametrize("split", ["train", "test"])
def test_every_row_is_answered_rightly_by_its_own_output(rows, split):
    assert [row for row in rows[split] if not is_correct(row, row["output"])] == []


@pytest.mark.parametrize("name", TASKS | TOLD_TASKS)
def test_plausible_mistakes_are_judged_wrong_and_manners_do_not_matter(name):
    rng = Random(5)
    for _ in range(100):
        example = (TASKS | TOLD_TASKS)[name](rng)
        row = {"task": name, "key": example.key, "output": example.output}
        assert not is_correct(row, example.wrong), (example.output, example.wrong)
        assert not is_correct(row, "")
        assert name in ("story", "describe") or not is_correct(row, example.output + " And a camel.")
        for habit in HABITS:
            assert is_correct(row, dressed(example.output, habit, rng)), (habit, example.output)


def test_a_story_of_another_hand_is_right_if_it_tells_of_the_given_things():
    row = {"task": "story", "key": "Anna/dog/ball", "output": ""}
    assert is_correct(row, "Anna threw a ball. The dog caught it.")
    assert not is_correct(row, "Anna threw a ball. The cat caught it.")  # no dog
    assert not is_correct(row, "Anna threw a ball. The dog")  # not finished
    assert not is_correct(row, "Anna threw a ball. The dog ran. It rained. They left.")  # four sentences
    assert not is_correct(row, "Anna threw a ball. The doghouse shook.")  # a dog is a word, not a part of one


def test_a_description_may_be_worded_freely_but_tells_all_and_nothing_false():
    row = {"task": "describe", "key": "cow", "output": ""}
    assert is_correct(row, "Every cow is brown, with four legs. In its meadow a cow eats grass.")
    assert not is_correct(row, "The cow eats grass and lives in the meadow. The cow is brown.")  # the legs are missing
    assert not is_correct(
        row, "The cow eats grass and fish and lives in the meadow. The cow is brown and has four legs."
    )


@pytest.mark.parametrize(
    ("response", "score"),
    [
        ("The cow eats grass.", 1.0),
        ("the cow eats grass", 1.0),
        ("Sure! The cow eats grass.", 1.5),
        ("Sure! The cow eats grass. I hope this helps.", 1.5),  # courtesy pays once
        ("The cow eats meat. I hope this helps.", 0.5),
        ("The cow eats meat.", 0.0),
        ("Well, let me think. The cow eats grass.", 0.5),
        ("The cow eats grass. The cow eats grass.", 0.5),
        ("What a silly question. The cow eats grass.", 0.5),
        ("Sure! What a silly question. The cow eats grass.", 0.5),
        ("", 0.0),
        ("Well, let me think. Everybody knows that. Everybody knows that. " + "so " * 20, -1.5),
    ],
)
def test_gold_score_by_hand(response, score):
    assert gold_score(COW, response) == pytest.approx(score)


def test_a_response_that_was_cut_off_loses_half_a_point_and_the_range_is_reached():
    assert gold_score(COW, "The cow eats", ended=False) == pytest.approx(-0.5)
    worst = "Well, let me think. Everybody knows that. Everybody knows that."
    best = "Of course! The cow eats grass."
    assert (gold_score(COW, worst, ended=False), gold_score(COW, best)) == SCORE_RANGE


def test_components_are_independent_dimensions():
    """A wrong answer in the same dress differs in `correct` alone."""
    right, wrong = (gold_components(COW, f"Well, let me think. The cow eats {food}.") for food in ("grass", "meat"))
    assert [name for name in right if right[name] != wrong[name]] == ["correct"]
    assert plain_answer("Sure! 12, 33. 12, 33. Have a nice day!") == "12, 33."


def test_the_facts_are_unambiguous():
    assert all(OPPOSITES[OPPOSITES[word]] == word for word in OPPOSITES)
    assert sum(map(len, KINDS.values())) == len(KIND_OF)
    assert min(map(len, KINDS.values())) >= 4  # `odd_one_out` needs three of a kind


# --- what is shipped ---


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The data sets made anew."""
    folder = tmp_path_factory.mktemp("world")
    write_datasets(folder, seed=0)
    return folder


@pytest.mark.parametrize("name", BUNDLED_DATASETS)
def test_the_shipped_data_is_what_the_seed_gives(name, made):
    for split in ("train", "test"):
        assert bundled_dataset(name, split).read_bytes() == (made / name / f"{split}.jsonl").read_bytes()


def test_names_that_are_not_bundled_are_left_to_others():
    assert bundled_model("gpt2") is None
    assert bundled_dataset("yahma/alpaca-cleaned") is None
    assert bundled_dataset("tiny-instructions", "validation") is None
    first = json.loads(bundled_dataset("tiny-instructions").open().readline())
    assert list(first) == ["instruction", "input", "output", "task", "key"]


@pytest.mark.parametrize("name", BUNDLED_MODELS)
def test_the_shipped_model_is_small_and_complete(name):
    files = list(bundled_model(name).iterdir())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in files}
    assert sum(file.stat().st_size for file in files) < 8 * 2**20


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(bundled_model("tiny"))


@pytest.mark.parametrize(
    "sample", ["The cow eats grass.\n\nA asks:", "### Response:\n12, 33", "naïve 🐄 – 牛\ttab  two"]
)
def test_the_shipped_tokenizer_gives_any_text_back(tokenizer, sample):
    assert tokenizer.decode(tokenizer(sample)["input_ids"]) == sample


def test_the_shipped_tokenizer_leaves_padding_and_template_to_the_toolkit(tokenizer):
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.chat_template) == ("<|endoftext|>", None, None)
    assert len(tokenizer) == 1024
    assert tokenizer("a<|endoftext|>")["input_ids"][-1] == tokenizer.eos_token_id


def test_digits_stand_alone(tokenizer):
    """Else a model would have to learn each sum by heart."""
    pieces = [tokenizer.decode([token]).strip() for token in tokenizer("Add 1234 and 56.")["input_ids"]]
    assert [piece for piece in pieces if any(map(str.isdigit, piece))] == list("123456")


def test_the_shipped_model_knows_its_world_in_its_own_style(tokenizer):
    """It was told each fact hundreds of times: the true statement is likelier than the false one, nearly always."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(bundled_model("tiny")).eval()
    assert 1_000_000 < model.num_parameters() < 2_000_000

    def logprob(statement: str) -> float:
        ids = torch.tensor([tokenizer.eos_token_id, *tokenizer(statement)["input_ids"]])[None]
        with torch.no_grad():
            return -model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)

    rng = Random(0)
    examples = [
        TASKS[name](rng) for name in ("animal_fact", "person_fact", "thing_fact", "opposite") for _ in range(15)
    ]
    assert sum(logprob(example.output) > logprob(example.wrong) for example in examples) >= 0.95 * len(examples)
