"""Text in, text out: prompts are written as in training, decoding loses no character, a stream is the same text."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer

from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation import (
    GenerationConfig,
    batch_generate,
    generate_response,
    generate_text,
    stream_response,
)
from auto_bot_tuner.evaluation.generation import decode_continuation, respond, stop_tokens, text_pieces
from auto_bot_tuner.training.logprobs import CausalNLL
from auto_bot_tuner.utils.errors import UserError
from tests.models import tiny_model

CONVERSATIONS = [
    [{"role": "user", "content": "Name a colour."}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And how do you do today, dear friend of mine?"},
    ],
]
SHORT = GenerationConfig(max_new_tokens=12)


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_model(request.param)


class Scripted(torch.nn.Module):
    """A model that says `words`, whatever it is told: for what happens around a model."""

    def __init__(self, words: list[int], vocabulary: int, context: int = 64) -> None:
        super().__init__()
        self.inner = tiny_model("gpt2", n_positions=context, vocab_size=vocabulary)
        self.words, self.said = words, 0
        self.config, self.device, self.generation_config = self.inner.config, self.inner.device, None

    def forward(self, **inputs: Any) -> Any:
        logits = self.inner(**inputs).logits
        logits[...] = 0.0
        logits[:, -1, self.words[self.said % len(self.words)]] = 100.0
        self.said += 1
        return SimpleNamespace(logits=logits)


def test_a_response_goes_on_from_the_ids_of_training(model: Any, gpt2_tokenizer: Any) -> None:
    """Greedy `transformers.generate` on the training ids of the prompt writes the same answer."""
    prompt_format = PromptFormat.from_tokenizer(gpt2_tokenizer)
    responses = respond(model, gpt2_tokenizer, CONVERSATIONS, SHORT)
    for messages, response in zip(CONVERSATIONS, responses, strict=True):
        answered = prompt_format.encode([*messages, {"role": "assistant", "content": "x"}])
        first_trained = max(i for i in range(1, len(answered.trained)) if answered.trained[i] > answered.trained[i - 1])
        prompt = torch.tensor([answered.input_ids[:first_trained]])
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=list(prompt_format.stop_token_ids),
            pad_token_id=gpt2_tokenizer.eos_token_id,
        )
        assert response.token_ids == output[0, prompt.shape[1] :].tolist()


def test_all_ways_to_ask_give_the_same_text(model: Any, gpt2_tokenizer: Any) -> None:
    config = GenerationConfig(max_new_tokens=20, temperature=1.0)
    messages = CONVERSATIONS[0]
    text = generate_response(model, gpt2_tokenizer, messages, config)
    assert generate_response(model, gpt2_tokenizer, messages[0]["content"], config) == text
    assert "".join(stream_response(model, gpt2_tokenizer, messages, config)) == text
    assert respond(model, gpt2_tokenizer, [messages, CONVERSATIONS[1]], config)[0].text == text
    prompts = ["Once", "Once upon a time there was"]
    assert batch_generate(model, gpt2_tokenizer, prompts, SHORT) == [
        generate_text(model, gpt2_tokenizer, prompt, SHORT) for prompt in prompts
    ]
    assert batch_generate(model, gpt2_tokenizer, [], SHORT) == []


def test_the_stop_token_is_not_part_of_the_text(gpt2_tokenizer: Any) -> None:
    yes, end = gpt2_tokenizer("Yes")["input_ids"][0], gpt2_tokenizer.eos_token_id
    vocabulary = len(gpt2_tokenizer)
    ended = respond(Scripted([yes, yes, end], vocabulary), gpt2_tokenizer, CONVERSATIONS[:1], SHORT)[0]
    assert (ended.text, ended.ended, ended.token_ids) == ("YesYes", True, [yes, yes, end])
    cut = respond(Scripted([yes], vocabulary), gpt2_tokenizer, CONVERSATIONS[:1], GenerationConfig(max_new_tokens=3))[0]
    assert (cut.text, cut.ended, cut.token_ids) == ("YesYesYes", False, [yes] * 3)


def test_a_stream_tells_whether_the_answer_ended(gpt2_tokenizer: Any) -> None:
    def last_word(words: list[int]) -> Any:
        pieces = stream_response(Scripted(words, len(gpt2_tokenizer)), gpt2_tokenizer, "Hi", SHORT)
        while True:
            try:
                next(pieces)
            except StopIteration as stop:
                return stop.value

    assert last_word([5, gpt2_tokenizer.eos_token_id]) is True
    assert last_word([5]) is False


def test_models_may_name_more_stop_tokens_than_the_template() -> None:
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[1, 2]))
    assert stop_tokens(model, (2, 7)) == (2, 7, 1)
    model.generation_config.eos_token_id = 9
    assert stop_tokens(model, (2, None)) == (2, 9)
    assert stop_tokens(SimpleNamespace(), (2,)) == (2,)


@settings(max_examples=60, deadline=None)
@given(before=st.text(max_size=10), text=st.text(max_size=30))
def test_streamed_pieces_are_whole_characters_and_join_to_the_text(tokenizer: Any, before: str, text: str) -> None:
    """GPT-2's tokens are bytes: an emoji is up to four of them, and no piece may show half of one."""
    prompt, ids = tokenizer(before)["input_ids"], tokenizer(text)["input_ids"]
    pieces = list(text_pieces(tokenizer, prompt, ids))
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert all(pieces)


@pytest.fixture(scope="module")
def tokenizer(make_gpt2_tokenizer: Any) -> Any:
    return make_gpt2_tokenizer()


def test_a_character_that_never_gets_whole_is_shown_at_the_end(tokenizer: Any) -> None:
    bear = tokenizer("🐻")["input_ids"]
    assert len(bear) > 1
    assert list(text_pieces(tokenizer, [], bear[:-1])) == ["\ufffd"]


def test_an_empty_prompt_starts_a_text(model: Any, gpt2_tokenizer: Any) -> None:
    assert generate_text(model, gpt2_tokenizer, "", SHORT) == generate_text(
        model, gpt2_tokenizer, gpt2_tokenizer.eos_token, SHORT
    )


def test_a_conversation_longer_than_the_context_is_one_clear_line(model: Any, gpt2_tokenizer: Any) -> None:
    long = [{"role": "user", "content": "word " * 200}]
    with pytest.raises(UserError, match=r"prompt 1 has 2\d\d tokens and the model's context is 128"):
        respond(model, gpt2_tokenizer, [CONVERSATIONS[0], long], SHORT)


def test_the_trainers_attention_generates_the_same_text(model: Any, gpt2_tokenizer: Any) -> None:
    """Training swaps the model's attention for one without padding; left-padded batches must survive it."""
    before = respond(model, gpt2_tokenizer, CONVERSATIONS, SHORT)
    CausalNLL(model)
    after = respond(model, gpt2_tokenizer, CONVERSATIONS, SHORT)
    assert [response.token_ids for response in after] == [response.token_ids for response in before]
    torch.testing.assert_close([r.logprobs for r in after], [r.logprobs for r in before], atol=1e-4, rtol=0)


def test_adapters_take_part(gpt2_tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("gpt2")
    plain = generate_text(model, gpt2_tokenizer, "Once", SHORT)
    peft_model = get_peft_model(model, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True))
    assert generate_text(peft_model, gpt2_tokenizer, "Once", SHORT) == plain  # B = 0 at first
    for name, parameter in peft_model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    adapted = generate_text(peft_model, gpt2_tokenizer, "Once", SHORT)
    assert adapted != plain
    assert generate_text(peft_model.merge_and_unload(), gpt2_tokenizer, "Once", SHORT) == adapted


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": 1e-5},
        {"top_p": 0},
        {"top_p": 1.1},
        {"top_k": -1},
        {"max_new_tokens": 0},
        {"repetition_penalty": 0.5},
        {"temprature": 1.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        GenerationConfig(**wrong)


@pytest.mark.parametrize("name", ["stories260k", "gpt2-basic-chat-690k", "babyllama-char-970k"])
def test_real_tokenizers_stream_the_text_they_generate(shared_data: Path, name: str) -> None:
    """Byte fallback, characters, collapsed spaces: three decoders that GPT-2's does not stand for."""
    folder = shared_data / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = GenerationConfig(max_new_tokens=80, temperature=1.0)
    for prompt in ("Once upon a time", "hello."):
        text = generate_response(model, tokenizer, prompt, config)
        assert "".join(stream_response(model, tokenizer, prompt, config)) == text
        ids = tokenizer(prompt + " there")["input_ids"]
        start = len(tokenizer(prompt)["input_ids"])
        assert decode_continuation(tokenizer, ids[:start], ids[start:]) == " there"
