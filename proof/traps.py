"""Where toolkits go wrong, measured: of each trap a number of theirs and a number of ours.

On the toolkits themselves where that is possible; `pitfalls.py` says what the numbers are.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification, GPT2LMHeadModel, get_scheduler

import auto_bot_tuner.grpo.loss as grpo
from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.rlhf.reward_model import RewardModel
from auto_bot_tuner.training.batching import collate
from auto_bot_tuner.training.config import TrainingConfig
from auto_bot_tuner.training.optim import build_optimizer, learning_rate_at
from proof.cases import dice, normal, written_responses
from proof.exact import every_word
from proof.peers import groups as trl
from proof.peers import training
from tests.reward_runs import small_reward_model
from tests.training_runs import VOCABULARY, random_rows


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def plain_k3() -> tuple[float, float]:
    """Cosines with the true gradient of KL(policy || reference), at the first step, over all words of a vocabulary.

    TRL's term: its loss on all words as responses of one token, weighed by their probability through `advantages` 0.
    """
    generator = dice(3)
    logits = normal(generator, 11, dtype=torch.float64)
    reference = (logits + 2 * normal(generator, 11, dtype=torch.float64)).float()
    logits = logits.float().requires_grad_()
    logprobs, reference_logprobs, mask = every_word({"logits": logits, "reference": reference})
    true = torch.autograd.grad((logprobs.exp() * (logprobs - reference_logprobs)).sum(), logits, retain_graph=True)[0]
    old, odds = logprobs.detach(), logprobs.detach().exp()[:, 0]
    found = []
    for one_by_one in (of_trl, of_ours):
        terms = [one_by_one(logprobs, old, reference_logprobs, mask, row) for row in range(11)]
        total = torch.stack([chance * term for chance, term in zip(odds, terms, strict=True)]).sum()
        found.append(cosine(torch.autograd.grad(total, logits, retain_graph=True)[0], true))
    return found[0], found[1]


def of_trl(now: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, row: int) -> torch.Tensor:
    rows = slice(row, row + 1)
    case = {"logprobs": now[rows], "old_logprobs": old[rows], "reference_logprobs": reference[rows], "mask": mask[rows]}
    return trl.grpo({**case, "advantages": torch.zeros(1), "longest": 1}, "grpo", beta=1.0)[0]


def of_ours(
    now: torch.Tensor, old: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor, row: int
) -> torch.Tensor:
    rows = slice(row, row + 1)
    tensors = now[rows], old[rows], torch.zeros(1), mask[rows]
    return grpo.grpo_loss(*tensors, reference_logprobs=reference[rows], beta=1.0)[0]


ENDED, CUT = torch.tensor([[5, 6, 7, 0]]), torch.tensor([[5, 6, 7]])  # 0: the end token


def end_unseen() -> tuple[float, float]:
    """|score with the end - score without|, pad = eos: the head that TRL trains, and ours on the same weights."""
    model = small_reward_model()
    ours = gap(lambda ids: model(ids))
    model.model.config.pad_token_id = 0
    return gap(lambda ids: model.model(input_ids=ids).logits), ours


def end_unseen_by_gpt2() -> tuple[float, float]:
    """The same on GPT-2's classification head, as transformers has it."""
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"vocab_size": 97, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
    config = GPT2Config(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0, num_labels=1)
    model = GPT2ForSequenceClassification(config).eval()
    return gap(lambda ids: model(input_ids=ids).logits), gap(RewardModel(model))


@torch.no_grad()
def gap(score: Any) -> float:
    return abs(float(score(ENDED)) - float(score(CUT)))


def means_of_means() -> tuple[float, float]:
    """How far the gradient of two micro-batches of as many responses is from that of the whole, relative to it.

    The responses of one are of one token. TRL's `bnpo` divides each micro-batch's token mean by their number; ours
    (`dapo`) weighs it by its tokens.
    """
    case = next(case for case in written_responses(seeds=40) if len(case["mask"]) == 4 and case["mask"].sum() > 16)
    mask = case["mask"].clone()
    mask[:2, 1:] = False
    case = {**case, "mask": mask, "logprobs": case["old_logprobs"].masked_fill(~mask, 0)}  # the first step
    parts = [slice(0, 2), slice(2, 4)]

    def theirs(c: dict[str, Any]) -> torch.Tensor:
        return torch.stack([trl.grpo(rows_of(c, rows), "bnpo", accumulation=2)[0] for rows in parts]).sum()

    def ours(c: dict[str, Any]) -> torch.Tensor:
        total, weights = torch.zeros(()), 0
        for part in (rows_of(c, rows) for rows in parts):
            weight = grpo.loss_weight(part["mask"], "dapo")
            tensors = (part[name] for name in ("logprobs", "old_logprobs", "advantages", "mask"))
            total, weights = total + weight * grpo.grpo_loss(*tensors, loss="dapo")[0], weights + weight
        return total / weights

    whole = slope(case, lambda c: trl.grpo(c, "bnpo")[0])
    apart = [float((slope(case, f) - whole).norm() / whole.norm()) for f in (theirs, ours)]
    return apart[0], apart[1]


def first_warm_up_step() -> tuple[float, float]:
    """The first step's share of the peak learning rate, three steps of warm-up."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler("linear", optimizer, 3, 10).get_last_lr()[0]
    return float(theirs), learning_rate_at(0, 10, 3, "linear")


def rows_of(case: dict[str, Any], rows: slice) -> dict[str, Any]:
    names = ("logprobs", "old_logprobs", "reference_logprobs", "advantages", "mask")
    return {**case, **{name: case[name][rows] for name in names}}


def slope(case: dict[str, Any], loss: Callable[[dict[str, Any]], torch.Tensor]) -> torch.Tensor:
    logprobs = case["logprobs"].clone().requires_grad_()
    return torch.autograd.grad(loss({**case, "logprobs": logprobs}), logprobs)[0]


def labels_counted_before_the_shift() -> tuple[float, float]:
    """The first loss of a GPT-2 that learns whole texts, over the mean loss of their predicted tokens: TRL's, ours."""
    rows = [{**row, "labels": row["input_ids"]} for row in random_rows(8)]

    def model() -> Any:
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        still = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(**sizes, **still, bos_token_id=0, eos_token_id=0))

    losses = []
    for row in rows:
        with torch.no_grad():
            logprobs = model()(input_ids=row["input_ids"][None]).logits[0].double().log_softmax(dim=-1)
        losses += [-float(logprobs[t - 1, token]) for t, token in enumerate(row["input_ids"].tolist()) if t]
    true = math.fsum(losses) / len(losses)
    with tempfile.TemporaryDirectory() as folder:
        theirs = training.first_losses(Path(folder), model, rows)
    return theirs[0] / true, theirs[1] / true


def half_precision_stands_still() -> tuple[float, float]:
    """Share of weights that ten steps of AdamW at a learning rate of 1e-6 do not move: bfloat16, float32."""
    shares = []
    for dtype in (torch.bfloat16, torch.float32):
        torch.manual_seed(0)
        layer = nn.Linear(200, 200, bias=False)
        nn.init.normal_(layer.weight, std=0.02)
        layer = layer.to(dtype)
        before = copy.deepcopy(layer.weight.data)
        optimizer = build_optimizer(layer.named_parameters(), TrainingConfig(weight_decay=0.0))
        for group in optimizer.param_groups:
            group["lr"] = 1e-6
        for _ in range(10):
            layer.weight.grad = torch.randn(200, 200).to(dtype) + 1
            optimizer.step()
        shares.append(float((layer.weight.data == before).float().mean()))
    return shares[0], shares[1]


def mask_by_value() -> tuple[float, float]:
    """Share of the end tokens that stay trained, of 40 rows padded with the end token: `ids != pad`, and by length."""
    rows = [torch.cat([torch.arange(1, 2 + i), torch.zeros(1, dtype=torch.long)]) for i in range(40)]
    batch = collate([{"input_ids": ids, "labels": ids} for ids in rows], range(40))
    is_end = (batch["input_ids"] == 0) & (batch["labels"] != IGNORE_INDEX)
    return float((is_end & (batch["input_ids"] != 0)).sum() / 40), float(is_end.sum() / 40)


def deviation_bends() -> tuple[float, float]:
    """How much more a prompt solved one time in twenty counts than one solved half the time, G = 8: 1 is fair."""
    return weight(0.05, "grpo") / weight(0.5, "grpo"), weight(0.05, "dr_grpo") / weight(0.5, "dr_grpo")


def weight(solved: float, loss: str, size: int = 8) -> float:
    """The expected gradient per unit of the true one, which is p (1 - p) by the logit of "right"."""
    total = 0.0
    for right in range(size + 1):
        odds = math.comb(size, right) * solved**right * (1 - solved) ** (size - right)
        rewards = torch.tensor([1.0] * right + [0.0] * (size - right))
        advantages = grpo.group_advantages(rewards, size, loss=loss)
        slopes = torch.where(rewards == 1, 1 - solved, -solved)  # of log pi by that logit
        total += odds * float((advantages * slopes).mean())
    return total / (solved * (1 - solved))
