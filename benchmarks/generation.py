"""The generation engine beside `transformers.generate`: useful tokens per second, in alternating runs.

    python -m benchmarks.generation [--rounds 3]

A 16M-parameter Llama with random weights and a 16k vocabulary, one thread. Two workloads: 4 prompts with 8 samples each
(a GRPO rollout) and 32 distinct prompts. Both sides sample at temperature 1 until a stop token or 64 new tokens; about
1 token in 80 is a stop token, so that lengths differ as they do in real rollouts. *Useful* tokens are those up to and
with the first stop token. CPU time is compared, since a busy machine steals wall time unevenly; the first round warms
up. Targets: 1.6 and 1.0.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from auto_bot_tuner.evaluation.config import GenerationConfig
from auto_bot_tuner.evaluation.engine import generate

VOCABULARY = 16_384
STOPS = list(range(VOCABULARY - 200, VOCABULARY))  # a random model writes one every 80 tokens
NEW_TOKENS = 64


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=320,
        intermediate_size=864,
        num_hidden_layers=5,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=1024,
    )
    return LlamaForCausalLM(config).eval()


def prompts(count: int, shortest: int, longest: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY - 200, (n,), generator=generator).tolist() for n in lengths]


def ours(network: LlamaForCausalLM, rows: list[list[int]], samples: int, seed: int) -> int:
    config = GenerationConfig(temperature=1.0, max_new_tokens=NEW_TOKENS, seed=seed)
    return sum(len(generation.token_ids) for generation in generate(network, rows, config, STOPS, samples))


def theirs(network: LlamaForCausalLM, rows: list[list[int]], samples: int, seed: int) -> int:
    torch.manual_seed(seed)
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    output = network.generate(
        ids,
        attention_mask=mask,
        do_sample=True,
        top_k=0,
        num_return_sequences=samples,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=STOPS,
        pad_token_id=0,
    )
    is_stop = torch.isin(output[:, width:], torch.tensor(STOPS))
    return int((is_stop.cumsum(dim=-1) - is_stop.long() == 0).sum())  # up to and with the first stop token


def measure(side: Callable[..., int], *arguments: object) -> float:
    """Useful tokens per second of CPU time."""
    start = time.process_time()
    return side(*arguments) / (time.process_time() - start)


def compare(network: LlamaForCausalLM, rows: list[list[int]], samples: int, rounds: int) -> dict[str, float]:
    pairs = []
    for seed in range(rounds + 1):
        speeds = {}
        for side in (ours, theirs) if seed % 2 else (theirs, ours):
            speeds[side] = measure(side, network, rows, samples, seed)
        pairs.append((speeds[ours], speeds[theirs]))
    pairs = pairs[1:]
    ratios = [a / b for a, b in pairs]
    return {
        "ours": statistics.median(a for a, _ in pairs),
        "transformers": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    network = model()
    workloads = {"4 prompts x 8 samples": (prompts(4, 160, 256), 8), "32 distinct prompts": (prompts(32, 32, 128), 1)}
    for name, (rows, samples) in workloads.items():
        print(
            json.dumps({"work": name, **{k: round(v, 2) for k, v in compare(network, rows, samples, rounds).items()}})
        )


if __name__ == "__main__":
    main()
