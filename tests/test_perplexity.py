"""Perplexity against its definition, written out token by token."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auto_bot_tuner.evaluation import compute_perplexity, compute_perplexity_on_dataset
from auto_bot_tuner.evaluation.perplexity import score_tokens, sliding_windows, text_items
from auto_bot_tuner.utils.errors import UserError
from tests.models import tiny_model

TEXTS = ["The cow eats grass.", "A", "Once upon a time there was a little girl, and she loved to play outside."]


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Any:
    # A wide initialisation: near zero every model has perplexity V, whatever it is asked.
    return tiny_model(request.param, initializer_range=0.3)


def nll_by_definition(model: Any, ids: list[int], first_target: int = 1) -> list[float]:
    """-log p(x_t | x_<t) for t = first_target …, one forward pass per token."""
    losses = []
    with torch.no_grad():
        for t in range(first_target, len(ids)):
            probabilities = model(torch.tensor([ids[:t]])).logits[0, -1].double().softmax(dim=-1)
            losses.append(-math.log(probabilities[ids[t]]))
    return losses


def test_perplexity_weighs_tokens_not_texts(model: Any, gpt2_tokenizer: Any) -> None:
    """Rule 11: sums first, one division at the end. The one-token text has nothing to score."""
    losses = [loss for text in TEXTS for loss in nll_by_definition(model, gpt2_tokenizer(text)["input_ids"])]
    metrics = compute_perplexity(model, gpt2_tokenizer, TEXTS)
    assert metrics["num_tokens"] == len(losses)
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert metrics["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert metrics["bits_per_byte"] == pytest.approx(sum(losses) / math.log(2) / num_bytes, rel=1e-5)


def test_batches_change_nothing(model: Any, gpt2_tokenizer: Any) -> None:
    one_by_one = compute_perplexity(model, gpt2_tokenizer, TEXTS, batch_tokens=1)
    together = compute_perplexity(model, gpt2_tokenizer, TEXTS)
    assert together == pytest.approx(one_by_one, rel=1e-5)


def test_a_long_text_is_scored_through_a_sliding_window(gpt2_tokenizer: Any) -> None:
    """Every token once; from the second window on, each has at least half a window before it."""
    model = tiny_model("gpt2", n_positions=8, initializer_range=0.3)
    text = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    ids = gpt2_tokenizer(text)["input_ids"]
    assert len(ids) > 12
    losses = []
    for t in range(1, len(ids)):
        # The window that holds t as a new token: windows start at 0, 4, 8 …, and t is new in the first that reaches it.
        start = 0 if t < 8 else 4 * math.ceil((t - 7) / 4)
        losses.append(nll_by_definition(model, ids[start : t + 1], t - start)[0])
        assert t < 8 or t - start >= 4
    metrics = compute_perplexity(model, gpt2_tokenizer, text)
    assert metrics["num_tokens"] == len(ids) - 1
    assert metrics["loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert compute_perplexity(model, gpt2_tokenizer, text, window=100) == metrics  # never wider than the context
    assert compute_perplexity(model, gpt2_tokenizer, text, window=4)["loss"] != metrics["loss"]


@settings(max_examples=200, deadline=None)
@given(length=st.integers(1, 60), width=st.integers(2, 20))
def test_windows_score_each_token_once_and_with_context(length: int, width: int) -> None:
    ids = list(range(length))
    seen: list[int] = []
    for window in sliding_windows({"input_ids": ids, "labels": ids}, width):
        assert len(window["input_ids"]) == len(window["labels"]) <= width
        new = [label for label in window["labels"] if label != -100]
        assert new == [i for i, label in zip(window["input_ids"], window["labels"], strict=True) if label != -100]
        if seen:
            assert new[0] - window["input_ids"][0] >= width // 2
        seen += new
    assert seen == ids


def test_every_loss_stands_at_its_place(gpt2_tokenizer: Any) -> None:
    """Through a sliding window: places 1 … n - 1, each once, and the losses of what the window shows."""
    model = tiny_model("gpt2", n_positions=8, initializer_range=0.3)
    items = text_items(gpt2_tokenizer, ["one two three four five six seven eight nine ten eleven", "A cow"])
    rows = score_tokens(model, items)
    ids = items[0]["input_ids"]
    assert rows[0].places.tolist() == list(range(1, len(ids))) and rows[1].places.tolist() == [1]
    by_hand = nll_by_definition(model, ids[:8]) + nll_by_definition(model, ids[4:12], first_target=4)
    assert rows[0].losses[: len(by_hand)].tolist() == pytest.approx(by_hand, abs=1e-5)


def test_only_trained_tokens_of_a_dataset_count(model: Any) -> None:
    ids = [[5, 6, 7, 8, 9], [3, 4, 5]]
    labels = [[-100, -100, 7, 8, -100], [3, -100, 5]]
    dataset = [
        {"input_ids": torch.tensor(row), "labels": torch.tensor(mask)} for row, mask in zip(ids, labels, strict=True)
    ]
    first, second = nll_by_definition(model, ids[0]), nll_by_definition(model, ids[1])
    expected = (first[1] + first[2] + second[1]) / 3  # the label of a first token is no target
    metrics = compute_perplexity_on_dataset(model, dataset)
    assert metrics["num_tokens"] == 3
    assert metrics["loss"] == pytest.approx(expected, abs=1e-5)


def test_dropout_is_off_and_training_goes_on_afterwards(gpt2_tokenizer: Any) -> None:
    model = tiny_model("gpt2")  # with GPT-2's dropout of 0.1
    expected = compute_perplexity(model, gpt2_tokenizer, TEXTS)
    model.train()
    assert compute_perplexity(model, gpt2_tokenizer, TEXTS) == expected
    assert model.training


@pytest.mark.parametrize("texts", ["", [], ["A"], ["", "A"]])
def test_nothing_to_score_is_an_error_not_a_nan(texts: Any, gpt2_tokenizer: Any) -> None:
    with pytest.raises(UserError, match="at least one token"):
        compute_perplexity(tiny_model("gpt2"), gpt2_tokenizer, texts)


def test_nan_weights_are_named(gpt2_tokenizer: Any) -> None:
    model = tiny_model("llama")
    model.lm_head.weight.data[0, 0] = float("nan")
    with pytest.raises(UserError, match="not finite"):
        compute_perplexity(model, gpt2_tokenizer, TEXTS)


def test_a_published_model_has_its_published_perplexity(shared_data: Path) -> None:
    """`gpt2-basic-chat-690k` states 6.23 over lines that are scored alone, each with its end token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared_data / "models" / "gpt2-basic-chat-690k"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = (folder / "ppl_text.txt").read_text(encoding="utf-8").splitlines()
    metrics = compute_perplexity(model, tokenizer, [line + tokenizer.eos_token for line in lines])
    assert metrics["perplexity"] == pytest.approx(6.23, abs=0.005)
