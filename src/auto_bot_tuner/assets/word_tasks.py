"""Tasks on words, lists and numbers: what must be worked out from the question itself."""

from __future__ import annotations

from random import Random

from .examples import Example
from .facts import KINDS, NAMES, SPELLED, WORDS

ORDINALS = ("first", "second", "third", "fourth")
SORT_NAMES = {3: "sort_three", 4: "sort_four", 5: "sort_five"}


def _joined(items: list[str] | list[int]) -> str:
    return ", ".join(str(item) for item in items)


def _swapped(items: list, rng: Random) -> list:
    """The same items with two of them exchanged: the most common mistake with lists."""
    i, j = rng.sample(range(len(items)), 2)
    items = list(items)
    items[i], items[j] = items[j], items[i]
    return items


def reverse(rng: Random) -> Example:
    words = rng.sample(WORDS, rng.choice((3, 4)))
    text, backwards = _joined(words), _joined(words[::-1])
    return Example(
        task="reverse",
        key=min(text, backwards),  # a list and its reverse are one question: neither may give the other away
        prompts=(
            f"What is {text} backwards?",
            f"Say this list backwards: {text}",
            f"Reverse the list: {text}",
            f"Put these words in reverse order: {text}",
        ),
        prompts_with_input=("Reverse the list.", "Write the words in reverse order."),
        input=text,
        output=f"Backwards: {backwards}.",
        wrong=f"Backwards: {_joined(_swapped(words[::-1], rng))}.",
        statements=(f"Take the list {text}. Backwards: {backwards}.", f"Forwards: {text}. Backwards: {backwards}."),
    )


def nth_word(rng: Random) -> Example:
    words = rng.sample(WORDS, rng.choice((4, 5)))
    position = rng.randrange(len(words)) if rng.random() < 0.8 else -1
    name = "last" if position in (-1, len(words) - 1) else ORDINALS[position]
    text, answer = _joined(words), words[position]
    return Example(
        task="nth_word",
        key=f"{name} of {text}",
        prompts=(
            f"Which word is {name}: {text}?",
            f"What is the {name} word of {text}?",
            f"Find the {name} word: {text}",
            f"Name the {name} word of this list: {text}",
        ),
        prompts_with_input=(f"Find the {name} word.", f"Which word is the {name} one?"),
        input=text,
        output=f"The {name} word is {answer}.",
        wrong=f"The {name} word is {rng.choice([word for word in words if word != answer])}.",
        statements=(f"In the list {text}, the {name} word is {answer}.", f"List: {text}. The {name} word is {answer}."),
    )


def odd_one_out(rng: Random) -> Example:
    kind, other = rng.sample(list(KINDS), 2)
    odd = rng.choice(KINDS[other])
    words = rng.sample([*rng.sample(KINDS[kind], 3), odd], 4)
    text = _joined(words)
    return Example(
        task="odd_one_out",
        key=_joined(sorted(words)),
        prompts=(
            f"Which word does not belong: {text}?",
            f"Find the odd one out: {text}",
            f"One of these is of another kind. Which one? {text}",
        ),
        prompts_with_input=("Find the word that does not belong.",),
        input=text,
        output=f"The word that does not belong is {odd}.",
        wrong=f"The word that does not belong is {rng.choice([word for word in words if word != odd])}.",
        statements=(
            f"Among {text}, the word that does not belong is {odd}.",
            f"Words: {text}. The word that does not belong is {odd}.",
        ),
    )


def pick(rng: Random) -> Example:
    kinds = rng.sample(list(KINDS), 4)
    words = {rng.choice(KINDS[kind]): kind for kind in kinds}
    answer, text = rng.choice(list(words)), _joined(list(words))
    wanted = words[answer]
    return Example(
        task="pick",
        key=f"{wanted} in {_joined(sorted(words))}",
        prompts=(
            f"Which word names a kind of {wanted}: {text}?",
            f"Find the {wanted}: {text}",
            f"Pick the {wanted} from this list: {text}",
        ),
        prompts_with_input=(f"Which of these is of the kind {wanted}?",),
        input=text,
        output=f"The {wanted} is {answer}.",
        wrong=f"The {wanted} is {rng.choice([word for word in words if word != answer])}.",
        statements=(f"Among {text}, the {wanted} is {answer}.", f"Words: {text}. The {wanted} is {answer}."),
    )


def spell(rng: Random) -> Example:
    word = rng.choice(SPELLED)
    letters = " ".join(word)
    mistake = " ".join(_swapped(list(word), rng))
    if mistake == letters:  # two equal letters were exchanged: leave one out instead
        mistake = letters[:-2]
    return Example(
        task="spell",
        key=word,
        prompts=(
            f"How do you spell {word}?",
            f"Spell the word {word}.",
            f"Spell {word} letter by letter.",
            f"Write {word} with a space after each letter.",
        ),
        output=f"The word {word} is spelled {letters}.",
        wrong=f"The word {word} is spelled {mistake}.",
        statements=(
            f"The word {word} is spelled {letters}.",
            f"{word}: {letters}.",
            f"The letters {letters} make {word}.",
        ),
    )


def letter(rng: Random) -> Example:
    word = rng.choice(SPELLED)
    which, answer = rng.choice((("first", word[0]), ("last", word[-1]), ("second", word[1])))
    wrong = rng.choice([other for other in "abcdefghilmnoprstuy" if other != answer])
    return Example(
        task="letter",
        key=f"{which} of {word}",
        prompts=(
            f"What is the {which} letter of {word}?",
            f"Which letter is the {which} one in {word}?",
            f"Name the {which} letter of the word {word}.",
            f"Tell me the {which} letter of {word}.",
        ),
        output=f"The {which} letter of {word} is {answer}.",
        wrong=f"The {which} letter of {word} is {wrong}.",
        statements=(
            f"The {which} letter of {word} is {answer}.",
            f"{word}: {' '.join(word)}. The {which} letter is {answer}.",
        ),
    )


def add(rng: Random) -> Example:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return Example(
        task="add",
        key=f"{min(a, b)}+{max(a, b)}",
        prompts=(
            f"What is {a} plus {b}?",
            f"How much is {a} + {b}?",
            f"Add {a} and {b}.",
            f"Find the sum of {a} and {b}.",
        ),
        output=f"The sum of {a} and {b} is {a + b}.",
        wrong=f"The sum of {a} and {b} is {a + b + rng.choice((-10, -1, 1, 10))}.",
        statements=(f"The sum of {a} and {b} is {a + b}.",) * 3 + (f"{a} + {b} = {a + b}.",),
    )


def extreme(rng: Random) -> Example:
    numbers = rng.sample(range(10, 100), rng.choice((3, 4)))
    which, answer = rng.choice((("largest", max(numbers)), ("smallest", min(numbers))))
    text = _joined(numbers)
    return Example(
        task="extreme",
        key=f"{which} of {_joined(sorted(numbers))}",
        prompts=(
            f"What is the {which} number: {text}?",
            f"Which of these numbers is the {which}: {text}?",
            f"Find the {which} number: {text}",
        ),
        prompts_with_input=(f"Find the {which} number.", f"Name the {which} of these numbers."),
        input=text,
        output=f"The {which} number is {answer}.",
        wrong=f"The {which} number is {rng.choice([number for number in numbers if number != answer])}.",
        statements=(f"Of {text}, the {which} number is {answer}.", f"Numbers: {text}. The {which} number is {answer}."),
    )


def sort_numbers(length: int, rng: Random) -> Example:
    numbers = rng.sample(range(10, 100), length)
    text, in_order = _joined(numbers), sorted(numbers)
    return Example(
        task=SORT_NAMES[length],
        key=_joined(in_order),  # the same numbers in any order are one question
        prompts=(
            f"What is {text} in order?",
            f"Sort these numbers: {text}",
            f"Put these numbers in order, the smallest first: {text}",
        ),
        prompts_with_input=("Sort the numbers.", "Write the numbers in order, from small to large."),
        input=text,
        output=f"In order: {_joined(in_order)}.",
        wrong=f"In order: {_joined(_swapped(in_order, rng))}.",
        statements=(
            f"Numbers: {text}. In order: {_joined(in_order)}.",
            f"Take {text}. In order: {_joined(in_order)}.",
        ),
    )


def sort_three(rng: Random) -> Example:
    return sort_numbers(3, rng)


def sort_five(rng: Random) -> Example:
    return sort_numbers(5, rng)


def sort_down(rng: Random) -> Example:
    """The hard task: the base has only read rising lists, so fine-tuning leaves it half-learnt, for RL to finish."""
    numbers = rng.sample(range(10, 100), 5)
    text, in_order = _joined(numbers), sorted(numbers, reverse=True)
    return Example(
        task="sort_down",
        key=_joined(in_order),
        prompts=(f"Sort these numbers downwards: {text}", f"Put these numbers in order, the largest first: {text}"),
        prompts_with_input=("Sort the numbers downwards.", "Write the numbers in order, from large to small."),
        input=text,
        output=f"Downwards: {_joined(in_order)}.",
        wrong=f"Downwards: {_joined(_swapped(in_order, rng))}.",
        statements=(f"Numbers: {text}. Downwards: {_joined(in_order)}.",),
    )


def who_has(rng: Random) -> Example:
    """Reading: the answer stands in the text of the question, in one of three sentences."""
    names, things = rng.sample(NAMES, 3), rng.sample(WORDS, 3)
    text = " ".join(f"{name} has the {thing}." for name, thing in zip(names, things, strict=True))
    asked = rng.randrange(3)
    name, thing = names[asked], things[asked]
    by_thing = (f"Who has the {thing}?", f"Which person has the {thing}?")
    by_name = (f"What does {name} have?", f"Which thing does {name} have?")
    questions = by_thing if rng.random() < 0.5 else by_name
    return Example(
        task="who_has",
        key=f"{text} {questions[0]}",
        prompts=tuple(f"{text} {question}" for question in questions),
        prompts_with_input=questions,
        input=text,
        output=f"{name} has the {thing}.",
        wrong=f"{names[asked - 1]} has the {thing}.",
        statements=(f"{text} {questions[0]} {name} has the {thing}.",),
    )
