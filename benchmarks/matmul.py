"""The ceiling: a worker of `baton.py` that does nothing but one large matrix product, again and again.

No training step can be faster than its matrix products, so the share of this speed that a trainer reaches
says how much of the machine it uses. Measured in the same interleaving, because a busy machine's ceiling
moves from minute to minute.
"""

from __future__ import annotations

import torch

from benchmarks.baton import Baton
from benchmarks.task import Task

SIDE = 1024
PRODUCTS_PER_STEP = 20


def main() -> None:
    task = Task.from_argv()
    baton = Baton()
    dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
    left, right = torch.randn(SIDE, SIDE, dtype=dtype), torch.randn(SIDE, SIDE, dtype=dtype)
    out = torch.empty(SIDE, SIDE, dtype=dtype)
    baton.ready()
    while baton.wait():
        for _ in range(PRODUCTS_PER_STEP):
            torch.mm(left, right, out=out)
        baton.count_flops(PRODUCTS_PER_STEP * 2 * SIDE**3)


if __name__ == "__main__":
    main()
