"""The ceiling: a worker of `baton.py` that does nothing but matrix products, again and again.

No training step can be faster than its matrix products, so the share of their speed that a trainer reaches says how
much of the machine it uses. Measured in the same interleaving, because a busy machine's ceiling moves from minute to
minute, and at three sizes: one large square product (the hardware's own ceiling), the products of a training step at
the model's sizes, and those of writing, where a matrix meets a few rows only.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from benchmarks.baton import Baton
from benchmarks.device import CEILING_SIDE, CEILING_TOKENS
from benchmarks.task import Task
from benchmarks.workload import SHAPES

SQUARES, TRAININGS, WRITINGS = 20, 1, 8  # of one step of this worker: a quarter of a second each, about


class Products:
    """The products of a step, with operands that exist before the clock runs."""

    def __init__(self, task: Task) -> None:
        self.task, self.shape = task, SHAPES[task.shape]
        self.dtype = torch.bfloat16 if task.precision == "bf16" else torch.float32
        side = CEILING_SIDE[task.device]
        self.left, self.right = self.random(side, side), self.random(side, side)
        self.out = torch.empty_like(self.left)
        self.weights = {size: self.random(*size[:2]) for size in [*self.shape.matrices, self.head]}
        tokens = CEILING_TOKENS[task.device]
        widths = {width for size in self.weights for width in size[:2]}
        self.states = {width: self.random(tokens, width) for width in widths}  # of inputs, outputs and gradients
        self.other_tokens = tokens
        self.few_states = {width: self.random(task.rows_written, width) for width in widths}

    @property
    def head(self) -> tuple[int, int, int]:
        return self.shape.vocabulary, self.shape.hidden, 1

    def random(self, *size: int) -> torch.Tensor:
        return torch.randn(*size, dtype=self.dtype, device=self.task.device)

    def square(self) -> float:
        """One square product; its FLOPs."""
        torch.mm(self.left, self.right, out=self.out)
        return 2.0 * len(self.left) ** 3

    def training(self, tokens: int | None = None) -> float:
        """Forward, gradient of the input and gradient of the weights, of each matrix of the model."""
        tokens = tokens or CEILING_TOKENS[self.task.device]
        for (outputs, inputs, count), weight in self.weights.items():
            x, gradient = self.states[inputs][:tokens], self.states[outputs][:tokens]
            for _ in range(count):
                torch.mm(x, weight.t())
                torch.mm(gradient, weight)
                torch.mm(gradient.t(), x)
        return 6.0 * self.shape.weights * tokens

    def training_on_another_number_of_tokens(self) -> float:
        """As batches are: no two have as many. In bfloat16 a CPU's library makes new kernels for each."""
        self.other_tokens -= 1
        return self.training(self.other_tokens)

    def writing(self) -> float:
        """Forward only, of one token of each response."""
        for (_, inputs, count), weight in self.weights.items():
            for _ in range(count):
                torch.mm(self.few_states[inputs], weight.t())
        return 2.0 * self.shape.weights * self.task.rows_written


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    products = Products(task)
    baton.ready()

    def run(name: str, times: int, work: Callable[[], float]) -> None:
        with baton.part(name):
            flops = sum(work() for _ in range(times))
        baton.count_work(0, {name: flops})

    while baton.wait():
        run("square", SQUARES, products.square)
        run("model", TRAININGS, products.training)
        if task.device == "cpu" and task.precision == "bf16":
            run("new sizes", 1, products.training_on_another_number_of_tokens)
        if task.method in ("grpo", "ppo", "generation"):
            run("few rows", WRITINGS, products.writing)


if __name__ == "__main__":
    main()
