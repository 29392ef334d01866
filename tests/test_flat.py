"""Rows end to end in one: every token sees its own sequence, the prompt that it shares, and nothing else."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from auto_bot_tuner.training import flat
from auto_bot_tuner.training.flat import (
    ATTENTION,
    Bundle,
    bundles_of,
    flat_places,
    hidden_states_at,
    is_exact,
    make_flat,
    per_sequence_attention,
    probe_states,
    real_tokens,
)
from tests.training_runs import VOCABULARY, small_model


@st.composite
def bundles(draw: st.DrawFn, most: int = 4) -> Bundle:
    """One sequence, and up to `most` - 1 that begin with some of its tokens."""
    first = draw(st.integers(1, 9))
    others = draw(st.lists(st.tuples(st.integers(1, 7), st.integers(1, first)), max_size=most - 1))
    return Bundle([first, *(own for own, _ in others)], [0, *(shared for _, shared in others)])


def tokens_of(bundle: Bundle) -> list[tuple[int, int]]:
    """(sequence, position in it) of each token of the flat row."""
    sizes = zip(bundle.own_lengths, bundle.shared_lengths, strict=True)
    return [(s, shared + t) for s, (own, shared) in enumerate(sizes) for t in range(own)]


def sees(bundle: Bundle, one: tuple[int, int], other: tuple[int, int], window: int | None) -> bool:
    """The definition: what stands before in one's own sequence, whose beginning is the first's."""
    (s, t), (r, u) = one, other
    stands_before = u <= t and (r == s or (r == 0 and u < bundle.shared_lengths[s]))
    return stands_before and (window is None or t - u < window)


# ---- masks ----


@settings(max_examples=50, deadline=None)
@given(bundles(), st.one_of(st.none(), st.integers(1, 12)))
def test_the_mask_is_its_definition(bundle: Bundle, window: int | None) -> None:
    tokens = tokens_of(bundle)
    mask = bundle.build_mask(window)
    assert mask.shape == (1, 1, len(tokens), len(tokens))
    expected = [[0.0 if sees(bundle, one, other, window) else -math.inf for other in tokens] for one in tokens]
    assert mask[0, 0].tolist() == expected


def test_a_sequence_alone_needs_no_mask_but_for_a_window_that_it_exceeds() -> None:
    cpu = torch.device("cpu")
    assert Bundle([5], [0]).mask(None, cpu) is None
    assert Bundle([5], [0]).mask(5, cpu) is None
    assert Bundle([5], [0]).mask(4, cpu) is not None
    assert Bundle([5, 2], [0, 1]).mask(None, cpu) is not None
    assert Bundle([5, 2], [0, 1]).mask(9, cpu) is not None
    bundle = Bundle([5, 2], [0, 1])
    assert bundle.mask(None, cpu) is bundle.mask(None, cpu), "the same in every layer: built once"
    assert bundle.mask(2, cpu).isinf().sum() > bundle.mask(None, cpu).isinf().sum()
    assert bundle.mask(3, torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize("price", [0, 3, 40])
def test_a_bundle_is_wide_where_most_of_its_mask_would_hide_something(
    price: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", price)
    found = set()
    for own in ([4], [4, 3], [4, 9, 9], [1, 20, 20, 20], [2, 2, 2, 2]):
        for shared in (1, 2):
            bundle = Bundle(own, [0] + [shared] * (len(own) - 1))
            looked_at = sum(length * (length + s) for length, s in zip(own, bundle.shared_lengths, strict=True))
            calls = len(own)
            assert bundle.is_wide == (sum(own) ** 2 > 2 * looked_at + price * calls)
            found.add(bundle.is_wide)
    assert True in found and False in found
    exactly = Bundle([1, 1, 1, 1], [0, 0, 0, 0])  # 16 pairs of which 4 count: at 2 pairs a call both cost the same
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", 2)
    assert not exactly.is_wide


def test_sequences_that_share_join_the_last_that_does_not() -> None:
    found = bundles_of([5, 2, 3, 4, 6, 1], [0, 4, 1, 0, 0, 6])
    assert [(b.own_lengths, b.shared_lengths) for b in found] == [([5, 2, 3], [0, 4, 1]), ([4], [0]), ([6, 1], [0, 6])]


def test_lengths_that_do_not_belong_together_are_refused() -> None:
    bundle = Bundle([3, 2], [0])
    q = torch.randn(1, 2, 5, 4)
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    for use in (
        lambda: bundle.is_wide,
        lambda: bundle.build_mask(None),
        lambda: bundles_of([3, 2], [0]),
        lambda: flat.one_by_one(module, bundle, q, q, q),
    ):
        with pytest.raises(ValueError, match="than argument"):
            use()


# ---- attention ----


def attention_by_hand(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, found: list[Bundle], window: int | None
) -> Any:
    """softmax(q k / sqrt d) v over what each token sees, token by token: (1, n, heads, d)."""
    output, start = torch.zeros_like(q.transpose(1, 2)), 0
    for bundle in found:
        tokens = tokens_of(bundle)
        for i, one in enumerate(tokens):
            seen = [start + j for j, other in enumerate(tokens) if sees(bundle, one, other, window)]
            for head in range(q.shape[1]):
                scores = k[0, head, seen] @ q[0, head, start + i] / math.sqrt(q.shape[-1])
                output[0, start + i, head] = scores.softmax(0) @ v[0, head, seen]
        start += len(tokens)
    return output


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("calls_are_free", [True, False])
def test_attention_is_that_of_each_sequence_by_itself(
    calls_are_free: bool, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", -(10**6) if calls_are_free else 10**6)
    own, shared = [4, 3, 5, 6, 2], [0, 2, 4, 0, 5]
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, sum(own), 4) for _ in range(3))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    calls: list[Any] = []

    def counted(*arguments: Any, **given_settings: Any) -> Any:
        calls.append(arguments)
        return sdpa_attention_forward(*arguments, **given_settings)

    monkeypatch.setattr(flat, "sdpa_attention_forward", counted)
    found, weights = per_sequence_attention(
        module, q, k, v, torch.zeros(1, 1, 1, 1), bundles_of(own, shared), sliding_window=window
    )
    expected = attention_by_hand(q, k, v, bundles_of(own, shared), window)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert weights is None
    # A window is a mask's matter; without one, each sequence is a call of its own where calls cost nothing.
    assert len(calls) == (5 if calls_are_free and window is None else 2)
    for dtype in (torch.bfloat16, torch.float64):
        other, _ = per_sequence_attention(
            module, *(x.to(dtype) for x in (q, k, v)), None, bundles_of(own, shared), sliding_window=window
        )
        assert other.dtype == dtype
        torch.testing.assert_close(other.float(), expected, rtol=0, atol=3e-2 if dtype == torch.bfloat16 else 1e-5)


def test_under_autocast_attention_is_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(1, 2, 6, 4) for _ in range(3))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    for price in (-(10**6), 10**6):
        monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", price)
        exact, _ = per_sequence_attention(module, q, k, v, None, bundles_of([4, 2], [0, 3]))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found, _ = per_sequence_attention(module, q, k, v, None, bundles_of([4, 2], [0, 3]))
        assert torch.equal(found, exact)


@pytest.mark.parametrize("price", [-(10**6), 10**6])
def test_a_model_s_own_scale_of_attention_is_kept(price: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", price)
    torch.manual_seed(2)
    q, k, v = (torch.randn(1, 2, 6, 4) for _ in range(3))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)
    plain, _ = per_sequence_attention(module, q * 3, k, v, None, bundles_of([4, 2], [0, 3]))  # 3 / sqrt 4 = 1.5
    scaled, _ = per_sequence_attention(module, q, k, v, None, bundles_of([4, 2], [0, 3]), scaling=1.5)
    torch.testing.assert_close(scaled, plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("price", [-(10**6), 10**6])
def test_heads_that_share_keys_and_values_find_theirs(price: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Grouped queries: four heads over two of keys and values are four over each of the two twice."""
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", price)
    torch.manual_seed(4)
    q, (k, v) = torch.randn(1, 4, 6, 4), torch.randn(2, 1, 2, 6, 4)
    grouped, alone = (SimpleNamespace(is_causal=True, num_key_value_groups=n) for n in (2, 1))
    found, _ = per_sequence_attention(grouped, q, k, v, None, bundles_of([4, 2], [0, 3]))
    twice = (x.repeat_interleave(2, dim=1) for x in (k, v))
    expected, _ = per_sequence_attention(alone, q, *twice, None, bundles_of([4, 2], [0, 3]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_without_bundles_it_is_transformers_own_attention() -> None:
    torch.manual_seed(3)
    q, k, v = (torch.randn(2, 2, 5, 4) for _ in range(3))
    mask = torch.zeros(2, 1, 5, 5).masked_fill(torch.rand(2, 1, 5, 5) < 0.3, -9.0)
    module = SimpleNamespace(is_causal=False, num_key_value_groups=1)
    found, _ = per_sequence_attention(module, q, k, v, mask, scaling=0.7)
    expected, _ = sdpa_attention_forward(module, q, k, v, mask, scaling=0.7)
    assert torch.equal(found, expected)
    causal, _ = per_sequence_attention(SimpleNamespace(is_causal=True, num_key_value_groups=1), q, k, v, None)
    assert torch.equal(causal[:, 0], v[:, :, 0])  # the first token sees itself alone


# ---- places ----


@settings(max_examples=50, deadline=None)
@given(st.lists(bundles(3), min_size=1, max_size=4))
def test_each_token_s_place_is_where_the_flat_row_holds_it(found: list[Bundle]) -> None:
    flat_row: list[tuple[int, int]] = []  # (row, position) of the tokens that are computed
    lengths, shared, first_row_of = [], [], []
    for bundle in found:
        first = len(lengths)
        for own, common in zip(bundle.own_lengths, bundle.shared_lengths, strict=True):
            flat_row += [(len(lengths), common + t) for t in range(own)]
            lengths.append(own + common)
            shared.append(common)
            first_row_of.append(first)
    positions = torch.arange(max(lengths)).expand(len(lengths), -1)
    places = flat_places(torch.tensor(lengths), torch.tensor(shared), positions)
    for row, length in enumerate(lengths):
        for t in range(length):
            holder = first_row_of[row] if t < shared[row] else row
            assert flat_row[int(places[row, t])] == (holder, t)


def test_real_tokens_are_counted() -> None:
    found = real_tokens(torch.zeros(3, 4, dtype=torch.long), torch.tensor([4, 1, 0]))
    assert found.tolist() == [[True] * 4, [True, False, False, False], [False] * 4]


# ---- a model ----


@pytest.mark.parametrize("shares", [True, False])
@pytest.mark.parametrize("is_flat", [True, False])
def test_the_wanted_states_in_order_without_a_cache(is_flat: bool, shares: bool) -> None:
    model = small_model().eval()
    assert make_flat(model, VOCABULARY)
    generator = torch.Generator().manual_seed(0)
    input_ids = torch.randint(VOCABULARY, (3, 8), generator=generator)
    input_ids[1, :3] = input_ids[0, :3]
    lengths, shared = torch.tensor([6, 8, 4]), torch.tensor([0, 3, 0]) if shares else None
    wanted = real_tokens(input_ids, lengths) & (torch.rand(3, 8, generator=generator) < 0.6)
    caches: list[Any] = []
    masks: list[Any] = []
    hook = model.base_model.register_forward_hook(lambda _, __, output: caches.append(output.past_key_values))
    model.base_model.layers[0].register_forward_pre_hook(
        lambda _, __, named: masks.append(named["attention_mask"]), with_kwargs=True
    )
    with torch.no_grad():
        found = hidden_states_at(model, is_flat, input_ids, lengths, wanted, shared)
        hook.remove()
        assert not is_flat or masks[0].numel() == 1  # of all tokens with all it would be the largest tensor of the pass
        alone = [
            model.base_model(input_ids=ids[None, :n]).last_hidden_state[0][chosen[:n]]
            for ids, n, chosen in zip(input_ids, lengths.tolist(), wanted, strict=True)
        ]
    torch.testing.assert_close(found, torch.cat(alone), rtol=0, atol=1e-5)
    assert caches == [None]  # keys and values are of no use once the pass is over


class Trunk(nn.Module):
    """A made-up trunk whose states are sums over what a token sees, and which may see too much.

    The state of a token is (sum of its ids and those before it in its sequence, its position), in double precision.
    """

    def __init__(self, leak: str = "") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.leak = leak
        self.config = SimpleNamespace(_attn_implementation="sdpa")
        self.seen_training: list[bool] = []
        self.chosen: list[str] = []

    @property
    def base_model(self) -> Trunk:
        return self

    def set_attn_implementation(self, name: str) -> None:
        self.chosen.append(name)
        self.config._attn_implementation = name

    def forward(
        self, input_ids: torch.Tensor, use_cache: bool, bundles: list[Bundle] | None = None, **given_settings: Any
    ) -> Any:
        self.seen_training.append(self.training)
        if bundles is None:
            values = input_ids.double().cumsum(1)
            places = torch.arange(input_ids.shape[1], device=values.device).double().expand_as(values)
            return SimpleNamespace(last_hidden_state=torch.stack([values, places], dim=-1))
        if self.leak == "refuses":
            raise TypeError("unexpected keyword argument 'position_ids'")
        ids, states, start, before = input_ids[0].double(), [], 0, 0.0
        for bundle in bundles:
            first = ids[start:]
            for own, shared in zip(bundle.own_lengths, bundle.shared_lengths, strict=True):
                values = first[:shared].sum() + ids[start : start + own].cumsum(0)
                if self.leak == "all" or (self.leak == "within a bundle" and shared):
                    values = values + 1e-9 * before  # far below any tolerance of a comparison
                if self.leak == "values":
                    values = values + 1
                before = float(ids[start : start + own].sum())
                states.append(values)
                start += own
        assert given_settings["attention_mask"].device == input_ids.device
        positions = given_settings["position_ids"][0].double()
        return SimpleNamespace(last_hidden_state=torch.stack([torch.cat(states), positions], dim=-1)[None])


@pytest.mark.parametrize("leak", ["", "all", "within a bundle", "values", "refuses"])
@pytest.mark.parametrize("training", [True, False])
def test_a_model_is_made_flat_where_that_is_exact_and_else_stays_as_it_was(leak: str, training: bool) -> None:
    trunk = Trunk(leak).train(training)
    exact = not leak
    assert make_flat(trunk, 100) is exact
    assert trunk.config._attn_implementation == (ATTENTION if exact else "sdpa")
    assert trunk.chosen[0] == ATTENTION
    assert trunk.training is training and not any(trunk.seen_training)  # asked without dropout
    if exact:
        asked = len(trunk.seen_training)
        assert make_flat(trunk, 100) and len(trunk.seen_training) == asked  # once made flat it is not asked again


@pytest.mark.parametrize("implementation", ["eager", "flash_attention_2"])
def test_another_attention_was_chosen_and_is_kept(implementation: str) -> None:
    trunk = Trunk()
    trunk.config._attn_implementation = implementation
    assert not make_flat(trunk, 100)
    assert trunk.config._attn_implementation == implementation and not trunk.seen_training


def test_on_another_device_than_a_cpu_batches_are_padded() -> None:
    trunk = Trunk().to("meta")
    assert not make_flat(trunk, 100) and not trunk.seen_training


def test_close_is_enough_between_flat_and_padded_but_rows_must_not_differ_at_all() -> None:
    trunk = Trunk()
    expected = probe_states(trunk, False, 100, (0, 0))
    assert is_exact(trunk, expected, 100) and is_exact(trunk, expected * 1.005 + 0.0005, 100)  # low precision rounds
    assert not is_exact(trunk, expected * 1.05, 100)
    assert is_exact(trunk, expected.bfloat16(), 100)


def test_the_probe_s_rows_share_what_they_say_and_change_where_they_say() -> None:
    """Sequences of 6, 4 and 5 tokens; the third has the second's first two, which no change touches."""

    def rows(changes: tuple[int, int], vocabulary: int = 100) -> list[list[float]]:
        sums = probe_states(Trunk(), True, vocabulary, changes)[:, 0]
        return [part.tolist() for part in sums.split([6, 4, 5])]

    plain, first, second = rows((0, 0)), rows((5, 0)), rows((0, 5))
    assert [len(row) for row in plain] == [6, 4, 5]
    assert [len(set(row)) for row in plain] == [6, 4, 5]  # no two tokens alike, or one could pass for the other
    assert plain[1][:2] == plain[2][:2] and plain[1][2:] != plain[2][2:4]
    assert first[0] != plain[0] and first[1:] == plain[1:]
    assert all(a != b for a, b in zip(first[0], plain[0], strict=True))
    assert second[0] == plain[0] and second[1][:2] == plain[1][:2] and second[2] == plain[2]
    assert all(a != b for a, b in zip(second[1][2:], plain[1][2:], strict=True))
    assert all(a != b for a, b in zip(plain[0], plain[1], strict=False))  # else one row's could pass for the other's
    assert torch.equal(probe_states(Trunk(), True, 100, (0, 0)), probe_states(Trunk(), False, 100, (0, 0)))
    ids = torch.tensor(rows((5, 5), vocabulary=7)[0]).diff()
    assert ids.max() < 7  # a small vocabulary has words for it too


def test_tensors_are_born_where_the_rows_are(monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, lengths, shared = Trunk(), torch.tensor([3, 4]), torch.tensor([0, 2])
    input_ids = torch.tensor([[1, 2, 3, 0], [1, 2, 4, 5]])
    wanted, positions = real_tokens(input_ids, lengths), torch.arange(4).expand(2, -1)
    q, k, v = (torch.randn(1, 2, 5, 4) for _ in range(3))
    monkeypatch.setattr(flat, "PAIRS_OF_A_CALL", -(10**6))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=1)

    def everything() -> list[torch.Tensor]:
        return [
            real_tokens(input_ids, lengths),
            flat_places(lengths, shared, positions),
            hidden_states_at(trunk, True, input_ids, lengths, wanted, shared),
            hidden_states_at(trunk, True, input_ids, lengths, wanted),
            probe_states(trunk, True, 100, (0, 0)),
            per_sequence_attention(module, q, k, v, None, bundles_of([3, 2], [0, 2]))[0],
        ]

    expected = everything()
    with torch.device("meta"):  # what names no device would be there
        found = everything()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
