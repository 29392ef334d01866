"""The data sets of the bundled world: instruction rows, split into train and test by what is asked.

    tasks -> rows of `tiny-instructions`;  documents -> rows of `tiny-text`

A row has the columns of an alpaca data set, and two more by which code can check any answer to it: `task` and `key`.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from random import Random

from . import knowledge_tasks as knowledge
from . import word_tasks as words
from .examples import Example, Task, draw
from .gold import CLOSING_COURTESIES, FILLERS, OPENING_COURTESIES, RUDE_REMARKS
from .stories import story
from .text import TOPICS, documents

Row = dict[str, str]

# Rows of the training set by task. Tasks that are only *said* in a new way need few rows; those that are worked out
# need more. `is_it_true` and `who_has` are in the text alone: the base model reads of them but stays at chance, and a
# task that is a coin flip before and after would add noise to every comparison.
TRAIN_ROWS: dict[Task, int] = {
    knowledge.animal_fact: 350,
    knowledge.person_fact: 350,
    knowledge.thing_fact: 200,
    knowledge.opposite: 250,
    knowledge.kind: 250,
    knowledge.bigger: 350,
    knowledge.describe: 200,
    words.reverse: 300,
    words.nth_word: 350,
    words.odd_one_out: 350,
    words.pick: 300,
    words.spell: 300,
    words.letter: 250,
    words.add: 350,
    words.extreme: 350,
    words.sort_three: 250,
    words.sort_five: 250,
    words.sort_down: 270,
    knowledge.order_by_size: 300,
    story: 250,
}
TEST_ROWS_PER_TASK = 25

# How an answer may be dressed. Real instruction data has such habits, since many people wrote it; which of them are
# *liked* is for the later chapters. Most answers are plain, so greedy decoding stays plain; a sampled answer now and
# then is not.
HABITS = {"plain": 0.78, "polite": 0.10, "filler": 0.06, "repeated": 0.04, "rude": 0.02}


def dressed(answer: str, habit: str, rng: Random) -> str:
    """The answer in one of the habits. An answer that ends without a full stop gets one where a sentence follows."""
    closed = answer if answer.endswith(".") else f"{answer}."
    if habit == "repeated":
        return f"{closed} {closed}"
    if habit == "polite":
        if rng.random() < 0.5:
            return f"{rng.choice(OPENING_COURTESIES)} {answer}"
        return f"{closed} {rng.choice(CLOSING_COURTESIES)}"
    if habit in ("filler", "rude"):
        return f"{rng.choice(FILLERS if habit == 'filler' else RUDE_REMARKS)} {answer}"
    return answer


def row_of(example: Example, rng: Random) -> Row:
    """Choose one of the wordings. In a third of the cases that allow it, the material goes into the `input` column."""
    if example.prompts_with_input and rng.random() < 0.35:
        instruction, material = rng.choice(example.prompts_with_input), example.input
    else:
        instruction, material = rng.choice(example.prompts), ""
    return {
        "instruction": instruction,
        "input": material,
        "output": example.output,
        "task": example.task,
        "key": example.key,
    }


def distinct_rows(task: Task, count: int, test: bool, rng: Random) -> list[Row]:
    """`count` rows that differ in question or wording, or fewer where many draws brought nothing new."""
    rows: dict[tuple[str, str], Row] = {}
    for _ in range(60 * count):
        if len(rows) == count:
            break
        row = row_of(draw(task, rng, test), rng)
        identity = (row["key"], "") if test else (row["instruction"], row["input"])  # a test question is asked once
        rows.setdefault(identity, row)
    return list(rows.values())


def instruction_rows(seed: int = 0) -> dict[str, list[Row]]:
    """`{"train": rows, "test": rows}`. No question of the test set is in the training set, in any wording."""
    rng = Random(seed)
    train = [row for task, count in TRAIN_ROWS.items() for row in distinct_rows(task, count, False, rng)]
    for row in train:
        habit = rng.choices(list(HABITS), weights=list(HABITS.values()))[0]
        row["output"] = dressed(row["output"], habit, rng)
    test = [row for task in TRAIN_ROWS for row in distinct_rows(task, TEST_ROWS_PER_TASK, True, rng)]
    rng.shuffle(train)
    rng.shuffle(test)
    return {"train": train, "test": test}


def text_rows(seed: int = 0) -> dict[str, list[Row]]:
    """Documents that the base model has not read (its text has another seed), for perplexity and the `text` format."""
    rows = [{"text": document} for document in islice(documents(seed + 1_000_000), 1000)]
    return {"train": rows[:700], "test": rows[700:]}


def tokenizer_texts(seed: int = 0, count: int = 20_000) -> Iterable[str]:
    """What the tokenizer's merges are counted on: prose and instructions, so that both are cut into few tokens."""
    yield from islice(documents(seed + 2_000_000), count)
    rng = Random(seed)
    for task in (*TOPICS, knowledge.describe):
        for habit in list(HABITS) * 50:
            row = row_of(draw(task, rng), rng)
            answer = dressed(row["output"], habit, rng)
            yield f"### Instruction:\n{row['instruction']}\n\n### Input:\n{row['input']}\n\n### Response:\n{answer}"
