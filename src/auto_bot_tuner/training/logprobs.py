r"""From hidden states to log-probabilities: the one place, and the one that decides speed and memory.

The plain way computes logits for every position, (B, T, V) floats. For 8 rows of 512 tokens and GPT-2's 50,257 words
that is 0.8 GB, three times over (logits, softmax, gradient), and most of them belong to prompt and padding, which
nobody trains. Three ideas remove this, and `sft/loss.py`'s formula stays equal to 1e-6 (tested):

1. *Logits only where a token is trained*: choose the hidden states first, multiply by the head afterwards.
2. *Loss by chunks, gradient in the same sweep*: the gradient of a sum of negative log-likelihoods is known in closed
   form, softmax minus one-hot, so each chunk's logits are used for both and thrown away.
3. *No padding* in the trunk either, where that pays, and a shared prompt computed once: `flat.py`.

Where a loss is a sum of log-probabilities (SFT), `CausalNLL` has its gradient at once. Where it is any other function
of them (DPO, PPO), `SequenceLogprobs` hands the log-probabilities out and learns later how much each one counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import nn

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.training import sharding
from auto_bot_tuner.training.flat import hidden_states_at, make_flat
from auto_bot_tuner.training.head import causal_model, head_is_plain, output_head
from auto_bot_tuner.utils.quiet import quiet_libraries

# Tokens whose logits exist at one time. Each chunk also reads and writes the head's whole gradient, (V, H), so it must
# hold enough tokens to be worth that; beyond, more tokens only cost memory. Measured with 16k and 50k words.
CHUNK_TOKENS_CPU = 512
CHUNK_TOKENS_GPU = 2048

Entropy = Literal["none", "measured", "trained"]


def gather_logprobs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """log pi(target) in float32, whatever the logits' type: (…, V), (…) -> (…)."""
    logits = logits.float()
    return logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(dim=-1)


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The type in which autocast multiplies this tensor: its own outside of autocast."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tensor.dtype


class SummedNLL(torch.autograd.Function):
    r"""$\sum_t -\log \text{softmax}(W h_t)_{y_t}$ with its gradient, a chunk of tokens at a time.

    With $p = \text{softmax}(W h_t)$ and $e_y$ the one-hot vector of the target:
    $\partial / \partial h_t = W^\top (p - e_y)$ and $\partial / \partial W = (p - e_y)\, h_t^\top$.
    Both are ready before `backward` is called; the upstream gradient of a scalar only scales them.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, with_gradient: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """hidden (N, H), weight (V, H), targets (N,) -> the sum of NLL, and how many targets ranked first."""
        hidden_gradient = torch.empty_like(hidden) if with_gradient else None
        # Accumulated in float32: rounding each chunk's share to bfloat16 would bias long runs.
        weight_gradient = (
            torch.zeros_like(weight, dtype=torch.float32) if with_gradient and weight.requires_grad else None
        )
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        correct = torch.zeros((), dtype=torch.long, device=hidden.device)
        for chunk, h, head, logprobs in chunks_of_logprobs(hidden, weight, len(targets)):
            y = targets[chunk].unsqueeze(-1)  # (C, 1)
            target_logprobs = logprobs.gather(-1, y)  # (C, 1)
            total -= target_logprobs.sum()
            # Ranked first: nothing is more probable. (An argmax would say the same, several times slower on a CPU.)
            correct += (target_logprobs >= logprobs.amax(dim=-1, keepdim=True)).sum()
            if hidden_gradient is None:
                continue
            error = softmax_minus_one_hot(logprobs, y).to(head.dtype)
            hidden_gradient[chunk] = error @ head
            if weight_gradient is not None:
                weight_gradient += error.t() @ h
        ctx.gradients = hidden_gradient, weight_gradient
        ctx.mark_non_differentiable(correct)
        return total, correct

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        # In place: the head's gradient is the largest tensor of a step, and a second copy of it would double that.
        hidden_gradient, weight_gradient = ctx.gradients
        scaled_weight_gradient = None if weight_gradient is None else weight_gradient.mul_(upstream)
        return hidden_gradient.mul_(upstream), scaled_weight_gradient, None, None


class TokenLogprobs(torch.autograd.Function):
    r"""$\log \text{softmax}(W h_t)_{y_t}$ of each token, a chunk at a time, for losses that are any function of them.

    How much each token counts, $g_t = \partial L / \partial \log p_t$, is known only when the loss is. For the hidden
    states that is no obstacle: $\partial L / \partial h_t = -g_t\, W^\top (p - e_y)$ is each token's own, computed now
    and scaled later. The head's gradient $-\sum_t g_t (p - e_y)\, h_t^\top$ mixes the tokens, so its logits are
    computed a second time; with a frozen head (LoRA) they are not.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        with_gradient: bool,
        entropy: Entropy = "none",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden (N, H), weight (V, H), targets (N,) -> log-probabilities and entropies (N,) in float32.

        `entropy`: none (they are not computed), measured, or trained (they have a gradient too).
        """
        logprobs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        entropies = None if entropy == "none" else torch.empty_like(logprobs)
        slopes = torch.empty_like(hidden) if with_gradient else None  # W^T (p - e_y) of each token
        entropy_slopes = torch.empty_like(hidden) if with_gradient and entropy == "trained" else None
        for chunk, _, head, all_logprobs in chunks_of_logprobs(hidden, weight, len(targets)):
            y = targets[chunk].unsqueeze(-1)  # (C, 1)
            logprobs[chunk] = all_logprobs.gather(-1, y).squeeze(-1)
            if entropies is not None:
                entropies[chunk] = entropy_of(all_logprobs)
            if entropy_slopes is not None:
                entropy_slopes[chunk] = entropy_gradient(all_logprobs).to(head.dtype) @ head
            if slopes is not None:
                slopes[chunk] = softmax_minus_one_hot(all_logprobs, y).to(head.dtype) @ head
        ctx.dtype = autocast_dtype(hidden)
        ctx.save_for_backward(hidden, weight, targets, slopes, entropy_slopes)
        if entropies is not None and entropy_slopes is None:
            ctx.mark_non_differentiable(entropies)
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor, entropy_upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, targets, slopes, entropy_slopes = ctx.saved_tensors
        hidden_gradient = slopes * -upstream.unsqueeze(-1)
        if entropy_slopes is not None:
            hidden_gradient += entropy_slopes * entropy_upstream.unsqueeze(-1)
        weight_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = torch.zeros_like(weight, dtype=torch.float32)  # summed in float32, as above
            in_type = hidden.to(ctx.dtype), weight.to(ctx.dtype)
            for chunk, h, head, all_logprobs in chunks_of_logprobs(*in_type, len(targets)):
                error = torch.zeros_like(all_logprobs)  # (C, V)
                if entropy_slopes is not None:
                    error += entropy_gradient(all_logprobs).mul_(entropy_upstream[chunk].unsqueeze(-1))
                one_hot_error = softmax_minus_one_hot(all_logprobs, targets[chunk].unsqueeze(-1))  # (C, V)
                error -= one_hot_error.mul_(upstream[chunk].unsqueeze(-1))
                weight_gradient += error.to(head.dtype).t() @ h
        return hidden_gradient, weight_gradient, None, None, None


def entropy_of(logprobs: torch.Tensor) -> torch.Tensor:
    r"""$H = -\sum_v p_v \log p_v$ in nats: (C, V) -> (C,)."""
    return -(logprobs.exp() * logprobs).sum(dim=-1)


def entropy_gradient(logprobs: torch.Tensor) -> torch.Tensor:
    r"""$\partial H / \partial z_v = -p_v (\log p_v + H)$ for logits z: (C, V) -> (C, V)."""
    return -logprobs.exp() * (logprobs + entropy_of(logprobs).unsqueeze(-1))


def chunks_of_logprobs(
    hidden: torch.Tensor, weight: torch.Tensor, tokens: int
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Of each chunk of tokens: its place, hidden states (C, H), the head (V, H), and log-softmax of its logits (C, V).

    Hidden states and head are cast to autocast's type here, once: left to itself it would cast the whole head again for
    every chunk.
    """
    chunk_size = CHUNK_TOKENS_GPU if hidden.is_cuda else CHUNK_TOKENS_CPU
    dtype = autocast_dtype(hidden)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    for start in range(0, tokens, chunk_size):
        h = hidden[start : start + chunk_size]
        logprobs = torch.log_softmax(h @ weight.t(), dim=-1, dtype=torch.float32)
        yield slice(start, start + chunk_size), h, weight, logprobs


def softmax_minus_one_hot(logprobs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """p - e_y in place of the log-probabilities (C, V), which nobody needs any more; targets (C, 1)."""
    minus_one = torch.full(targets.shape, -1.0, dtype=logprobs.dtype, device=logprobs.device)
    return logprobs.exp_().scatter_add_(-1, targets, minus_one)


class TrainedTokens(nn.Module):
    """A causal language model as the loop wants it: what its trained tokens are worth.

    A module of its own because Accelerate's wrappers (DDP, FSDP, autocast) act on `forward`: what happens
    outside of it would not be synchronised between processes.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        # Made-up tokens may look like padding, which transformers warns of.
        with quiet_libraries(), sharding.gathered(model):
            self.is_flat = make_flat(causal_model(model), output_head(model).weight.shape[0])
            self.head_is_plain = head_is_plain(model)

    def hidden_or_logits(
        self, input_ids: torch.Tensor, trained: torch.Tensor, lengths: torch.Tensor, shared: torch.Tensor | None
    ) -> torch.Tensor:
        """At the N positions where `trained` (B, T): hidden states (N, H), or logits (N, V) of a head not plain."""
        if not self.head_is_plain:
            logits: torch.Tensor = self.model(input_ids=input_ids, use_cache=False).logits[trained]
            return logits
        return hidden_states_at(causal_model(self.model), self.is_flat, input_ids, lengths, trained, shared)


class CausalNLL(TrainedTokens):
    """Token ids and labels in, summed negative log-likelihood out."""

    @sharding.through_root
    def forward(
        self, input_ids: torch.Tensor, labels: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded input_ids and labels (B, T), lengths (B,) -> sum of NLL of the trained tokens, and hits.

        Hits are the trained tokens that the model ranks first.
        """
        trained, targets = predicted(labels)  # (B, T), (N,)
        states = self.hidden_or_logits(input_ids, trained, lengths, None)
        if not self.head_is_plain:
            return -gather_logprobs(states, targets).sum(), (states.argmax(dim=-1) == targets).sum()
        return cast(
            tuple[torch.Tensor, torch.Tensor],
            SummedNLL.apply(states, output_head(self.model).weight, targets, torch.is_grad_enabled()),
        )


class SequenceLogprobs(TrainedTokens):
    """Token ids and labels in, the log-probability of each trained token out, where it stands.

    `temperature` T: of the distribution softmax(logits / T), as a policy is sampled.
    """

    def __init__(self, model: nn.Module, temperature: float = 1.0) -> None:
        super().__init__(model)
        self.temperature = temperature

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor,
        shared: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Right-padded input_ids and labels (S, T), lengths (S,) -> log pi(token t | tokens before it) (S, T), float32.

        0 where a label is -100, so that a sum over t is the log-probability of a response. `shared` (S,): see
        `flat.hidden_states_at`.
        """
        return self.with_entropies(input_ids, labels, lengths, shared, "none")[0]

    @sharding.through_root
    def with_entropies(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        lengths: torch.Tensor,
        shared: torch.Tensor | None,
        entropy: Entropy,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`forward`, and the entropy of each trained token's distribution (S, T); zeros where `entropy` is none."""
        trained, targets = predicted(labels)  # (S, T), (N,)
        states = self.hidden_or_logits(input_ids, trained, lengths, shared)
        if self.temperature != 1:
            # (W h) / T = W (h / T): dividing the smaller of the two is enough, and the gradient follows by itself.
            states = states / self.temperature
        entropies: torch.Tensor | None = None
        if self.head_is_plain:
            logprobs, entropies = TokenLogprobs.apply(
                states, output_head(self.model).weight, targets, torch.is_grad_enabled(), entropy
            )
        else:
            logprobs = gather_logprobs(states, targets)
            if entropy != "none":
                entropies = entropy_of(states.float().log_softmax(dim=-1))
                entropies = entropies if entropy == "trained" else entropies.detach()
        found = [logprobs, torch.zeros_like(logprobs) if entropies is None else entropies]
        at_tokens, entropies_at_tokens = (where_they_stand(values, trained) for values in found)
        return at_tokens, entropies_at_tokens


def where_they_stand(values: torch.Tensor, predictors: torch.Tensor) -> torch.Tensor:
    """Values (N,) of the trained tokens, from where a token is predicted (S, T) to where it stands, one to the right.

    0 elsewhere: (S, T).
    """
    at_predictors = torch.zeros(predictors.shape, device=values.device).masked_scatter(predictors, values)
    return F.pad(at_predictors[:, :-1], (1, 0))


def predicted(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The positions (B, T) that predict a trained token, and these tokens (N,), row after row.

    The token at t + 1 is predicted from position t: labels are shifted to where they are predicted.
    """
    labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX)  # (B, T)
    trained = labels != IGNORE_INDEX
    return trained, labels[trained]
