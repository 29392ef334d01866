"""Step 1 of a rollout: the policy answers prompts, and a rollout is born. Also how rollouts are joined and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate
from auto_bot_tuner.evaluation.generation import decode_continuation, stop_tokens
from auto_bot_tuner.rewards.source import Attempt
from auto_bot_tuner.rollouts.config import OnPolicyConfig
from auto_bot_tuner.rollouts.dataset import PromptDataset
from auto_bot_tuner.rollouts.rollout import Rollout

ROLLOUT_FILE = "rollout.safetensors"
COMPONENT = "component|"  # before the name of a reward source in that file


def write(
    policy: Any, dataset: PromptDataset, rows: Sequence[int], samples: int, config: OnPolicyConfig, number: int
) -> Rollout:
    """`samples` responses of the policy to each prompt of `rows`, with their log-probabilities.

    At the temperature and nothing else: top-k, top-p and the like would sample from another distribution than the one
    that is trained, and every ratio would be wrong (rule 23 of the project).

    Args:
        number: of the rollout. With the seed, the row and the sample's number it decides the noise, so that the same
            policy writes the same responses whichever process or batch a prompt lands in.
    """
    writing = GenerationConfig(
        temperature=config.temperature,
        max_new_tokens=config.max_new_tokens,
        seed=config.seed,
        batch_tokens=config.rollout_batch_tokens,
    )
    prompts = [dataset[row]["input_ids"].tolist() for row in rows]
    stops = stop_tokens(policy, dataset.stop_token_ids)
    generations = generate(policy, prompts, writing, stops, samples, noise_keys=[(number, row) for row in rows])
    return rollout_of(
        dataset,
        rows,
        samples,
        [generation.token_ids for generation in generations],
        [generation.ended for generation in generations],
        [generation.logprobs for generation in generations],
    )


def rollout_of(
    dataset: PromptDataset,
    rows: Sequence[int],
    samples: int,
    ids: Sequence[list[int]],
    ended: Sequence[bool],
    logprobs: Sequence[Sequence[float]],
) -> Rollout:
    """The rollout of these responses: `samples` to each prompt of `rows`, prompt by prompt."""
    answered = [row for row in rows for _ in range(samples)]
    responses = padded([torch.tensor(response) for response in ids])
    return Rollout(
        rows=answered,
        samples=samples,
        attempts=attempts_of(dataset, answered, ids, ended),
        responses=responses,
        mask=real(ids, responses.shape[1]),
        ended=torch.tensor(ended),
        logprobs=padded([torch.tensor(found) for found in logprobs]),
    )


def attempts_of(
    dataset: PromptDataset, rows: Sequence[int], responses: Sequence[list[int]], ended: Sequence[bool]
) -> list[Attempt]:
    """The responses as reward sources see them: text, and ids."""
    asked = {  # once for all responses to a prompt
        row: (dataset.conversation(row), dataset.row(row), dataset[row]["input_ids"].tolist()) for row in set(rows)
    }
    attempts = []
    for row, response_ids, has_ended in zip(rows, responses, ended, strict=True):
        conversation, origin, prompt_ids = asked[row]
        spoken = response_ids[:-1] if has_ended else response_ids
        text = decode_continuation(dataset.tokenizer, prompt_ids, spoken)
        attempts.append(Attempt(conversation, text, has_ended, origin, prompt_ids, list(response_ids)))
    return attempts


def padded(rows: Sequence[torch.Tensor], width: int | None = None) -> torch.Tensor:
    """1-D tensors as rows (N, R) of the longest, or of `width`, with 0 to the right."""
    width = max(map(len, rows)) if width is None else width
    return torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])


def real(responses: Sequence[Sequence[int]], width: int) -> torch.Tensor:
    """(N, R) bool: the real tokens of right-padded responses, by count."""
    lengths = torch.tensor([len(ids) for ids in responses])
    return torch.arange(width) < lengths[:, None]


def join(parts: Sequence[Rollout]) -> Rollout:
    """The rollouts of several processes as one, in their order, padded to the longest response of all."""
    first, width = parts[0], max(part.responses.shape[1] for part in parts)

    def joined(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        if values[0] is None:
            return None
        if values[0].ndim == 2:
            values = [torch.nn.functional.pad(value, (0, width - value.shape[1])) for value in values]
        return torch.cat(values)

    return Rollout(
        rows=[row for part in parts for row in part.rows],
        samples=first.samples,
        attempts=[attempt for part in parts for attempt in part.attempts],
        components={name: torch.cat([part.components[name] for part in parts]) for name in first.components},
        **{name: joined(name) for name in tensors_of(first)},
    )


def take(rollout: Rollout, rows: Sequence[int]) -> Rollout:
    """These responses of it, in this order; those to one prompt must stay together."""
    chosen = list(rows)
    tensors = {
        name: value[chosen] if value is not None and len(value) else value  # scores are empty before there are any
        for name, value in tensors_of(rollout).items()
    }
    return Rollout(
        rows=[rollout.rows[row] for row in chosen],
        samples=rollout.samples,
        attempts=[rollout.attempts[row] for row in chosen],
        components={name: component[chosen] for name, component in rollout.components.items()},
        **tensors,
    )


def tensors_of(rollout: Rollout) -> dict[str, Any]:
    """Every field that holds one row for each response, or None."""
    others = ("rows", "samples", "attempts", "components")
    return {field.name: getattr(rollout, field.name) for field in fields(Rollout) if field.name not in others}


def save_rollout(rollout: Rollout, folder: Path) -> None:
    """What a run that stops in the middle of a rollout needs to go on with it; texts are made again from ids."""
    tensors = {name: value for name, value in tensors_of(rollout).items() if value is not None}
    tensors |= {COMPONENT + name: component for name, component in rollout.components.items()}
    tensors |= {"rows": torch.tensor(rollout.rows), "samples": torch.tensor(rollout.samples)}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ROLLOUT_FILE)


def load_rollout(folder: Path, dataset: PromptDataset) -> Rollout | None:
    """The rollout that a checkpoint holds; None where it was saved between two rollouts."""
    path = folder / ROLLOUT_FILE
    if not path.is_file():
        return None
    tensors: dict[str, Any] = load_file(path)
    rows, samples = tensors.pop("rows").tolist(), int(tensors.pop("samples"))
    components = {name.removeprefix(COMPONENT): tensors.pop(name) for name in list(tensors) if COMPONENT in name}
    ids = [response[real].tolist() for response, real in zip(tensors["responses"], tensors["mask"], strict=True)]
    attempts = attempts_of(dataset, rows, ids, tensors["ended"].tolist())
    return Rollout(rows=rows, samples=samples, attempts=attempts, components=components, **tensors)
