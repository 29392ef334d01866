r"""How far has a policy moved from its reference? The KL divergence of what it writes, in nats a response.

    $$ KL(\pi \,\|\, \pi_{ref}) = E_{y \sim \pi} [\log \pi(y \mid x) - \log \pi_{ref}(y \mid x)] $$

The policy writes, both models read it (the estimator k1 of Schulman's note "Approximating KL divergence"). A mean over
samples: single responses may well be negative. Four nats: the policy finds its own words e^4, some 55 times likelier
than its reference does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.data.chat_template import Conversation
from auto_bot_tuner.data.prompt_format import PromptFormat
from auto_bot_tuner.evaluation.generation import Response
from auto_bot_tuner.training.batching import collate, in_order
from auto_bot_tuner.training.logprobs import SequenceLogprobs

BATCH = 32


@torch.no_grad()
def mean_kl(
    reference: Any, tokenizer: Any, conversations: Sequence[Conversation], responses: Sequence[Response]
) -> float:
    """Mean of log pi(y) - log pi_ref(y) over responses, in nats.

    The responses must have been sampled at temperature 1 without other processors: then the log-probabilities that
    came with them are the policy's own.
    """
    prompts = PromptFormat.from_tokenizer(tokenizer).encode_prompts(list(conversations))
    rows = [
        {
            "input_ids": torch.tensor([*prompt, *response.token_ids]),
            "labels": torch.tensor([IGNORE_INDEX] * len(prompt) + response.token_ids),
        }
        for prompt, response in zip(prompts, responses, strict=True)
    ]
    module = SequenceLogprobs(reference).eval()
    device = next(reference.parameters()).device
    of_reference = 0.0
    for cut in in_order([len(row["input_ids"]) for row in rows], BATCH, processes=1, rank=0):
        batch = collate(rows, cut).to(device)
        of_reference += float(module(batch["input_ids"], batch["labels"], batch["lengths"]).sum())
    return (sum(sum(response.logprobs) for response in responses) - of_reference) / len(rows)
