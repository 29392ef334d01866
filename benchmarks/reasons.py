"""Why a target may not be reached: texts whose holes are filled with the figures of the run that missed it.

`{f[sft.products]:.0%}` is the figure "products" of the line "sft"; NAME stands for the line that the reason is given
for. So a reason cannot outlive the figures that it rests on.
"""

from __future__ import annotations

SPLIT = (
    "matrix products take {f[NAME.products]:.0%} of a step's time, attention {f[NAME.attention]:.0%}, softmax and "
    "loss {f[NAME.softmax]:.0%}, AdamW {f[NAME.optimiser]:.0%}, element-wise work and copies {f[NAME.rest]:.0%}"
)
FP32_CEILING = (
    f"In the profiled step {SPLIT.replace('NAME', 'sft')}: what is not a product is what is missing. At the model's "
    "own sizes the products run at {f[sft.model GFLOP/s]:.0f} GFLOP/s, the square one at "
    "{f[sft.square GFLOP/s]:.0f}. The share is a balance between the speed of products and that of memory: with "
    "products held to AVX2 ({f[sft-slow-products.square GFLOP/s]:.0f} GFLOP/s) and all else unchanged, the same code "
    "reaches {f[sft-slow-products.ceiling]:.0%}."
)
BF16_CEILING = (
    "The matrix units make the square product {f[sft-bf16.square GFLOP/s]:.0f} GFLOP/s; products at the model's own "
    "sizes reach {f[sft-bf16.model GFLOP/s]:.0f}, and {f[sft-bf16.new sizes GFLOP/s]:.0f} for a number of tokens that "
    "never came before, as each batch has its own: the library then makes a new kernel. Much else is not faster in "
    f"bfloat16: {SPLIT}. "
    "The step does {f[sft-bf16.ceiling GFLOP/s]:.0f} useful GFLOP/s, in float32 {f[sft.ceiling GFLOP/s]:.0f}; TRL "
    "reaches {f[sft-bf16.peer ceiling]:.0%} of the same ceiling."
)
PACKING_MEMORY = (
    "{f[NAME.memory MB]:.0f} MB against {f[NAME.peer memory MB]:.0f}. {f[NAME.state MB]:.0f} MB on both sides are "
    "gradients and AdamW's two moments in float32, which no trainer of all weights can do without; beyond them ours "
    "holds {f[NAME.memory beyond state]:.2f} of TRL's."
)
COMPLETION = (
    "The rounds lie between {f[NAME.speed low]:.2f} and {f[NAME.speed high]:.2f}. Both sides read prompts, and "
    "without their logits the trunk is what remains: ours uses {f[NAME.ceiling]:.0%} of the ceiling, TRL "
    f"{{f[NAME.peer ceiling]:.0%}}; {SPLIT}."
)
GRPO_SPEED = (
    "Writing takes {f[NAME.writing]:.0%} of our step and is {f[NAME.writing speed]:.2f} times as fast as TRL's, the "
    "rest {f[NAME.rest speed]:.2f} times. Writing multiplies each matrix by at most 16 rows, which this machine does "
    "at {f[NAME.few rows GFLOP/s]:.0f} GFLOP/s, not {f[NAME.square GFLOP/s]:.0f}: both sides meet that wall, and ours "
    "does {f[NAME.writing GFLOP/s]:.0f} useful ones."
)
SPEED = (
    "The rounds lie between {f[NAME.speed low]:.2f} and {f[NAME.speed high]:.2f}. Ours uses {f[NAME.ceiling]:.0%} of "
    f"the matmul ceiling, TRL {{f[NAME.peer ceiling]:.0%}}; {SPLIT}."
)
MEMORY = (
    "{f[NAME.memory MB]:.0f} MB against {f[NAME.peer memory MB]:.0f}; {f[NAME.state MB]:.0f} MB of each are gradients "
    "and AdamW's moments."
)
LORA_MEMORY = "{f[NAME.memory MB]:.0f} MB against {f[NAME.peer memory MB]:.0f}."
ROUNDS = "The rounds lie between {f[NAME.speed low]:.2f} and {f[NAME.speed high]:.2f}."
PREPARING = (
    "The rounds lie between {f[NAME.speed low]:.2f} and {f[NAME.speed high]:.2f}. The tokenizer alone, on the same "
    "texts in one batch, takes {f[NAME.encoding]:.0%} of our time: that part both sides must do."
)
PPO_PART = (
    "A floor of our own: TRL has no PPO any more. Of a step's time writing takes {f[NAME.writing]:.0%}, scoring "
    "{f[NAME.scoring]:.0%}, training {f[NAME.training]:.0%}; products of as many rows as responses are written run "
    "at {f[NAME.few rows GFLOP/s]:.0f} GFLOP/s, those of training at {f[NAME.model GFLOP/s]:.0f}, the square product "
    "at {f[NAME.square GFLOP/s]:.0f}."
)
STARTUP = (
    "The slowest --help takes {f[NAME.start-up CPU s]:.2f} s of CPU time and {f[NAME.start-up wall s]:.2f} s in all."
)
