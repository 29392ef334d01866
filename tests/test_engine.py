"""The generation engine against transformers, plain forward passes, and the distribution that it promises."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from auto_bot_tuner.evaluation import weight_layout
from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate, stream
from auto_bot_tuner.evaluation.sampling import draw, next_token_logprobs, uniform_stream
from auto_bot_tuner.utils.errors import UserError

VOCABULARY = 97
PROMPTS = [[5, 6, 7], [8, 3] * 5, [9, 3, 2, 5, 6], [1]]
LLAMA_SIZES = {
    "hidden_size": 48,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}


def build(family: str) -> Any:
    torch.manual_seed(0)
    ends = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}
    if family == "gpt2":
        # A wide initialisation: the predictions of a model near zero hardly depend on its context.
        config = GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3, **ends)
        return GPT2LMHeadModel(config)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(initializer_range=0.3, **LLAMA_SIZES, **ends))
    # Half of the layers look back 6 tokens only: the cache holds layers of two kinds.
    return Qwen2ForCausalLM(
        Qwen2Config(
            initializer_range=0.3, use_sliding_window=True, sliding_window=6, max_window_layers=1, **LLAMA_SIZES, **ends
        )
    )


@pytest.fixture(params=["gpt2", "llama", "qwen2 with a sliding window"])
def model(request: pytest.FixtureRequest) -> Any:
    return build(request.param.split()[0]).eval()


def greedy_by_transformers(model: Any, prompt: list[int], stops: list[int], **settings: Any) -> list[int]:
    output = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        do_sample=False,
        eos_token_id=stops,
        pad_token_id=0,
        **settings,
    )
    return output[0, len(prompt) :].tolist()


def plain_logprobs(model: Any, prompt: list[int], answer: list[int], temperature: float = 1.0) -> torch.Tensor:
    """The oracle: one full forward pass without cache, padding or batch; `(R, V)`."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(dim=-1)


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_equals_transformers_token_for_token(model: Any, penalty: float) -> None:
    stops = list(range(90, VOCABULARY))
    config = GenerationConfig(max_new_tokens=24, repetition_penalty=penalty)
    ours = [generation.token_ids for generation in generate(model, PROMPTS, config, stops)]
    theirs = [
        greedy_by_transformers(model, prompt, stops, max_new_tokens=24, repetition_penalty=penalty)
        for prompt in PROMPTS
    ]
    assert ours == theirs
    assert len(set(map(len, theirs))) > 1, "some rows must stop early, or compaction was not tried"


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0, 1.5])
def test_logprobs_are_those_of_a_plain_forward_pass_at_the_temperature(model: Any, temperature: float) -> None:
    """Rules 7 and 23. A left-padded batch with a cache that shrinks as rows end gives the numbers of one by one."""
    config = GenerationConfig(temperature=temperature, max_new_tokens=20)
    generations = generate(model, PROMPTS, config, stop_token_ids=range(80, VOCABULARY), samples_per_prompt=4)
    assert len({len(generation.token_ids) for generation in generations}) > 1
    for i, generation in enumerate(generations):
        full = plain_logprobs(model, PROMPTS[i // 4], generation.token_ids, temperature or 1.0)
        expected = full.gather(1, torch.tensor(generation.token_ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(generation.logprobs), expected, atol=1e-4, rtol=0)


def test_a_text_does_not_depend_on_its_batch_mates(model: Any) -> None:
    """Same seed, row and sample: the same text alone, among others, in small batches and in large ones."""
    config = GenerationConfig(temperature=1.0, max_new_tokens=20)
    stops = range(80, VOCABULARY)
    together = generate(model, PROMPTS, config, stops, samples_per_prompt=3)
    in_small_batches = generate(
        model,
        PROMPTS,
        GenerationConfig(temperature=1.0, max_new_tokens=20, batch_tokens=1),
        stops,
        samples_per_prompt=3,
    )
    fewer_samples = generate(model, PROMPTS, config, stops, samples_per_prompt=1)
    alone = list(stream(model, PROMPTS[0], config, stops))
    texts = [generation.token_ids for generation in together]
    assert texts == [generation.token_ids for generation in in_small_batches]
    assert texts[::3] == [generation.token_ids for generation in fewer_samples]
    assert texts[0] == alone
    assert len(set(map(tuple, texts))) > len(PROMPTS), "samples of one prompt must differ"
    other_seed = GenerationConfig(temperature=1.0, max_new_tokens=20, seed=43)
    assert texts != [generation.token_ids for generation in generate(model, PROMPTS, other_seed, stops, 3)]


def test_equal_prompts_get_texts_of_their_own(model: Any) -> None:
    """Each row has its own stream of random numbers, or a batch of one prompt would hold one text many times."""
    generations = generate(model, PROMPTS[:1] * 4, GenerationConfig(temperature=1.0, max_new_tokens=12), [])
    assert len({tuple(generation.token_ids) for generation in generations}) == 4


def test_the_first_stop_token_ends_a_text_and_stays_in_it(model: Any) -> None:
    """Rule 25."""
    stops = set(range(85, VOCABULARY))
    config = GenerationConfig(temperature=1.0, max_new_tokens=12)
    generations = generate(model, PROMPTS, config, sorted(stops), samples_per_prompt=8)
    for generation in generations:
        *body, last = generation.token_ids
        assert not stops & set(body)
        assert generation.ended == (last in stops)
        assert generation.ended or len(generation.token_ids) == 12
        assert len(generation.logprobs) == len(generation.token_ids)
    assert {generation.ended for generation in generations} == {True, False}


def total_variation(counts: Counter[int], probabilities: torch.Tensor) -> float:
    n = sum(counts.values())
    return sum(abs(counts[token] / n - float(p)) for token, p in enumerate(probabilities)) / 2


def test_sampled_frequencies_are_the_models_probabilities() -> None:
    """First tokens of 20,000 samples. A perfect sampler is expected at a distance of sum sqrt(p(1-p) / 2 pi n)."""
    model = build("gpt2").eval()
    n = 20_000
    config = GenerationConfig(temperature=0.8, max_new_tokens=1)
    counts = Counter(generation.token_ids[0] for generation in generate(model, PROMPTS[:1], config, [], n))
    p = plain_logprobs(model, PROMPTS[0], [0], temperature=0.8)[0].exp()
    expected = float((p * (1 - p) / (2 * torch.pi * n)).sqrt().sum())
    assert total_variation(counts, p) < 1.5 * expected


def test_the_second_token_is_sampled_given_the_first() -> None:
    """Joint frequencies over two tokens: chi-square (3 degrees of freedom) stays below its 99.9 % point."""
    torch.manual_seed(0)
    sizes = {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_positions": 8, "initializer_range": 1.0}
    model = GPT2LMHeadModel(GPT2Config(vocab_size=2, bos_token_id=0, eos_token_id=0, **sizes)).eval()
    n = 4000
    generations = generate(model, [[0, 1, 1]], GenerationConfig(temperature=1.0, max_new_tokens=2), [], n)
    counts = Counter(tuple(generation.token_ids) for generation in generations)
    chi_square = 0.0
    for pair in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        logprobs = plain_logprobs(model, [0, 1, 1], list(pair))
        expected = n * float((logprobs[0, pair[0]] + logprobs[1, pair[1]]).exp())
        chi_square += (counts[pair] - expected) ** 2 / expected
    assert chi_square < 16.27


def test_top_k_and_top_p_renormalise_over_the_tokens_that_stay() -> None:
    logits = torch.tensor([[0.4, 0.1, 0.3, 0.15, 0.05]]).log()

    def probabilities(**settings: Any) -> list[float]:
        return next_token_logprobs(logits, GenerationConfig(temperature=1.0, **settings)).exp()[0].tolist()

    assert probabilities(top_k=2) == pytest.approx([4 / 7, 0, 3 / 7, 0, 0])
    # 0.4 + 0.3 = 0.7 reaches 0.69; one token that reaches it alone is enough for 0.4; the likeliest always stays.
    assert probabilities(top_p=0.69) == pytest.approx([4 / 7, 0, 3 / 7, 0, 0])
    assert probabilities(top_p=0.71) == pytest.approx([0.4 / 0.85, 0, 0.3 / 0.85, 0.15 / 0.85, 0])
    assert probabilities(top_p=0.01) == pytest.approx([1, 0, 0, 0, 0])
    # top-p applies to what top-k left: of 4/7 and 3/7 the first is enough for 0.5.
    assert probabilities(top_k=2, top_p=0.5) == pytest.approx([1, 0, 0, 0, 0])
    cold = next_token_logprobs(logits, GenerationConfig(temperature=0.5)).exp()[0]
    assert cold.tolist() == pytest.approx([0.16 / 0.285, 0.01 / 0.285, 0.09 / 0.285, 0.0225 / 0.285, 0.0025 / 0.285])


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    """The edges of the inverse CDF: u = 0 with impossible first tokens, u near 1 with impossible last ones."""
    logprobs = torch.tensor([[0.0, 0.5, 0.5, 0.0]]).log().expand(3, 4)
    uniforms = torch.tensor([0.0, 0.5, 1 - 2**-23])
    assert draw(logprobs, uniforms).tolist() == [1, 2, 2]
    assert float(uniform_stream((1, 2, 3), 100_000).max()) <= 1 - 2**-23


def test_uniform_streams_differ_in_every_coordinate_and_are_uniform() -> None:
    streams = [uniform_stream(key, 4).tolist() for key in [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4), (2, 1, 3)]]
    assert len({tuple(values) for values in streams}) == 5
    first_draws = torch.stack([uniform_stream((7, row, 0), 1)[0] for row in range(2000)])
    # Kolmogorov-Smirnov over the *rows*: below its 99.9 % point, 1.95 / sqrt(n).
    grid = torch.arange(1, 2001) / 2000
    assert float((first_draws.sort().values - grid).abs().max()) < 1.95 / 2000**0.5


def test_generation_stops_where_the_context_is_full(model: Any) -> None:
    """Each row at its own place, and the last token that fits is still the right one."""
    prompts = [[3] * 60, [4] * 40]
    generations = generate(model, prompts, GenerationConfig(max_new_tokens=100), stop_token_ids=[])
    assert [len(generation.token_ids) for generation in generations] == [4, 24]
    assert not any(generation.ended for generation in generations)
    for prompt, generation in zip(prompts, generations, strict=True):
        assert generation.token_ids == greedy_by_transformers(model, prompt, [], max_length=64)


@pytest.mark.parametrize("prompt, words", [([], "no token"), ([1] * 64, "64 tokens .* context is 64")])
def test_a_prompt_that_cannot_be_answered_is_one_clear_line(prompt: list[int], words: str) -> None:
    model = build("llama")
    with pytest.raises(UserError, match=f"prompt 1 .*{words}"):
        generate(model, [[1], prompt], GenerationConfig(), [])


def test_nan_weights_are_named_not_sampled_from() -> None:
    model = build("gpt2")
    model.transformer.wte.weight.data[:] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(UserError, match="not finite"):
            generate(model, [[1]], GenerationConfig(temperature=temperature), [])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_generating_in_the_midst_of_training_changes_nothing(family: str) -> None:
    """With dropout and gradient checkpointing on, the text is that of evaluation mode; then all modes come back."""
    model = build(family)
    config = GenerationConfig(max_new_tokens=8)
    expected = generate(model.eval(), PROMPTS, config, [])
    model.train()
    model.gradient_checkpointing_enable()
    frozen = model.transformer.h[0].mlp if family == "gpt2" else model.model.layers[0].mlp
    frozen.eval()
    modes = [module.training for module in model.modules()]
    assert generate(model, PROMPTS, config, []) == expected
    assert [module.training for module in model.modules()] == modes
    tokens = stream(model, PROMPTS[0], config, [])
    next(tokens)
    assert torch.is_grad_enabled(), "a stream that is waiting must not switch the caller's gradients off"
    tokens.close()
    assert [module.training for module in model.modules()] == modes


def test_no_prompts_no_texts() -> None:
    assert generate(build("gpt2"), [], GenerationConfig(), []) == []


@pytest.mark.parametrize("name", ["stories260k", "gpt2-basic-chat-690k", "babyllama-char-970k"])
def test_greedy_equals_transformers_on_real_models(name: str) -> None:
    if "AUTO_BOT_TUNER_SHARED" not in os.environ:
        pytest.skip("AUTO_BOT_TUNER_SHARED does not name the folder with real models")
    folder = Path(os.environ["AUTO_BOT_TUNER_SHARED"]) / "data" / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(3, 361, (n,), generator=generator).tolist() for n in (3, 17, 9)]
    stops = [0] if "gpt2" in name else [1, 2]
    ours = [g.token_ids for g in generate(model, prompts, GenerationConfig(max_new_tokens=60), stops)]
    assert ours == [greedy_by_transformers(model, prompt, stops, max_new_tokens=60) for prompt in prompts]


def test_weights_laid_out_for_few_rows_write_the_same_and_are_given_back(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, stops = GenerationConfig(temperature=1.0, max_new_tokens=12), range(85, VOCABULARY)
    own = {name: (weight, weight.stride()) for name, weight in model.named_parameters()}
    as_they_are = generate(model, PROMPTS, config, stops, samples_per_prompt=2)
    monkeypatch.setattr(weight_layout, "COPIED_BYTES", range(2**30))
    with weight_layout.laid_out_for_few_rows(model):
        assert model.lm_head.weight.t().is_contiguous() and torch.equal(model.lm_head.weight, own_head(own))
    laid_out = generate(model, PROMPTS, config, stops, samples_per_prompt=2)
    for one, other in zip(as_they_are, laid_out, strict=True):
        assert one.token_ids == other.token_ids
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), atol=1e-4, rtol=0)
    with pytest.raises(ZeroDivisionError), weight_layout.laid_out_for_few_rows(model):
        raise ZeroDivisionError
    found = dict(model.named_parameters())
    assert found.keys() == own.keys()
    assert all(found[name] is weight and weight.stride() == strides for name, (weight, strides) in own.items())


def test_two_that_write_with_one_model_at_a_time_give_its_own_weights_back(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two threads may: the second begins while the first one's copies are there, and ends after it."""
    monkeypatch.setattr(weight_layout, "COPIED_BYTES", range(2**30))
    own = dict(model.named_parameters())
    first, second = (weight_layout.laid_out_for_few_rows(model) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert all(weight is own[name] for name, weight in model.named_parameters())


def own_head(own: dict[str, Any]) -> torch.Tensor:
    return next(weight for name, (weight, _) in own.items() if name in ("lm_head.weight", "transformer.wte.weight"))
