"""The work of the rollout benchmark: prompts to answer, stored responses to replay, and what they cost.

Prompts are those of alpaca (see `workload.py`). A random model writes nearly uniform tokens, and one in 82 is a stop
token, so responses have the spread of lengths that real ones have: geometric, cut at the limit.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from benchmarks.task import Task
from benchmarks.workload import EOS_ID, FIRST_WORD, IGNORED, VOCABULARY, build_rows, forward_flops

STOP_IDS = [EOS_ID, *range(VOCABULARY - 199, VOCABULARY)]


def build_prompts(count: int, max_length: int) -> list[list[int]]:
    """`count` prompts in a seeded random order, repeated where the data holds fewer."""
    rows = build_rows(count, max_length, completion_only=True)
    prompts = [row["input_ids"][: row["labels"].count(IGNORED)] for row in rows]
    return [prompts[i % len(prompts)] for i in range(count)]


def replayed_responses(task: Task, step: int) -> list[list[int]]:
    """The given responses of a step, prompt by prompt: made up, with lengths as the model's own have them."""
    generator = random.Random(step)
    responses = []
    for _ in range(task.rows_per_step * task.group_size):
        length = min(1 + int(generator.expovariate(len(STOP_IDS) / VOCABULARY)), task.max_new_tokens)
        words = [generator.randrange(FIRST_WORD, STOP_IDS[1]) for _ in range(length)]
        responses.append([*words[:-1], generator.choice(STOP_IDS)] if length < task.max_new_tokens else words)
    return responses


def score(response_ids: Sequence[int]) -> float:
    """A reward that costs nothing and differs from response to response: the share of even ids."""
    return sum(token % 2 == 0 for token in response_ids) / len(response_ids)


def useful_tokens(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> int:
    """Real tokens of all sequences; a prompt counts in each."""
    samples = len(responses) // len(prompts)
    return samples * sum(map(len, prompts)) + sum(map(len, responses))


def flops_of(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], task: Task) -> dict[str, float]:
    """What writing, scoring and training *need*: prompts once, no padding, logits at response tokens only."""
    samples = len(responses) // len(prompts)
    trunk = scored = 0.0  # of one forward pass over everything, without and with the vocabulary's head
    for i, prompt in enumerate(prompts):
        read = forward_flops(len(prompt), 0, 0)
        trunk, scored = trunk + read, scored + read
        for response in responses[i * samples : (i + 1) * samples]:
            trunk += forward_flops(len(response), len(prompt), 0)
            scored += forward_flops(len(response), len(prompt), len(response))
    # Forward, gradient of the inputs and, but for frozen weights, gradient of the weights.
    passes = (2 if task.lora else 3) * task.epochs_per_rollout
    if task.method == "grpo":
        return {"writing": scored, "scoring": 0.0, "training": passes * scored}
    # Scoring: the reward model, the reference, the value network. Training: the policy and the value network.
    return {"writing": scored, "scoring": 2 * trunk + scored, "training": passes * (scored + trunk)}
