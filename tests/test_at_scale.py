"""The arithmetic of docs/scaling.md against models that are really there."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from auto_bot_tuner.estimation.at_scale import (
    MACHINES,
    METHODS,
    SIZES,
    WAYS,
    Size,
    cache_bytes,
    choose,
    held,
    traffic_table,
)


def llama(size: Size) -> LlamaForCausalLM:
    """The model of this size, without memory."""
    heads = 8
    config = LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.inner,
        num_hidden_layers=size.layers,
        num_attention_heads=heads,
        num_key_value_heads=size.kv * heads // size.hidden,
        tie_word_embeddings=size.is_tied,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config)


@pytest.mark.parametrize("size", [SIZES[0], SIZES[3]], ids=lambda size: size.name)
def test_weights_and_adapters_are_counted_as_transformers_and_peft_make_them(size: Size) -> None:
    from peft import LoraConfig, get_peft_model

    model = llama(size)
    assert size.weights == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"), low_cpu_mem_usage=True)
    assert size.adapter == sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)


def test_a_trained_weight_takes_sixteen_bytes() -> None:
    """Itself, its gradient and AdamW's two averages, asked of a step that is taken."""
    small = Size("small", 2, 32, 48, 16, 97)
    weight = torch.nn.Parameter(torch.zeros(small.weights))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    tensors = [weight, weight.grad, *(t for t in optimizer.state[weight].values() if t.ndim)]
    found = sum(tensor.numel() * tensor.element_size() for tensor in tensors if tensor is not None)
    assert found == held(small, METHODS[0], WAYS[0], 1)


def test_the_cache_is_as_large_as_transformers_makes_it() -> None:
    small = Size("small", 2, 32, 48, 16, 97)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    ).to(torch.bfloat16)
    cache = model(torch.zeros(3, 5, dtype=torch.long), use_cache=True).past_key_values
    found = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    assert found == cache_bytes(small, 3 * 5)


def test_sharding_divides_what_is_held_and_nothing_fits_less_than_it_did() -> None:
    sharded = WAYS[2]
    assert held(SIZES[3], METHODS[0], sharded, 8) == held(SIZES[3], METHODS[0], sharded, 1) / 8
    for needs in METHODS:
        for machine in MACHINES:
            found = [choose(size, needs, machine) for size in SIZES]
            order = [len(WAYS) if way is None else WAYS.index(way) for way in found]
            assert order == sorted(order), (needs.name, machine.name)


def test_a_ring_of_two_sends_half_of_each_tensor_twice() -> None:
    """All-reduce = reduce-scatter + all-gather; of 4 P bytes each of two GPUs sends one half in each of the two."""
    row = next(line for line in traffic_table(2).splitlines() if line.startswith("| 7B"))
    assert float(row.split("|")[2]) == pytest.approx(4 * SIZES[3].weights / 1e9, rel=5e-3)
