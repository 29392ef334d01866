r"""The question that the loss answers: *how surprised is the model by the answer it should have given?*

    $$ L = -\frac{1}{N} \sum_{t \in \text{trained}} \log \pi_\theta(y_t \mid y_{<t}) $$

The negative log-likelihood (cross-entropy) of Radford et al. 2018 ("Improving Language Understanding by
Generative Pre-Training", eq. 1), restricted to the assistant's tokens as in Ouyang et al. 2022 (2203.02155, §3.5).

| symbol        | variable       | meaning                                                        |
|---------------|----------------|----------------------------------------------------------------|
| $y_t$         | `labels[:, t]` | the token at position t; -100 where it is not trained (prompt) |
| $\pi_\theta$  | `logits`       | after softmax: the model's distribution over the next token    |
| $N$           | `num_tokens`   | trained tokens in the batch                                    |

The gradient with respect to a logit is *softmax minus one-hot*: probability taken from every token and given
to the right one, in proportion to how wrong the model was. It stops by itself where the model is sure and right.

Limiting case (tested): a model that knows nothing gives every token 1/V, so L = ln V: 10.82 for GPT-2. A first
loss far above ln V means that model and tokenizer do not belong together.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from auto_bot_tuner.data import IGNORE_INDEX


def sft_loss(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean negative log-likelihood of the trained tokens.

    Args:
        logits: (B, T, V), straight from the model.
        labels: (B, T), the input ids with -100 where a token is not trained. *Not* shifted: that happens here.

    Returns:
        The loss (a scalar with a gradient, in nats per token), and `loss`, `perplexity` (e^loss: the number of
        equally likely tokens that would puzzle as much), `accuracy` (share of trained tokens that the model
        ranks first) and `num_tokens`.

    Raises:
        ValueError: no token is trained; the mean over nothing has no value.
    """
    # The logit at position t predicts token t + 1: drop the last logit, which predicts nothing we know, and the
    # first label, which nothing predicts. Forget this shift and the model learns to copy its input.
    logits = logits[:, :-1].float()  # (B, T-1, V); float32: a bfloat16 log-softmax loses the small probabilities
    labels = labels[:, 1:]  # (B, T-1)
    trained = labels != IGNORE_INDEX
    num_tokens = int(trained.sum())
    if num_tokens == 0:
        raise ValueError("no trained token: every label is -100, so there is nothing to learn from this batch")

    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX)
    correct = (logits.argmax(dim=-1) == labels) & trained
    metrics = {
        "loss": loss.item(),
        "perplexity": perplexity(loss.item()),
        "accuracy": correct.sum().item() / num_tokens,
        "num_tokens": num_tokens,
    }
    return loss, metrics


def perplexity(loss: float) -> float:
    """e^loss, and infinity where that is more than a float can hold.

    >>> round(perplexity(math.log(50257)))
    50257
    """
    return math.exp(loss) if loss < 700 else math.inf
