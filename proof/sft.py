"""Claims about supervised fine-tuning, and about the way from hidden states to log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

import auto_bot_tuner.sft.loss as sft
import auto_bot_tuner.training.logprobs as paths
from auto_bot_tuner.training.batching import collate
from proof.cases import dice, normal, whole
from proof.claims import FLOAT32, MODEL, SUMS, Bound, Case, Claim, Graded, Paper
from proof.oracles import language as definition
from proof.oracles.arithmetic import log_softmax
from proof.peers import language as trl
from tests.models import tiny_model

RADFORD = Paper("Radford et al. 2018 (GPT), eq. 1; Ouyang et al. 2022, §3.5", "2203.02155")
TESTS = "tests/test_sft_loss.py::"
SEQUENCES = "tests/test_sequence_logprobs.py::"
HEAD = ("hidden", "weight")
WORDS = 61


def logits() -> Iterator[Case]:
    """1 to 4 rows of 2 to 9 tokens, prompts and padding untrained; logits up to ±300 in every fifth case."""
    for seed in range(20):
        generator = dice(seed)
        rows, tokens, words = whole(generator, 1, 4), whole(generator, 2, 9), whole(generator, 2, 11)
        labels = torch.randint(words, (rows, tokens), generator=generator)
        labels[torch.rand(rows, tokens, generator=generator) < 0.4] = -100
        labels[0, -1] = 0  # one token is trained at least
        scale = 100.0 if seed % 5 == 4 else 3.0
        yield {"logits": scale * normal(generator, rows, tokens, words), "labels": labels}


def heads() -> Iterator[Case]:
    """1 to 600 hidden states: within one chunk of 512, and over two; a last chunk of few."""
    for seed, tokens in enumerate((1, 2, 5, 17, 40, 40, 600)):
        generator = dice(seed)
        width, words = (3, 5) if tokens > 100 else (8, 23)
        yield {
            "hidden": normal(generator, tokens, width),
            "weight": (0.3, 1.0, 3.0)[seed % 3] * normal(generator, words, width),
            "targets": torch.randint(words, (tokens,), generator=generator),
        }


def small_heads() -> Iterator[Case]:
    for case in heads():
        if len(case["hidden"]) <= 40:
            for temperature in (0.7, 1.0, 1.5):
                yield case | {"temperature": temperature}


def summed_nll(case: Case) -> torch.Tensor:
    total: torch.Tensor = paths.SummedNLL.apply(case["hidden"], case["weight"], case["targets"], True)[0]
    return total


def logprobs_and_entropies(case: Case) -> torch.Tensor:
    scaled = case["hidden"] / case["temperature"]
    found = paths.TokenLogprobs.apply(scaled, case["weight"], case["targets"], True, "trained")
    return torch.cat(found)


def models() -> Iterator[Case]:
    """Three architectures, rows of 2 to 12 tokens; every second row shares nothing, padding is the end token."""
    for seed, family in enumerate(("gpt2", "llama", "qwen2")):
        generator = dice(seed)
        rows = []
        for _ in range(5):
            ids = torch.randint(1, WORDS, (whole(generator, 2, 12),), generator=generator)
            labels = ids.clone()
            labels[: len(ids) // 2] = -100
            rows.append({"input_ids": ids, "labels": labels})
        yield {"family": family, "rows": rows}


def model_of(case: Case) -> Any:
    ends = {"vocab_size": WORDS, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.3}
    return tiny_model(case["family"], **ends)


def slopes_of(loss: torch.Tensor, model: Any) -> list[torch.Tensor]:
    return [slope.flatten()[::17] for slope in torch.autograd.grad(loss, list(model.parameters()))]


def as_trained(case: Case) -> Graded:
    """The whole path of SFT: rows collated, lying flat, logits at trained positions only, a chunk at a time."""
    model = model_of(case)
    loss = paths.CausalNLL(model)(**collate(case["rows"], range(len(case["rows"]))).tensors)[0]
    return Graded(loss, slopes_of(loss, model))


def row_by_row(case: Case) -> Graded:
    """transformers' own forward of each row alone, a plain log-softmax of all logits in float64."""
    model = model_of(case)
    total = torch.zeros((), dtype=torch.float64)
    for row in case["rows"]:
        logprobs = model(input_ids=row["input_ids"][None], use_cache=False).logits[0].double().log_softmax(dim=-1)
        for place in range(1, len(row["labels"])):
            if row["labels"][place] != -100:
                total = total - logprobs[place - 1, row["labels"][place]]
    return Graded(total, slopes_of(total, model))


def tokens_of_rows(case: Case, temperature: float = 0.8) -> torch.Tensor:
    module = paths.SequenceLogprobs(model_of(case), temperature)
    with torch.no_grad():
        found: torch.Tensor = module(**collate(case["rows"], range(len(case["rows"]))).tensors)
    return torch.cat([line[: len(row["labels"])] for line, row in zip(found, case["rows"], strict=True)])


def tokens_one_by_one(case: Case, temperature: float = 0.8) -> list[float]:
    model, found = model_of(case), []
    for row in case["rows"]:
        with torch.no_grad():
            logits = (model(input_ids=row["input_ids"][None]).logits[0].double() / temperature).tolist()
        for place, label in enumerate(row["labels"].tolist()):
            found.append(0.0 if label == -100 else log_softmax(logits[place - 1])[label])
    return found


def metrics(case: Case) -> dict[str, float]:
    return sft.sft_loss(case["logits"], case["labels"])[1]


def mild() -> Iterator[Case]:
    """A perplexity is the exponential of a loss: where that is hundreds of nats no digit is left."""
    return (case for case in logits() if case["logits"].abs().max() < 20)


CLAIMS = [
    Claim(
        "SFT loss",
        sft.sft_loss,
        RADFORD,
        "tests/test_trl_parity.py::test_sft_loss_is_the_cross_entropy_of_transformers_and_of_trl",
        logits,
        lambda case: sft.sft_loss(case["logits"], case["labels"])[0],
        definition.nll,
        "the formula, token by token, the label one to the right of its logit",
        trl.sft,
        "`selective_log_softmax`, its mean",
        ("logits",),
    ),
    Claim(
        "perplexity and accuracy",
        sft.perplexity,
        RADFORD,
        TESTS + "test_a_hand_worked_loss",
        mild,
        metrics,
        definition.sft_metrics,
        "counted token by token",
        peer_is="logs `mean_token_accuracy`: compared in tests/test_trl_parity.py",
        formula="e^L",
    ),
    Claim(
        "SFT as it trains: summed NLL, chunk by chunk",
        paths.SummedNLL,
        RADFORD,
        "tests/test_trl_parity.py::test_the_chunked_sum_and_its_gradients_are_those_of_trls_fused_head",
        heads,
        summed_nll,
        definition.summed_nll,
        "W h multiplied out, softmax token by token",
        lambda case: -trl.fused_head(case)[0].sum(),
        "`ChunkedLogProbFunction`",
        HEAD,
        bound=SUMS,
    ),
    Claim(
        "SFT as it trains: the whole path, rows lying flat",
        paths.CausalNLL,
        RADFORD,
        TESTS + "test_flat_and_padded_equal_each_row_by_itself",
        models,
        as_trained,
        row_by_row,
        "transformers' plain forward of each row alone, float64 log-softmax",
        peer_is="whole training steps, in the training table",
        bound=MODEL,
        formula=r"\sum_{t \in \text{trained}} -\log \pi_\theta(y_t \mid y_{<t})",
    ),
    Claim(
        "log-probabilities and entropies, chunk by chunk, at a temperature",
        paths.TokenLogprobs,
        Paper("definition of softmax and entropy"),
        SEQUENCES + "test_entropies_and_temperature_are_those_of_the_plain_softmax",
        small_heads,
        logprobs_and_entropies,
        definition.logprobs_and_entropies,
        "W h / T multiplied out, token by token",
        lambda case: torch.cat(trl.fused_head(case)[:2]),
        "`ChunkedLogProbFunction`",
        HEAD,
        bound=Bound(5e-5, "float32, logits up to ±30 and entropies; TRL's kernel keeps a digit less than ours"),
    ),
    Claim(
        "log-probabilities of whole rows, padded together",
        paths.SequenceLogprobs,
        Paper("definition"),
        SEQUENCES + "test_values_and_gradients_of_any_function_of_them_are_those_of_the_plain_softmax",
        models,
        tokens_of_rows,
        tokens_one_by_one,
        "each row alone, float64 softmax of all logits, temperature 0.8",
        peer_is="has the same from its fused head, above",
        formula=r"\log \pi_\theta(y_t \mid y_{<t})",
        bound=MODEL,
    ),
    Claim(
        "gathered log-probabilities",
        paths.gather_logprobs,
        Paper("definition"),
        TESTS + "test_gather_logprobs_against_the_definition",
        logits,
        lambda case: (
            -paths.gather_logprobs(case["logits"][:, :-1], case["labels"][:, 1:].clamp(min=0))[
                case["labels"][:, 1:] != -100
            ].mean()
        ),
        definition.nll,
        "token by token",
        trl.sft,
        "`selective_log_softmax`",
        ("logits",),
        formula=r"z_y - \log \sum_v e^{z_v}",
        bound=FLOAT32,
    ),
]
