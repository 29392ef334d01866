"""Claims about the step: learning rate, weight decay, AdamW, and rows cut into micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import Trainer as PeersTrainer
from transformers import get_scheduler

import auto_bot_tuner.training.optim as optim
from auto_bot_tuner.training.batching import collate, cut_by_tokens, epoch_order, in_order, share_between
from auto_bot_tuner.training.config import TrainingConfig
from proof.cases import dice, normal, whole
from proof.claims import EXACT, FLOAT32, FLOAT64, Case, Claim, Paper
from proof.oracles import steps as definition
from tests.models import tiny_model

TESTS = "tests/test_loop.py::"
ADAMW = Paper("Loshchilov and Hutter 2019, algorithm 2", "1711.05101")
RULE = Paper("no paper: counted, never guessed from ids")


def schedules() -> Iterator[Case]:
    for total in (1, 2, 7, 40):
        for warmup in (0.0, 0.1, 1.0, 3.0, 100.0):
            for schedule in ("constant", "linear", "cosine"):
                yield {"total": total, "warmup": warmup, "schedule": schedule}


def schedule(case: Case) -> list[float]:
    return [optim.learning_rate_at(i, case["total"], case["warmup"], case["schedule"]) for i in range(case["total"])]


def ramp(case: Case) -> int:
    return min(optim.num_warmup_steps(case["total"], case["warmup"]), case["total"])


def after_the_ramp(case: Case) -> list[float]:
    return schedule(case)[ramp(case) :]


def schedule_of_peers(case: Case) -> list[float]:
    """transformers' schedule, which TRL's trainers use: the factors after the warm-up."""
    name = {"constant": "constant_with_warmup"}.get(case["schedule"], case["schedule"])
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = get_scheduler(name, optimizer, ramp(case), case["total"])
    factors = []
    for _ in range(case["total"]):
        factors.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return factors[ramp(case) :]


def families() -> Iterator[Case]:
    return ({"family": family} for family in ("gpt2", "llama", "qwen2"))


def model_of(case: Case) -> Any:
    return tiny_model(case["family"], vocab_size=61, bos_token_id=0, eos_token_id=0)


def decayed(case: Case) -> list[bool]:
    """Of each weight of the model: whether our optimiser decays it."""
    model = model_of(case)
    groups = optim.build_optimizer(model.named_parameters(), TrainingConfig(weight_decay=0.1)).param_groups
    ours = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
    return [id(p) in ours for p in model.parameters()]


def decayed_by_kind(case: Case) -> list[bool]:
    """By what a weight belongs to: tables and linear maps decay; norms, scales and biases do not."""
    model = model_of(case)
    maps = ("Linear", "Embedding", "Conv1D")
    kinds = {
        id(p): type(module).__name__ in maps and name == "weight"
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
    }
    return [kinds[id(p)] for p in model.parameters()]


def decayed_by_peers(case: Case) -> list[bool]:
    """`transformers.Trainer.get_decay_parameter_names`, which TRL's trainers use."""
    model = model_of(case)
    names = set(PeersTrainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    return [name in names for name, _ in model.named_parameters()]


def optimisations() -> Iterator[Case]:
    for seed in range(8):
        generator = dice(seed)
        weights = {"matrix": normal(generator, 3, 2), "vector": normal(generator, 4)}
        yield {**weights, "lr": 0.01, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "decay": 0.1, "steps": 12}


def adamw(case: Case) -> torch.Tensor:
    weights = [nn.Parameter(case[name].clone()) for name in ("matrix", "vector")]
    config = TrainingConfig(
        weight_decay=case["decay"], adam_beta1=case["beta1"], adam_beta2=case["beta2"], adam_epsilon=case["epsilon"]
    )
    optimizer = optim.build_optimizer(list(zip("mv", weights, strict=True)), config)
    for group in optimizer.param_groups:
        group["lr"] = case["lr"]
    for _ in range(case["steps"]):
        for p in weights:
            p.grad = 2 * (p.detach() - 0.3) * (1 + torch.arange(p.numel()) % 3).view_as(p)
        optimizer.step()
    return torch.cat([p.flatten() for p in weights])


def rows_of_steps() -> Iterator[Case]:
    for seed in range(30):
        generator = dice(seed)
        lengths = [whole(generator, 1, 40) for _ in range(whole(generator, 1, 40))]
        yield {"row_lengths": lengths, "budget": (1, 40, 200)[seed % 3], "processes": 1 + seed % 4, "seed": seed}


def cuts(case: Case) -> list[float]:
    """Every row once; no cut over the budget but a row alone; as many for each process; each evaluation row once."""
    lengths, rows = case["row_lengths"], epoch_order(len(case["row_lengths"]), case["seed"], 1)
    found = share_between(cut_by_tokens(rows, lengths, case["budget"]), lengths, case["processes"])
    over = sum(len(cut) > 1 and len(cut) * max(lengths[row] for row in cut) > case["budget"] for cut in found)
    shares = [list(in_order(lengths, 5, case["processes"], rank)) for rank in range(case["processes"])]
    seen = sorted(row for share in shares for cut in share for row in cut)
    return [
        *sorted(row for cut in found for row in cut),
        over,
        len(found) % case["processes"],
        *seen,
        len({len(s) for s in shares}),
    ]


def cuts_by_definition(case: Case) -> list[float]:
    rows = range(len(case["row_lengths"]))
    return [*rows, 0, 0, *rows, 1]


def batches() -> Iterator[Case]:
    """Rows full of token 0, which is end and padding at once."""
    for seed in range(12):
        generator = dice(seed)
        ids = [torch.randint(0, 2, (whole(generator, 1, 9),), generator=generator) for _ in range(4)]
        yield {"ids": ids}


def collated(case: Case) -> list[Any]:
    rows = [{"input_ids": ids, "labels": ids} for ids in case["ids"]]
    batch = collate(rows, range(len(rows)))
    trained = [line[line != -100].tolist() for line in batch["labels"]]
    return [trained, batch["lengths"].tolist(), batch.weight, batch.tokens]


def collated_by_definition(case: Case) -> list[Any]:
    lengths = [len(ids) for ids in case["ids"]]
    return [[ids.tolist() for ids in case["ids"]], lengths, sum(lengths) - len(lengths), sum(lengths)]


CLAIMS = [
    Claim(
        "learning rate",
        optim.learning_rate_at,
        Paper("Loshchilov and Hutter 2017, eq. 5 (cosine)", "1608.03983"),
        TESTS + "test_the_learning_rate_by_hand",
        schedules,
        schedule,
        definition.schedule,
        "the three schedules, step by step",
        peer_is="differs in the warm-up: transformers' first step has learning rate 0, ours 1/(w+1)",
        bound=FLOAT64,
        formula=r"\frac{i+1}{w+1}, \; \text{then } 1, \; 1 - p, \; \frac{1 + \cos \pi p}{2}",
    ),
    Claim(
        "learning rate after the warm-up",
        optim.num_warmup_steps,
        Paper("as above"),
        TESTS + "test_the_learning_rate_by_hand",
        schedules,
        after_the_ramp,
        lambda case: definition.schedule(case)[ramp(case) :],
        "the three schedules, step by step",
        schedule_of_peers,
        "`transformers.get_scheduler`, which TRL uses",
        bound=FLOAT64,
        formula=r"w = \lceil \text{share} \cdot n \rceil",
    ),
    Claim(
        "which weights decay",
        optim.build_optimizer,
        ADAMW,
        TESTS + "test_decay_takes_matrices_and_spares_norms_and_biases",
        families,
        decayed,
        decayed_by_kind,
        "by the kind of module that a weight belongs to, in three architectures",
        decayed_by_peers,
        "`transformers.Trainer.get_decay_parameter_names`, which TRL uses",
        bound=EXACT,
        formula=r"\mathrm{ndim} \ge 2",
    ),
    Claim(
        "AdamW, twelve steps",
        optim.build_optimizer,
        ADAMW,
        TESTS + "test_the_loop_equals_a_plain_one_written_out",
        optimisations,
        adamw,
        definition.adamw,
        "the algorithm, weight by weight",
        peer_is="takes PyTorch's too: not compared",
        bound=FLOAT32,
        formula=r"\theta \leftarrow \theta - \eta \, \hat m / (\sqrt{\hat v} + \epsilon) - \eta \lambda \theta",
    ),
    Claim(
        "every row once, however a step is cut and shared",
        share_between,
        RULE,
        TESTS + "test_every_process_gets_the_same_number_of_cuts",
        rows_of_steps,
        cuts,
        cuts_by_definition,
        "counted",
        peer_is="not compared",
        bound=EXACT,
        formula=r"\bigcup_p \text{cuts}_p = \text{rows}",
    ),
    Claim(
        "padding takes no end token away, pad = eos",
        collate,
        RULE,
        TESTS + "test_a_padding_id_equal_to_eos_costs_no_end_token",
        batches,
        collated,
        collated_by_definition,
        "the rows as they were",
        peer_is="not compared: see “where toolkits go wrong”",
        bound=EXACT,
        formula=r"t < \text{length}, \text{never } y_t \ne \text{pad}",
    ),
]
