"""What the benchmark's page says around its tables: what each figure means and how it was measured."""

from __future__ import annotations

EXPLANATION = """Speed: how many times less time ours takes for the same work; median of paired rounds
(smallest–largest). The clock is CPU time of all threads on a CPU, since on a busy machine wall time measures the
neighbours (cpu.json has both), and synchronised wall time on a GPU. *Useful* tokens are those of the sequences, padding
left out. Memory is the highest above the loaded, idle process: gradients, optimiser state and activations. The ceiling
is the speed of one large square matrix product in the same number type, measured in the same interleaving (1024 wide on
a CPU, 8192 on a GPU); the share counts only the arithmetic that the rows need: no padding, nothing twice, logits at
trained positions.

Both sides train the same model (a Llama of 17 M weights: 6 layers of 384, 16384 words) on the same rows in the same
steps, 8 rows or pairs each, and log at every step. "Out of the box": TRL's settings, gradient checkpointing off, which
is kinder to it than its default. "At its best": rows grouped by length, the fastest micro-batches, malloc told to keep
its memory. Ours: its defaults in every line. Largest difference: of the losses of all steps (GRPO: of loss and gradient
norm where both train on the same given responses, else each writes its own; generation: greedy texts that differ;
preparing: rows that differ). More than {fp32:.0e} (bf16: {bf16:.0e}; TRL differs from itself by 1e-04 there when it
cuts its batch otherwise; texts and rows: none) makes a line void."""
BREAKDOWN_WORDS = (
    "Self time of one step's operations, by PyTorch's profiler. The model's sizes: forward, input gradient and weight "
    "gradient of every weight matrix for 512 tokens (GPU: 8192), and nothing else."
)
ROLLOUT_WORDS = (
    "Writing responses, scoring them (PPO: reward model, reference, value network) and training on them. Few rows: "
    "every weight matrix times as many rows as responses are written side by side, which is what writing a token is. "
    "TRL has no PPO any more: its floors stand in the table instead. Models: what several share counts once."
)
NO_GPU = "A GPU: not run, this machine has none. Where there is one, the same command measures it and writes cuda.md."
GPU = "This machine's GPU was measured too: cuda.md."
ON_GPU = "bf16, PyTorch's attention; torch.compile only where a line says so. No targets: they were set on a CPU."
