"""The pre-training text: what the base model reads before anyone asks it to follow an instruction.

It holds everything that the instructions will ask for, in a style of its own: prose, notes, and talk between `A` and
`B` or a teacher and a pupil, who speak in lines of their own. It never shows the instruction template, so that
following instructions is what fine-tuning has to add. Held-out *combinations* (sums, lists, comparisons, claims)
never occur in it; held-out *facts* do: nobody can guess them.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from . import knowledge_tasks as knowledge
from . import word_tasks as words
from .examples import Example, Task, held_out
from .facts import ENTITIES, KIND_OF, RELATIONS
from .stories import story

# Tasks whose keys are combinations: the split is kept in the text too. For all others the key is a single fact.
COMBINATIONS = {
    "is_it_true",
    "bigger",
    "reverse",
    "nth_word",
    "odd_one_out",
    "pick",
    "add",
    "extreme",
    "who_has",
    "story",
}

SORT_LENGTHS = (3, 3, 3, 4, 4, 5)  # five numbers are rare: the hard task is to be half-learnt


def sort_any(rng: Random) -> Example:
    return words.sort_numbers(rng.choice(SORT_LENGTHS), rng)


# What the notes and the talk are about, with how often. Sums and sorting need the most practice, facts the least:
# passages tell them too.
TOPICS: dict[Task, float] = {
    knowledge.animal_fact: 4,
    knowledge.person_fact: 4,
    knowledge.thing_fact: 3,
    knowledge.is_it_true: 8,
    knowledge.opposite: 5,
    knowledge.kind: 4,
    knowledge.bigger: 7,
    words.reverse: 6,
    words.nth_word: 8,
    words.odd_one_out: 7,
    words.pick: 6,
    words.spell: 8,
    words.letter: 6,
    words.add: 16,
    words.extreme: 9,
    sort_any: 10,
    words.who_has: 6,
    story: 1,
}
COMMENTS = ("Thank you.", "I see.", "Good to know.", "Fine.", "Is that so?", "Yes, it is.", "That is what I thought.")


def _draw_for_text(task: Task, rng: Random) -> Example:
    while True:
        example = task(rng)
        is_combination = example.task in COMBINATIONS or example.task.startswith("sort_")
        if not (is_combination and held_out(example.task, example.key)):
            return example


def _topic(rng: Random) -> Task:
    return rng.choices(list(TOPICS), weights=list(TOPICS.values()))[0]


def passage(rng: Random) -> str:
    """All facts of one entity, in any order and in changing words, with a few remarks about its kind and size."""
    group = rng.choices(list(ENTITIES), weights=(4, 4, 3))[0]
    entity = rng.choice(list(ENTITIES[group]))
    examples = [knowledge.fact_example(group, entity, i, rng) for i in range(len(RELATIONS[group]))]
    sentences = [rng.choice(example.statements) for example in examples]
    if group == "animal":
        sentences += [rng.choice(_draw_for_text(knowledge.bigger, rng).statements) for _ in range(2)]
    if entity in KIND_OF:
        sentences.append(f"The word {entity} names {knowledge.with_article(KIND_OF[entity])}.")
    rng.shuffle(sentences)
    return " ".join(sentences)


def portrait(rng: Random) -> str:
    """Two or three descriptions, each in the order in which the task `describe` gives the facts."""
    return "\n".join(knowledge.describe(rng).output for _ in range(rng.choice((2, 3))))


def notes(rng: Random) -> str:
    """A page of statements on one topic, like an exercise book."""
    topic = _topic(rng)
    return "\n".join(rng.choice(_draw_for_text(topic, rng).statements) for _ in range(rng.randint(4, 8)))


def _question(example: Example, rng: Random) -> str:
    if example.prompts_with_input and rng.random() < 0.3:
        return f"{example.prompts_with_input[0]}\n{example.input}"
    return rng.choice(example.prompts[:2])


def talk(rng: Random) -> str:
    """A asks, B answers, and A says something: several turns, so that no answer is the end of the text."""
    lines = []
    for _ in range(rng.randint(2, 5)):
        example = _draw_for_text(_topic(rng), rng)
        lines += ["A asks:", _question(example, rng), "B says:", example.output]
        if rng.random() < 0.2:
            lines += ["A says:", rng.choice(COMMENTS)]
    return "\n".join([*lines, "A says:", rng.choice(COMMENTS)])


def quiz(rng: Random) -> str:
    """A pupil is right half of the time and a teacher says so: here the model can learn to *judge* an answer."""
    lines = []
    for _ in range(rng.randint(2, 4)):
        example = _draw_for_text(_topic(rng), rng)
        is_right = rng.random() < 0.5
        lines += ["Teacher:", _question(example, rng), "Pupil:", example.output if is_right else example.wrong]
        lines += ["Teacher:", "That is right." if is_right else f"That is wrong. {example.output}"]
    return "\n".join(lines)


def short_story(rng: Random) -> str:
    return "\n".join(_draw_for_text(story, rng).statements[0] for _ in range(rng.choice((1, 2))))


# Shares of documents. Talk is the largest: it is where question and answer stand together.
GENRES = {passage: 0.22, portrait: 0.04, notes: 0.26, talk: 0.32, quiz: 0.09, short_story: 0.07}


def documents(seed: int) -> Iterator[str]:
    """An endless stream of documents; the same seed gives the same stream."""
    rng = Random(seed)
    genres, weights = list(GENRES), list(GENRES.values())
    while True:
        yield rng.choices(genres, weights=weights)[0](rng)
