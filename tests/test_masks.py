"""Which tokens are trained, and which of a long row stay: every rule written out again for a tokenizer of letters.

A token is a letter, or a control token; a template writes `s:…;u:…;a:…</s>;`. So what truncation, segments and groups
ought to give can be counted on the text, without any of the code under test.
"""

from __future__ import annotations

import logging
import math
import re
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from auto_bot_tuner.data import cache, response_groups, truncation
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.data.response_groups import ResponseGroups
from auto_bot_tuner.data.rows import Rows, Source
from auto_bot_tuner.data.summary import Cuts
from auto_bot_tuner.data.tokenization import MARK, Segment, SegmentTokenizer
from auto_bot_tuner.utils.errors import UserError

Messages = list[dict[str, str]]
END = "</s>"
TEMPLATE = (
    "{% for m in messages %}{% if m['content'] == 'REFUSED' %}{{ raise_exception('not this') }}{% endif %}"
    "{{ m['role'][0] + ':' + m['content'] + ('</s>' if m['role'] == 'assistant' else '') + ';' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'a:' }}{% endif %}"
)
LETTERS = [chr(code) for code in range(32, 127)] + ["\n", "▁"]
WORD_STARTS: dict[str, Any] = {
    "none": lambda _: None,
    "prepend": lambda backend: setattr(backend, "normalizer", normalizers.Prepend("▁")),
    "prepend in a sequence": lambda backend: setattr(
        backend, "normalizer", normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    ),
    "metaspace first": lambda backend: setattr(
        backend, "pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    ),
    "metaspace always": lambda backend: setattr(
        backend, "pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    ),
    "metaspace never": lambda backend: setattr(
        backend, "pre_tokenizer", pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    ),
    "metaspace in a sequence": lambda backend: setattr(
        backend,
        "pre_tokenizer",
        pre_tokenizers.Sequence([pre_tokenizers.Metaspace(prepend_scheme="first", split=False)]),
    ),
}


def letter_tokenizer(
    word_start: str = "none", merges: tuple[tuple[str, str], ...] = (), special: tuple[Any, ...] = (), bos: bool = False
) -> Any:
    """A token for each letter and for each pair in `merges`; `bos`: puts `<s>` before every text by itself."""
    words = [*LETTERS, *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, list(merges), unk_token="?"))
    backend.decoder = decoders.Fuse()
    WORD_STARTS[word_start](backend)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, bos_token="<s>", unk_token="?")
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = TEMPLATE
    if bos:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
    return tokenizer


TOKENIZER = letter_tokenizer()
FORMAT = PromptFormat.from_tokenizer(TOKENIZER)


def says(*contents: str, first: str = "user") -> Messages:
    """Turns, by user and assistant in alternation."""
    order = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": order[i % 2], "content": content} for i, content in enumerate(contents)]


def written(messages: Messages) -> tuple[list[str], list[bool]]:
    """What the template writes, token by token, and which of them are trained."""
    tokens: list[str] = []
    trained: list[bool] = []
    for message in messages:
        is_answer = message["role"] == "assistant"
        own = [*message["content"], *([END] if is_answer else [])]
        tokens += [message["role"][0], ":", *own, ";"]
        trained += [False, False, *[is_answer] * len(own), False]
    return tokens, trained


def ids_of(tokens: list[str]) -> list[int]:
    return TOKENIZER.convert_tokens_to_ids(tokens)


# ---- segments ----


def encoded(tokenizer: Any, *texts: str) -> list[list[int]]:
    return SegmentTokenizer(tokenizer).encode([[Segment(text, False) for text in texts]])[0]


def test_segments_are_tokenised_apart_and_each_as_the_tokenizer_does() -> None:
    tokenizer = letter_tokenizer(merges=(("a", "b"), ("\n", "\n")))
    texts = ("xa", "b\n", "\n", "", "abab")
    assert encoded(tokenizer, *texts) == [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    assert len(tokenizer("xab")["input_ids"]) == 2  # in one piece "a" and "b" would be one
    batch = [[Segment(text, True) for text in texts], [Segment("ab", False)], [Segment("xa", False)]]
    assert SegmentTokenizer(tokenizer).encode(batch) == [encoded(tokenizer, *(s.text for s in row)) for row in batch]


@pytest.mark.parametrize("word_start", WORD_STARTS)
@pytest.mark.parametrize(
    "texts",
    [
        ("one", " two", "three"),
        ("one</s>", "two", "</s> three", "four"),
        ("</s>one", "two</s>", "</s>", "x"),
        ("a", "b</s>c</s>", "d", "</s>"),
    ],
)
def test_no_word_begins_where_a_segment_does(word_start: str, texts: tuple[str, ...]) -> None:
    """Letters do not merge, so the segments one after the other are the whole text as the tokenizer reads it."""
    tokenizer = letter_tokenizer(word_start)
    parts = encoded(tokenizer, *texts)
    assert len(parts) == len(texts)
    assert sum(parts, []) == tokenizer("".join(texts), add_special_tokens=False)["input_ids"]


def byte_level(add_prefix_space: bool) -> Any:
    backend = Tokenizer(models.BPE({chr(c): i for i, c in enumerate([*range(33, 127), 0x120, 0x10A])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)


def test_a_byte_level_space_before_a_text_is_put_once() -> None:
    tokenizer = byte_level(True)
    for texts in (("one", "two"), ("one</s>", "two", "</s>"), ("one", "x</s>b", "c</s>d")):
        parts = encoded(tokenizer, *texts)
        assert sum(parts, []) == tokenizer("".join(texts), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(encoded(tokenizer, "one", "two")[0]) == " one"


@pytest.mark.parametrize("word_start", ["none", "metaspace never"])
def test_a_tokenizer_that_begins_no_words_needs_no_twin(word_start: str) -> None:
    found = SegmentTokenizer(letter_tokenizer(word_start))
    assert (found.continuation, found.prefix_scheme) == (None, "")
    assert SegmentTokenizer(byte_level(False)).continuation is None
    assert SegmentTokenizer(letter_tokenizer("prepend")).prefix_scheme == "always"
    assert SegmentTokenizer(letter_tokenizer("metaspace first")).prefix_scheme == "first"


@pytest.mark.parametrize("word_start", ["none", "prepend", "metaspace first"])
def test_what_the_tokenizer_puts_before_a_text_stands_before_no_segment(word_start: str) -> None:
    """BOS is `with_bos`'s matter: once, at the beginning of a conversation."""
    tokenizer = letter_tokenizer(word_start, bos=True)
    tokens = SegmentTokenizer(tokenizer)
    segments = [Segment("a", False), Segment(tokens.protect("b</s>c"), True), Segment("</s>", True)]
    assert tokenizer.bos_token_id not in sum(tokens.encode([segments])[0], [])


def test_a_text_longer_than_the_model_reads_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Truncation has yet to come; transformers would warn of each."""
    tokenizer = letter_tokenizer()
    tokenizer.model_max_length = 3
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        encoded(tokenizer, "abcdef")
        PromptFormat.from_tokenizer(tokenizer).encode(says("abcdefghij", "x"), 10)
        assert not caplog.records
        tokenizer(["abcdef"])  # the warning that is meant
        assert caplog.records
    finally:
        logger.removeHandler(caplog.handler)


def test_without_special_tokens_nothing_is_protected() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0, "b": 1}, [])))
    assert SegmentTokenizer(bare).protect("ab") == "ab"


def test_a_token_that_swallows_the_white_space_after_it_does_so_over_a_border() -> None:
    tokenizer = letter_tokenizer(special=(AddedToken("<u>", rstrip=True, special=True), "<v>"))
    for texts in (("<u>", "  a b "), ("x<u>", "\n", "c"), ("<v>", " a"), ("<u>", "<v>", " a")):
        found = sum(encoded(tokenizer, *texts), [])
        assert found == tokenizer("".join(texts), add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("word_start", WORD_STARTS)
@pytest.mark.parametrize("content", ["say </s> now", "</s>", "a<im><im>x", "<im>x</s>", "x<s>", "7<im", "y</s>!"])
def test_content_that_names_a_control_token_is_letters(word_start: str, content: str) -> None:
    """The longest that stands there, in full; between, the text of a person goes on: no word begins there."""
    tokenizer = letter_tokenizer(word_start, special=("<im>", "<im>x", "y</s>"))  # the last ends with another one
    tokens = SegmentTokenizer(tokenizer)
    ids = tokens.encode([[Segment("Q: ", False), Segment(tokens.protect(content), True), Segment("</s>", True)]])[0]
    controls = {tokenizer.convert_tokens_to_ids(text) for text in tokens.special_texts}
    assert not controls & set(ids[1]) and ids[2] == [tokenizer.eos_token_id]
    assert "".join(tokenizer.convert_ids_to_tokens(ids[1])).replace("▁", " ") == content


def test_the_marks_between_which_such_texts_travel_are_no_content() -> None:
    tokens = SegmentTokenizer(TOKENIZER)
    assert tokens.protect(f"a{MARK}0{MARK}b") == "a0b"
    assert tokens.protect("plain") == "plain" and tokens.protect("a</s>").count(MARK) == 2
    tokens = SegmentTokenizer(letter_tokenizer(special=("<im>", "<im>xy")))
    assert re.fullmatch(f"{MARK}[0-9]+{MARK}", tokens.protect("<im>xy"))  # of the longest nothing is left


def test_one_bos_or_none() -> None:
    own, other = SegmentTokenizer(letter_tokenizer(bos=True)), SegmentTokenizer(TOKENIZER)
    bos = own.tokenizer.bos_token_id
    assert own.with_bos([5, 6]) == [bos, 5, 6] and own.with_bos([bos, 5]) == [bos, 5] and own.with_bos([]) == [bos]
    assert other.with_bos([5, 6]) == [5, 6] and other.with_bos([]) == []


def test_a_tokenizer_that_is_not_fast_is_refused_with_the_cure() -> None:
    class Slow:
        is_fast = False

    for tokenizer in (Slow(), object()):
        with pytest.raises(
            UserError, match=r"^this tokenizer has no fast .* version: convert it with AutoTokenizer first$"
        ):
            SegmentTokenizer(tokenizer)


# ---- truncation ----


@dataclass
class Expected:
    """A prompt with responses after truncation, by the rules as they are written."""

    prompt: Messages
    responses: list[Messages]
    turns: int = 0
    cut: int = 0
    opening: list[str] = field(default_factory=lambda: ["a", ":"])

    @property
    def prompt_length(self) -> int:
        return len(written(self.prompt)[0] + self.opening)

    @property
    def needed(self) -> int:
        """Up to the last trained token of the longest side."""
        sides = [written(self.prompt + response)[1] for response in self.responses]
        return max(len(trained) - trained[::-1].index(True) for trained in sides)

    def shorten(self, limit: int, of: str, kept: int) -> None:
        """The fewest oldest turns, then the fewest first letters of the last question, but for `kept`."""
        users = [i for i, message in enumerate(self.prompt) if message["role"] == "user"]
        system = [message for message in self.prompt if message["role"] == "system"]
        whole = self.prompt
        for dropped in range(len(users)):
            if dropped:
                self.prompt = system + whole[users[dropped] :]
            if getattr(self, of) <= limit:
                break
        self.turns += dropped
        if getattr(self, of) <= limit:
            return
        place = next(i for i, message in enumerate(self.prompt) if message["role"] == "user")
        question = self.prompt[place]["content"]
        cut = min(getattr(self, of) - limit, max(0, len(question) - kept))
        shorter = {"role": "user", "content": question[cut:]}
        self.prompt, self.cut = [*self.prompt[:place], shorter, *self.prompt[place + 1 :]], self.cut + cut

    def sides(self, limit: int) -> list[tuple[list[int], list[bool], tuple[int, int, int]]]:
        found = []
        for response in self.responses:
            tokens, trained = written(self.prompt + response)
            lost = sum(trained[limit:])
            found.append((ids_of(tokens[:limit]), trained[:limit], (self.turns, self.cut, lost)))
        return found


def truncated(
    prompt: Messages, responses: list[Messages], max_length: int, max_prompt_length: int | None = None
) -> Expected:
    """By the rules: what fits is left alone; else the prompt by its own limit, then all by the length."""
    expected = Expected(prompt, responses)
    longest = max(len(written(prompt + response)[0]) for response in responses)
    if longest <= max_length and expected.prompt_length <= (max_prompt_length or longest):
        return expected
    if max_prompt_length:
        expected.shorten(max_prompt_length, "prompt_length", kept=1)
    expected.shorten(max_length, "needed", kept=max_length // 8)
    return expected


WORD = st.text("abcde", min_size=1, max_size=12)


@st.composite
def questions(draw: st.DrawFn) -> Messages:
    """A system message or none, turns, and a question."""
    system = [{"role": "system", "content": draw(WORD)}] if draw(st.booleans()) else []
    return system + says(*draw(st.lists(WORD, min_size=1, max_size=7).filter(lambda words: len(words) % 2)))


ANSWERS = st.lists(WORD, min_size=1, max_size=3).filter(lambda words: len(words) % 2)


@settings(max_examples=50, deadline=None)
@given(questions(), WORD, st.integers(4, 90))
def test_a_row_is_cut_as_the_rule_says(question: Messages, answer: str, max_length: int) -> None:
    responses = [says(answer, first="assistant")]
    row = FORMAT.encode(question + responses[0], max_length)
    ((ids, trained, cuts),) = truncated(question, responses, max_length).sides(max_length)
    assert (row.input_ids, row.trained) == (ids, trained)
    assert (row.dropped_turns, row.cut_prompt, row.cut_response) == cuts


@settings(max_examples=50, deadline=None)
@given(
    questions(),
    st.lists(ANSWERS, min_size=1, max_size=3),
    st.integers(4, 90),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_a_group_is_cut_as_the_rule_says_and_for_all_its_sides_alike(
    question: Messages, answers: list[list[str]], max_length: int, max_prompt_length: int | None
) -> None:
    responses = [says(*answer, first="assistant") for answer in answers]
    (group,) = FORMAT.encode_groups([(question, responses)], max_length, max_prompt_length)
    expected = truncated(question, responses, max_length, max_prompt_length)
    found = [(s.input_ids, s.trained, (s.dropped_turns, s.cut_prompt, s.cut_response)) for s in group.sides]
    assert found == expected.sides(max_length)
    assert group.prompt_length == min(expected.prompt_length, max_length, *(len(ids) for ids, _, _ in found))


@pytest.mark.parametrize("system", ["", "be brief"])
def test_how_many_turns_go_is_found_in_two_looks_however_many_there_are(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look writes and tokenises the conversation anew: one too few, then the first that fits."""
    looks: list[int] = []
    encode_batch = FORMAT.encode_batch
    messages = says(*("a" * (1 + (7 * i + 10) % 11) for i in range(12)))
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    whole = len(written(messages)[0])
    rows = encode_batch([messages] * whole)  # a row of its own for each length, as it is cut in place
    monkeypatch.setattr(FORMAT, "encode_batch", lambda *args: looks.append(1) or encode_batch(*args))
    for max_length in range(14 + len(system), whole):
        looks.clear()
        row = truncation.fit(FORMAT, messages, rows[max_length], max_length)
        ((ids, _, cuts),) = truncated(messages[:-1], [messages[-1:]], max_length).sides(max_length)
        assert row.input_ids == ids and (row.dropped_turns, row.cut_prompt, row.cut_response) == cuts
        if cuts[1:] == (0, 0):  # turns were enough
            # The first turn's length holds the system message, which stays: then there may be one look more.
            assert len(looks) <= (3 if system else 2) and (len(looks) >= 1) == (cuts[0] > 0)


@pytest.mark.parametrize("max_length", [9, 12, 13, 14, 15, 17, 19, 20, 23])
def test_where_the_tokenizer_puts_bos_the_question_loses_its_start_all_the_same(max_length: int) -> None:
    tokenizer = letter_tokenizer(bos=True)
    row = PromptFormat.from_tokenizer(tokenizer).encode(says("abcdefghijklmnopq", "xy"), max_length)
    expected = truncated(says("abcdefghijklmnopq"), [answer("xy")], max_length - 1)  # one place is BOS's
    ((ids, trained, cuts),) = expected.sides(max_length - 1)
    assert row.input_ids == [tokenizer.bos_token_id, *ids] and row.trained == [False, *trained]
    assert (row.dropped_turns, row.cut_prompt, row.cut_response) == cuts


@pytest.mark.parametrize("max_length", [12, 20, 25, 30])
def test_what_stands_between_the_last_question_and_the_answer_stays(max_length: int) -> None:
    """Two assistant's turns in a row: the first is neither cut nor lost with the question's start."""
    messages = [*says("x" * 20, "first"), *answer("last")]
    row = FORMAT.encode(messages, max_length)
    ((ids, trained, cuts),) = truncated(messages[:2], [messages[2:]], max_length).sides(max_length)
    assert (row.input_ids, row.trained) == (ids, trained)
    assert (row.dropped_turns, row.cut_prompt, row.cut_response) == cuts


def test_tokens_that_merge_otherwise_at_the_new_beginning_are_looked_at_again() -> None:
    """`ab` is a token: without its first letter `bb` begins with another one, and the text is as long as before."""
    tokenizer = letter_tokenizer(merges=(("a", "b"), ("b", "b"), ("bb", "bb")))
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    for question in ("abbbbabbbb" * 3, "bbbbbbbbabab" * 2, "aabbabbbba" * 3):
        whole = prompt_format.encode(says(question, "x"))
        for max_length in range(9, len(whole.input_ids)):
            row = prompt_format.encode(says(question, "x"), max_length)
            assert len(row.input_ids) <= max_length and row.trained.count(True) + row.cut_response == 2
            kept = tokenizer.decode(row.input_ids).removeprefix("u:").split(";")[0]
            assert question.endswith(kept)
            if (
                not row.cut_response
            ):  # as little as needed: with one token more of the question it would not have fitted
                length = len(tokenizer(question)["input_ids"])
                offsets = tokenizer(question, return_offsets_mapping=True)["offset_mapping"]
                assert kept == question[offsets[row.cut_prompt][0] :] and 0 <= row.cut_prompt < length


def test_a_conversation_that_the_assistant_begins_has_no_question_to_cut() -> None:
    messages = says("a" * 20, first="assistant")
    row = FORMAT.encode(messages, 10)
    assert row.input_ids == ids_of(["a", ":", *"a" * 8]) and row.cut_response == 13
    assert (row.dropped_turns, row.cut_prompt) == (0, 0)


# ---- groups ----


def groups_of(rows: list[dict[str, Any]], max_length: int = 200, **given_settings: Any) -> ResponseGroups:
    return ResponseGroups(rows, TOKENIZER, max_length, **given_settings)


def check(dataset: ResponseGroups, index: int, prompt: Messages, responses: list[Messages], **limits: Any) -> None:
    """Group `index` is this prompt with these responses, as the rules of truncation leave them."""
    limit = dataset.summary.max_length
    expected = truncated(prompt, responses, limit, **limits)
    sides, group = expected.sides(limit), dataset.group(index)
    shared = group.prompt_length
    assert shared == min(expected.prompt_length, *(len(ids) for ids, _, _ in sides))
    assert [ids.tolist() for ids in group.input_ids] == [ids for ids, _, _ in sides]
    labels = [
        [i if t >= shared and is_trained else -100 for t, (i, is_trained) in enumerate(zip(ids, trained, strict=True))]
        for ids, trained, _ in sides
    ]
    assert [found.tolist() for found in group.labels] == labels
    assert all(x.dtype == torch.long for x in (*group.input_ids, *group.labels))
    assert dataset.cuts(index) == [Cuts(*cuts) for _, _, cuts in sides]
    assert dataset.lengths[index] == shared + sum(len(ids) - shared for ids, _, _ in sides)
    assert dataset.trained_tokens[index] == sum(label != -100 for row in labels for label in row)
    assert dataset.rows[index].prompt == prompt and dataset.rows[index].responses == responses
    whole = [written(prompt + response) for response in responses]
    assert [(s.input_ids, s.trained) for s in dataset.uncut(index).sides] == [(ids_of(t), m) for t, m in whole]


ROWS = [
    {"prompt": "hi", "chosen": "yes", "rejected": "no"},
    {"prompt": says("one", "two", "three"), "chosen": "a" * 30, "rejected": says("b", "more?", "c", first="assistant")},
    {"prompt": "x" * 40, "chosen": "fine", "rejected": "y" * 60, "category": "long"},
    {"prompt": "hi", "chosen": "ab", "rejected": "c"},
]


def answer(text: str) -> Messages:
    return says(text, first="assistant")


EXPECTED: list[tuple[Messages, list[Messages]]] = [
    (says("hi"), [answer("yes"), answer("no")]),
    (says("one", "two", "three"), [answer("a" * 30), says("b", "more?", "c", first="assistant")]),
    (says("x" * 40), [answer("fine"), answer("y" * 60)]),
    (says("hi"), [answer("ab"), answer("c")]),
]


@pytest.mark.parametrize("rows_per_call", [1, 3, 1000])
@pytest.mark.parametrize(("max_length", "max_prompt_length"), [(200, None), (48, None), (48, 12), (200, 9)])
def test_pairs_are_the_prompt_once_and_two_answers(
    max_length: int, max_prompt_length: int | None, rows_per_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_groups, "ROWS_PER_CALL", rows_per_call)
    dataset = groups_of(ROWS, max_length, max_prompt_length=max_prompt_length)
    assert len(dataset) == len(dataset.lengths) == 4
    for index, (prompt, responses) in enumerate(EXPECTED):
        check(dataset, index, prompt, responses, max_prompt_length=max_prompt_length)
        assert all(math.isnan(score) for score in dataset.group(index).scores)
        assert dataset.where(index) == f"row {index}"
    assert [dataset.category(i) for i in range(4)] == ["", "", "long", ""]
    summary, groups = dataset.summary, [dataset.group(i) for i in range(4)]
    cuts = [dataset.cuts(i) for i in range(4)]
    assert (summary.rows, summary.kept, summary.dropped, summary.drop_reasons) == (4, 4, 0, {})
    assert summary.cut == sum(any(any(side) for side in sides) for sides in cuts)
    assert summary.cut_turns == sum(any(side.turns for side in sides) for sides in cuts)
    assert summary.cut_prompts == sum(any(side.prompt for side in sides) for sides in cuts)
    assert summary.cut_responses == sum(any(side.response for side in sides) for sides in cuts)
    assert (summary.cut > 0) == (max_length < 200 or max_prompt_length is not None)
    assert summary.tokens == sum(dataset.lengths) and summary.trained_tokens == sum(dataset.trained_tokens)
    assert summary.longest == max(len(ids) for group in groups for ids in group.input_ids)
    assert (summary.unit, summary.max_length) == ("pairs", max_length)


def test_items_have_the_names_of_the_sides_or_lists_of_them() -> None:
    pairs, group = groups_of(ROWS), groups_of(ROWS).group(1)
    item = pairs[1]
    assert set(item) == {"prompt_length"} | {
        f"{side}_{name}" for side in ("chosen", "rejected") for name in ("input_ids", "attention_mask", "labels")
    }
    for k, side in enumerate(("chosen", "rejected")):
        assert torch.equal(item[f"{side}_input_ids"], group.input_ids[k])
        assert torch.equal(item[f"{side}_labels"], group.labels[k])
        assert torch.equal(item[f"{side}_attention_mask"], torch.ones_like(group.input_ids[k]))
    assert item["prompt_length"].tolist() == [group.prompt_length]
    ranking = groups_of(ROWS, kind="rankings")[1]
    assert set(ranking) == {"prompt_length", "input_ids", "attention_mask", "labels", "scores"}
    for found, expected in zip(ranking["input_ids"], group.input_ids, strict=True):
        assert torch.equal(found, expected)
    assert all(torch.equal(a, b) for a, b in zip(ranking["labels"], group.labels, strict=True))
    assert [mask.tolist() for mask in ranking["attention_mask"]] == [[1] * len(ids) for ids in group.input_ids]
    assert ranking["scores"].isnan().all() and ranking["prompt_length"].tolist() == [group.prompt_length]
    assert torch.equal(pairs[-1]["chosen_input_ids"], pairs[3]["chosen_input_ids"])
    assert pairs.cuts(-2) == pairs.cuts(2)
    with pytest.raises(IndexError):
        pairs.group(4)


def test_the_first_different_prompts() -> None:
    dataset = groups_of(ROWS)
    assert dataset.prompts(2) == [EXPECTED[0][0], EXPECTED[1][0]]
    assert dataset.prompts(9) == [EXPECTED[0][0], EXPECTED[1][0], EXPECTED[2][0]]  # "hi" stands there twice
    assert dataset.prompts(0) == []
    assert groups_of(ROWS, system_prompt="be").prompts(1) == [[{"role": "system", "content": "be"}, *says("hi")]]


RANKED = {"prompt": "hi", "responses": ["cc", "a", "bbb"], "ranks": [3, 1, 2]}


def test_rankings_scores_and_single_answers() -> None:
    ranking = groups_of([RANKED, ROWS[0]], kind="rankings")
    check(ranking, 0, says("hi"), [answer("a"), answer("bbb"), answer("cc")])
    check(ranking, 1, *EXPECTED[0])
    scored = groups_of(
        [{"prompt": "hi", "responses": ["a", "b"], "scores": [1, 3]}, {"prompt": "ho", "response": "x", "score": 2}],
        kind="scores",
    )
    check(scored, 0, says("hi"), [answer("b"), answer("a")])
    check(scored, 1, says("ho"), [answer("x")])
    assert [scored.group(i).scores for i in range(2)] == [[3, 1], [2]]
    assert scored[1]["scores"].tolist() == [2]
    single = groups_of([ROWS[0], {"prompt": "ho", "completion": "yo", "label": True}], kind="unpaired")
    for index, (prompt, text, good) in enumerate([("hi", "yes", 1), ("hi", "no", 0), ("ho", "yo", 1)]):
        check(single, index, says(prompt), [answer(text)])
        assert single.group(index).scores == [good]
    assert [dataset.summary.unit for dataset in (ranking, scored, single)] == ["rankings", "groups", "answers"]


def test_a_response_that_is_left_out_takes_its_number_along() -> None:
    """At 12 tokens `zzzzzzzzz` and `zzzzzzzzy` are the same: the first stays. A number belongs to its own response."""
    row = {"prompt": "hi", "responses": ["zzzzzzzzz", "q", "zzzzzzzzy"], "scores": [3, 1, 2], "category": "odd"}
    dataset = groups_of([ROWS[0], row, RANKED], 12, kind="rankings")
    check(dataset, 1, says("hi"), [answer("zzzzzzzzz"), answer("q")])
    assert dataset.group(1).scores == [3, 1] and dataset.category(1) == "odd"
    check(dataset, 2, says("hi"), [answer("a"), answer("bbb"), answer("cc")])
    assert len(dataset.group(0).input_ids) == 2 and dataset.summary.drop_reasons == {}
    kept = groups_of([row], 12, kind="scores")  # where nothing is compared, all stay
    assert kept.group(0).scores == [3, 2, 1] and len(kept.group(0).input_ids) == 3


def test_what_is_lost_is_counted_by_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    system = [{"role": "system", "content": "s" * 30}]
    rows = [
        {"prompt": system + says("hi"), "chosen": "a", "rejected": "b"},  # no room
        ROWS[0],
        {"prompt": "hi", "chosen": "z" * 20 + "a", "rejected": "z" * 20 + "b"},  # equal
        *[{"prompt": "hi", "chosen": "same", "rejected": "same"}] * 2,
        {"prompt": system + says("ho"), "chosen": "a", "rejected": "b"},  # no room
        ROWS[3],
    ]
    for rows_per_call in (1, 2, 1000):
        monkeypatch.setattr(response_groups, "ROWS_PER_CALL", rows_per_call)
        dataset = groups_of(rows, 16)
        assert dataset.summary.drop_reasons == {
            "identical responses": 2,
            "no room for a response": 2,
            "equal after truncation": 1,
        }
        assert (dataset.summary.rows, dataset.summary.kept, dataset.summary.dropped) == (7, 2, 5)
        check(dataset, 0, *EXPECTED[0])
        check(dataset, 1, *EXPECTED[3])
        assert [dataset.where(i) for i in range(2)] == ["row 1", "row 6"]
    alone = groups_of([rows[0], {"prompt": "hi", "completion": "b", "label": True}], 16, kind="unpaired")
    assert alone.summary.drop_reasons == {"no room for a response": 2} and len(alone) == 1


@pytest.mark.parametrize(
    ("rows", "max_length", "message"),
    [
        ([], 200, r"no pairs are left to learn from \(no rows given\): look at the rows, .* responses that differ"),
        ([ROWS[0]], 4, r"\(1 no room for a response\): raise --max-length, or lower --max-prompt-length"),
        (
            [{"prompt": "hi", "chosen": "z" * 20 + "a", "rejected": "z" * 20 + "b"}] * 2
            + [ROWS[0] | {"rejected": "yes"}],
            12,
            r"\(1 identical responses, 2 equal after truncation\): raise --max-length: the responses differ only",
        ),
        (
            [{"prompt": "hi", "response": "a", "score": 1}],
            200,
            r"\(1 one response only\): a response is compared with others .* train-reward --objective scores",
        ),
        ([ROWS[0], ROWS[3], ROWS[0] | {"prompt": "REFUSED"}], 200, r"^row 2: .*not this"),
        ([ROWS[0], ROWS[3], ROWS[1], ROWS[0] | {"prompt": "REFUSED"}], 200, r"^row 3: .*not this"),
        ([ROWS[0], {"prompt": "hi", "chosen": "a"}], 200, r"^row 1: expected the columns of preference data"),
    ],
)
def test_where_nothing_is_left_or_a_row_is_refused_one_line_says_so(
    rows: list[dict[str, Any]], max_length: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(response_groups, "ROWS_PER_CALL", 2)
    with pytest.raises(UserError, match=message) as error:
        groups_of(rows, max_length)
    assert "\n" not in str(error.value)


def test_rows_are_found_as_their_source_names_them() -> None:
    rows = Rows([Source("a.jsonl", ROWS, [f"line {i + 1}" for i in range(4)])])
    assert groups_of(rows).where(2) == "a.jsonl line 3"  # type: ignore[arg-type]


def test_the_cache_knows_one_setting_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST", 1)
    for limits in ({}, {"max_length": 48}, {"max_length": 48, "max_prompt_length": 12}, {"kind": "unpaired"}):
        made, read = groups_of(ROWS, **limits), groups_of(ROWS, **limits)
        assert made.lengths == read.lengths and made.summary == read.summary
        with monkeypatch.context() as patch:
            patch.setattr(cache, "SMALLEST", 10**6)
            assert groups_of(ROWS, **limits).lengths == made.lengths  # as without a cache


def test_the_defaults_are_pairs_of_512_tokens_and_a_limit_of_0_is_none() -> None:
    dataset = ResponseGroups(ROWS, TOKENIZER)
    assert (dataset.kind, dataset.summary.max_length, dataset.max_prompt_length) == ("pairs", 512, None)
    assert groups_of(ROWS, 48, max_prompt_length=0).lengths == groups_of(ROWS, 48).lengths
    assert dataset.stop_token_ids == (TOKENIZER.eos_token_id,) and dataset.tokenizer is TOKENIZER
