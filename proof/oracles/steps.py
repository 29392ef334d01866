"""Optimiser steps by their papers: numbers one at a time."""

from __future__ import annotations

import math

from proof.claims import Case


def schedule(case: Case) -> list[float]:
    """The share of the peak in every step: a ramp that starts above 0, then constant, a line or half a cosine."""
    total, warmup, kind = case["total"], case["warmup"], case["schedule"]
    ramp = int(warmup) if warmup >= 1 else math.ceil(warmup * total)
    ramp = min(ramp, total)
    factors = [(i + 1) / (ramp + 1) for i in range(ramp)]
    for i in range(total - ramp):
        done = i / (total - ramp)
        factors.append({"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[kind])
    return factors


def adamw(case: Case) -> list[float]:
    """1711.05101, algorithm 2, on weights and gradients in lists; matrices decay, vectors do not."""
    b1, b2, eps, lr = case["beta1"], case["beta2"], case["epsilon"], case["lr"]
    found = []
    for name in ("matrix", "vector"):
        decay = case["decay"] if name == "matrix" else 0.0
        weights = [x for row in case[name] for x in (row if isinstance(row, list) else [row])]
        m, v = [0.0] * len(weights), [0.0] * len(weights)
        for t in range(1, case["steps"] + 1):
            for i, x in enumerate(weights):
                gradient = 2 * (x - 0.3) * (1 + i % 3)  # of the loss below
                m[i] = b1 * m[i] + (1 - b1) * gradient
                v[i] = b2 * v[i] + (1 - b2) * gradient**2
                step = (m[i] / (1 - b1**t)) / (math.sqrt(v[i] / (1 - b2**t)) + eps)
                weights[i] = x - lr * step - lr * decay * x
        found += weights
    return found
