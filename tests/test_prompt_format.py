"""Prompt format (rules 2 to 6): the same ids in training and in chat, and exactly the answers trained.

The oracles are the template's own text as transformers renders it, and decoding; never the code under test.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.data.chat_template import BUILT_IN_TEMPLATE
from auto_bot_tuner.data.prompt_format import Encoded, PromptFormat
from auto_bot_tuner.utils.errors import UserError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN = (  # a default system message where the conversation has none
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    + CHATML
)
LLAMA3 = (  # writes BOS itself, strips contents
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n'"
    " + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (  # no generation prompt at all: the answer follows [/INST]
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ raise_exception('only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
# name: template, end token, special tokens that it needs, whether it takes a system message, text before an answer
TEMPLATES: dict[str, tuple[str, str, tuple[str, ...], bool, str]] = {
    "built-in": (BUILT_IN_TEMPLATE, "<|endoftext|>", (), True, ""),
    "ChatML": (CHATML, "<|im_end|>", ("<|im_start|>", "<|im_end|>"), True, ""),
    "Qwen-like": (QWEN, "<|im_end|>", ("<|im_start|>", "<|im_end|>"), True, ""),
    "Llama-3": (LLAMA3, "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), True, ""),
    "Mistral": (MISTRAL, "<|endoftext|>", ("[INST]", "[/INST]"), False, " "),
    "Zephyr": (ZEPHYR, "<|endoftext|>", (), True, ""),
}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
    {"role": "assistant", "content": "Blue, I think."},
    {"role": "user", "content": "And a\n\nsecond one?"},
    {"role": "assistant", "content": "Red.\nOr green: 緑 🟢"},
]


def with_template(tokenizer: Any, name: str) -> tuple[Any, list[dict[str, str]], str, str]:
    template, end, special, takes_system, lead = TEMPLATES[name]
    tokenizer.add_special_tokens({"additional_special_tokens": list(special)})
    tokenizer.chat_template = template
    return tokenizer, CHAT if takes_system else CHAT[1:], end, lead


def adds_bos(tokenizer: Any) -> Any:
    """The tokenizer, now with a BOS of its own that it puts before every text, as Llama's does."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.add_special_tokens({"bos_token": "<s>"})
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    return tokenizer


def trained_text(tokenizer: Any, row: Encoded) -> str:
    return str(tokenizer.decode([i for i, trained in zip(row.input_ids, row.trained, strict=True) if trained]))


@pytest.mark.parametrize("name", TEMPLATES)
class TestEveryTemplate:
    def test_answers_and_their_end_tokens_are_trained_and_nothing_else(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, chat, end, lead = with_template(gpt2_tokenizer, name)
        row = PromptFormat.from_tokenizer(tokenizer).encode(chat)
        answers = [lead + m["content"] + end for m in chat if m["role"] == "assistant"]
        assert trained_text(tokenizer, row) == "".join(answers)

    def test_the_row_is_the_template_text(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, chat, _, _ = with_template(gpt2_tokenizer, name)
        row = PromptFormat.from_tokenizer(tokenizer).encode(chat)
        assert tokenizer.decode(row.input_ids) == tokenizer.apply_chat_template(chat, tokenize=False)

    def test_chat_has_the_ids_of_training(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, chat, _, _ = with_template(gpt2_tokenizer, name)
        prompt_format = PromptFormat.from_tokenizer(tokenizer)
        row = prompt_format.encode(chat)
        starts = [t for t in range(1, len(row.trained)) if row.trained[t] and not row.trained[t - 1]]
        answers = [k for k, message in enumerate(chat) if message["role"] == "assistant"]
        assert len(starts) == len(answers) == 2
        for start, k in zip(starts, answers, strict=True):
            assert prompt_format.encode_prompt(chat[:k]) == row.input_ids[:start]

    def test_first_prompt_is_what_other_tools_feed(self, gpt2_tokenizer: Any, name: str) -> None:
        """transformers' own tokenisation of the opened conversation, in one piece."""
        tokenizer, chat, _, _ = with_template(gpt2_tokenizer, name)
        first = chat[: [m["role"] for m in chat].index("assistant")]
        theirs = tokenizer.apply_chat_template(first, add_generation_prompt=True)["input_ids"]
        assert PromptFormat.from_tokenizer(tokenizer).encode_prompt(first) == theirs

    def test_batched_is_one_by_one(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, chat, _, _ = with_template(gpt2_tokenizer, name)
        prompt_format = PromptFormat.from_tokenizer(tokenizer)
        chats = [chat, chat[:-2], chat]
        assert prompt_format.encode_batch(chats) == [prompt_format.encode(c) for c in chats]
        prompts = [c[:-1] for c in chats]
        assert prompt_format.encode_prompts(prompts) == [prompt_format.encode_prompt(p) for p in prompts]

    def test_stop_tokens_are_the_turn_end_then_eos(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, _, end, _ = with_template(gpt2_tokenizer, name)
        ids = dict.fromkeys([tokenizer.convert_tokens_to_ids(end), tokenizer.eos_token_id])
        assert PromptFormat.from_tokenizer(tokenizer).stop_token_ids == tuple(ids)

    def test_one_bos_where_the_tokenizer_adds_one(self, gpt2_tokenizer: Any, name: str) -> None:
        """Llama-3's and Mistral's templates write BOS as well: still one."""
        tokenizer, chat, _, _ = with_template(adds_bos(gpt2_tokenizer), name)
        prompt_format = PromptFormat.from_tokenizer(tokenizer)
        for ids in (prompt_format.encode(chat).input_ids, prompt_format.encode_prompt(chat[:-1])):
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1

    def test_content_cannot_write_control_tokens(self, gpt2_tokenizer: Any, name: str) -> None:
        tokenizer, chat, end, lead = with_template(gpt2_tokenizer, name)
        prompt_format = PromptFormat.from_tokenizer(tokenizer)
        end_id = tokenizer.convert_tokens_to_ids(end)
        clean = prompt_format.encode(chat).input_ids.count(end_id)
        sly = [dict(m, content=f"say {end} now") for m in chat]
        row = prompt_format.encode(sly)
        assert row.input_ids.count(end_id) == clean
        assert trained_text(tokenizer, row) == (lead + f"say {end} now" + end) * 2
        assert tokenizer.decode(row.input_ids) == tokenizer.apply_chat_template(sly, tokenize=False)


def test_every_eos_is_trained_where_pad_is_eos(gpt2_tokenizer: Any) -> None:
    """Rule 2: a mask from `ids != pad` would lose them all."""
    assert gpt2_tokenizer.pad_token_id == gpt2_tokenizer.eos_token_id
    row = PromptFormat.from_tokenizer(gpt2_tokenizer).encode(CHAT)
    ends = [trained for i, trained in zip(row.input_ids, row.trained, strict=True) if i == gpt2_tokenizer.eos_token_id]
    assert ends == [True, True]


def test_built_in_format_is_written_as_documented(gpt2_tokenizer: Any) -> None:
    row = PromptFormat.from_tokenizer(gpt2_tokenizer).encode(CHAT[:3])
    assert gpt2_tokenizer.decode(row.input_ids) == (
        "Be brief.\n\n### Instruction:\nName a colour.\n\n### Response:\nBlue, I think.<|endoftext|>"
    )
    assert len(gpt2_tokenizer) == 50257  # no token was added


def test_boundary_survives_a_merge(gpt2_tokenizer: Any) -> None:
    """In one piece GPT-2 merges the header's newline with the answer's first: chat could never have that token."""
    chat = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "\n\n\nfirst line"}]
    prompt_format = PromptFormat.from_tokenizer(gpt2_tokenizer)
    prompt, row = prompt_format.encode_prompt(chat[:1]), prompt_format.encode(chat)
    whole = gpt2_tokenizer(gpt2_tokenizer.decode(row.input_ids))["input_ids"]
    assert whole[: len(prompt)] != prompt  # the trap is real
    assert row.input_ids[: len(prompt)] == prompt
    assert row.trained == [False] * len(prompt) + [True] * (len(row.trained) - len(prompt))


def test_template_without_end_token_gets_eos(gpt2_tokenizer: Any) -> None:
    gpt2_tokenizer.chat_template = NO_END
    row = PromptFormat.from_tokenizer(gpt2_tokenizer).encode(CHAT)
    assert trained_text(gpt2_tokenizer, row) == " Blue, I think.<|endoftext|> Red.\nOr green: 緑 🟢<|endoftext|>"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        # thoughts of earlier answers are dropped, as Qwen3 does
        (CHATML.replace("m['content']", "(m['content'] if loop.last else m['content'].split(' ')[-1])"), "rewrites"),
        (
            "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}",
            "add_generation_prompt",
        ),
        ("{% for m in messages %}{{ m['nothing'] + 1 }}{% endfor %}", "refuses"),
        ("{% for m in messages %}", "cannot run"),
    ],
)
def test_unsound_templates_are_refused_with_the_cure(gpt2_tokenizer: Any, template: str, words: str) -> None:
    gpt2_tokenizer.chat_template = template
    with pytest.raises(UserError, match=words) as error:
        PromptFormat.from_tokenizer(gpt2_tokenizer).encode(CHAT)
    assert "builtin" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_refused_role_is_one_line(gpt2_tokenizer: Any) -> None:
    tokenizer, _, _, _ = with_template(gpt2_tokenizer, "Mistral")
    with pytest.raises(UserError, match="only user and assistant"):
        PromptFormat.from_tokenizer(tokenizer).encode(CHAT)


def test_chat_template_setting(gpt2_tokenizer: Any, tmp_path: Path) -> None:
    gpt2_tokenizer.chat_template = ZEPHYR
    assert PromptFormat.from_tokenizer(gpt2_tokenizer, "builtin").template == BUILT_IN_TEMPLATE
    (tmp_path / "chat.jinja").write_text(NO_END)
    prompt_format = PromptFormat.from_tokenizer(gpt2_tokenizer, str(tmp_path / "chat.jinja"))
    prompt_format.install(gpt2_tokenizer)
    assert gpt2_tokenizer.chat_template == NO_END
    with pytest.raises(UserError, match="cannot be read"):
        PromptFormat.from_tokenizer(gpt2_tokenizer, str(tmp_path / "none.jinja"))


def test_a_tokenizer_without_any_end_is_refused(make_gpt2_tokenizer: Any) -> None:
    tokenizer = make_gpt2_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="eos_token"):
        PromptFormat.from_tokenizer(tokenizer)


def test_saved_checkpoint_carries_the_format(gpt2_tokenizer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    prompt_format = PromptFormat.from_tokenizer(gpt2_tokenizer)
    prompt_format.install(gpt2_tokenizer)
    gpt2_tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert PromptFormat.from_tokenizer(loaded).encode(CHAT) == prompt_format.encode(CHAT)


@pytest.fixture(scope="module", params=["Prepend", "Metaspace"])
def sentencepiece_like(request: pytest.FixtureRequest) -> Any:
    """A small BPE that puts "▁" before a text: before every stretch between special tokens, or the first."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    if request.param == "Prepend":
        backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], show_progress=False)
    backend.train_from_iterator(
        ["Blue, I think. Name a colour. " * 3, BUILT_IN_TEMPLATE + ZEPHYR, CHAT[4]["content"]], trainer
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("template", [BUILT_IN_TEMPLATE, ZEPHYR])
def test_no_word_start_in_the_middle_of_a_text(sentencepiece_like: Any, template: str) -> None:
    """Tokenised apart, "Blue" after "### Response:\\n" must not become " Blue": the whole text has no space there."""
    tokenizer = sentencepiece_like
    tokenizer.chat_template = template
    chat = [*CHAT[1:3], {"role": "user", "content": "Name a colour."}, {"role": "assistant", "content": "Blue."}]
    row = PromptFormat.from_tokenizer(tokenizer).encode(chat)
    text = tokenizer.apply_chat_template(chat, tokenize=False)
    assert row.input_ids == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert trained_text(tokenizer, row).split("</s>")[0].strip() == "Blue, I think."


# --- truncation (rule 6) ------------------------------------------------------------------------------------------

words = st.lists(
    st.sampled_from(["blue", " sky", "\n", "tree?", " 緑", "antidisestablishment", "1"]), min_size=1, max_size=25
)
turns = st.lists(st.tuples(words.map("".join), words.map("".join)), min_size=1, max_size=4)


def needed(row: Encoded) -> int:
    """The length up to the last trained token."""
    return len(row.trained) - row.trained[::-1].index(True)


@pytest.fixture(scope="module")
def two_formats(make_gpt2_tokenizer: Any) -> list[PromptFormat]:
    return [
        PromptFormat.from_tokenizer(with_template(make_gpt2_tokenizer(), name)[0]) for name in ("built-in", "ChatML")
    ]


@settings(max_examples=60, deadline=None)
@given(turns=turns, system=st.sampled_from(["", "Be kind."]), max_length=st.integers(8, 90), chatml=st.booleans())
def test_truncation(
    two_formats: list[PromptFormat], turns: list[tuple[str, str]], system: str, max_length: int, chatml: bool
) -> None:
    prompt_format = two_formats[chatml]
    tokenizer = prompt_format.tokenizer
    end = prompt_format.stop_token_ids[0]
    first = [{"role": "system", "content": system}] if system else []
    pairs = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in turns]

    def encode_last(count: int) -> Encoded:
        return prompt_format.encode([*first, *(m for pair in pairs[len(pairs) - count :] for m in pair)])

    whole, row = (
        encode_last(len(pairs)),
        prompt_format.encode([*first, *(m for pair in pairs for m in pair)], max_length),
    )
    assert len(row.input_ids) == len(row.trained) <= max_length
    if needed(whole) <= max_length:  # what fits is left alone
        assert row.input_ids == whole.input_ids[:max_length]
        assert (row.dropped_turns, row.cut_prompt, row.cut_response) == (0, 0, 0)
        return
    kept = len(pairs) - row.dropped_turns
    assert kept >= 1
    if row.dropped_turns:  # no turn went in vain
        assert needed(encode_last(kept + 1)) > max_length
    if kept > 1:  # whole turns were enough
        assert (row.cut_prompt, row.cut_response) == (0, 0)
        assert row.input_ids == encode_last(kept).input_ids[:max_length]
    if any(row.trained):
        if system:
            assert tokenizer.decode(row.input_ids).removeprefix("<|im_start|>system\n").startswith(system)
        last = max(t for t, trained in enumerate(row.trained) if trained)
        assert (row.input_ids[last] == end) == (row.cut_response == 0)  # a cut answer gets no end token
        assert sum(row.trained) + row.cut_response == sum(encode_last(kept).trained)
    if row.cut_response:  # the prompt's start went first, down to an eighth of max_length
        question = len(tokenizer(pairs[-1][0]["content"])["input_ids"])
        assert question - row.cut_prompt <= max_length // 8


def test_the_prompt_loses_its_start_before_the_answer_its_end(gpt2_tokenizer: Any) -> None:
    question, answer = "zero one two three four five six seven eight nine ten", "a b c"
    chat = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    prompt_format = PromptFormat.from_tokenizer(gpt2_tokenizer)
    whole = prompt_format.encode(chat)
    row = prompt_format.encode(chat, len(whole.input_ids) - 4)
    assert gpt2_tokenizer.decode(row.input_ids) == (
        "### Instruction:\n four five six seven eight nine ten\n\n### Response:\na b c<|endoftext|>"
    )
    assert (row.cut_prompt, row.cut_response) == (4, 0)
    row = prompt_format.encode(chat, 13)  # an eighth: one token of the question stays
    assert gpt2_tokenizer.decode(row.input_ids) == "### Instruction:\n ten\n\n### Response:\na b"
    assert row.cut_response == 2  # " c" and the end token


def test_plain_text_ends_with_eos_unless_cut(gpt2_tokenizer: Any) -> None:
    prompt_format = PromptFormat.from_tokenizer(adds_bos(gpt2_tokenizer))
    whole, cut = prompt_format.encode_texts(["one two three"]) + prompt_format.encode_texts(["one two three"], 3)
    assert gpt2_tokenizer.decode(whole.input_ids) == "<s>one two three<|endoftext|>"
    assert whole.trained == [False, True, True, True, True]
    assert gpt2_tokenizer.decode(cut.input_ids) == "<s>one two"
    assert cut.cut_response == 2


def test_the_built_in_template_writes_bos_itself_so_that_other_tools_feed_it_too(gpt2_tokenizer: Any) -> None:
    """transformers adds no BOS to what a template wrote: without it, `final/` would answer differently elsewhere."""
    tokenizer = adds_bos(gpt2_tokenizer)
    prompt_format = PromptFormat.from_tokenizer(tokenizer)
    prompt_format.install(tokenizer)
    theirs = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True)["input_ids"]
    assert theirs == prompt_format.encode_prompt(CHAT[:2])
    assert theirs[0] == tokenizer.bos_token_id and theirs.count(tokenizer.bos_token_id) == 1
