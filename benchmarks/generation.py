"""The generation engine beside `transformers.generate`, in one worker: a lap is one paired round.

Both sample at temperature 1 until a stop token or the limit; a random model writes a stop token every 82 tokens, so
that lengths differ as they do in real rollouts. *Useful* tokens are those up to and with the first stop token. That
both write what the model says is told by greedy texts, which must be the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate
from benchmarks.baton import Baton
from benchmarks.prompts import STOP_IDS
from benchmarks.task import Task
from benchmarks.workload import FIRST_WORD, build_model

COMPARED_TOKENS = 16  # of each greedy text

Texts = list[list[int]]


def prompts(count: int) -> Texts:
    """Few prompts are those of rollouts, many are as short as questions."""
    shortest, longest = (160, 256) if count <= 4 else (32, 128)
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(FIRST_WORD, STOP_IDS[1], (n,), generator=generator).tolist() for n in lengths]


def ours(model: Any, rows: Texts, task: Task, seed: int, temperature: float = 1.0) -> Texts:
    config = GenerationConfig(temperature=temperature, max_new_tokens=task.max_new_tokens, seed=seed)
    return [list(text.token_ids) for text in generate(model, rows, config, STOP_IDS, task.group_size)]


def theirs(model: Any, rows: Texts, task: Task, seed: int, temperature: float = 1.0) -> Texts:
    torch.manual_seed(seed)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=task.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=task.device)
    sampling = {"do_sample": True, "top_k": 0} if temperature else {"do_sample": False}
    output = model.generate(
        ids,
        attention_mask=mask,
        num_return_sequences=task.group_size,
        max_new_tokens=task.max_new_tokens,
        eos_token_id=STOP_IDS,
        pad_token_id=0,
        **sampling,
    )
    stops = set(STOP_IDS)
    texts = []
    for text in output[:, width:].tolist():
        end = next((i + 1 for i, token in enumerate(text) if token in stops), len(text))
        texts.append(text[:end])
    return texts


def different_texts(model: Any, rows: Texts, task: Task) -> int:
    """How many greedy texts are not the same."""
    greedy = Task(**{**task.as_json(), "group_size": 1, "max_new_tokens": COMPARED_TOKENS})
    pairs = zip(*(side(model, rows, greedy, 0, temperature=0.0) for side in (ours, theirs)), strict=True)
    return sum(mine != other for mine, other in pairs)


def main() -> None:
    task = Task.from_argv()
    baton = Baton(task.device)
    model = build_model(task).eval()
    rows = prompts(task.rows_per_step)
    with torch.no_grad():
        different = different_texts(model, rows, task)  # in float32: bfloat16 has ties, which each side breaks its way
        if task.precision == "bf16":
            model = model.bfloat16()
        baton.ready(different=different)
        seed = 0
        while baton.wait():
            sides: dict[str, Callable[..., Texts]] = {"ours": ours, "peer": theirs}
            for name in sides if seed % 2 else reversed(sides):
                with baton.part(name):
                    texts = sides[name](model, rows, task, seed)
                baton.lap.part_tokens[name] = sum(map(len, texts))
            seed += 1


if __name__ == "__main__":
    main()
