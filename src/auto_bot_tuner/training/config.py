"""Every setting that the methods share: its name, default, range and meaning, in one place.

These dataclasses are the single home of a setting. The YAML file, the command line and the menu are
layers over them (`utils/run_config.py`); the comment above a field is the help text of its flag. Imports
no torch: `--help` and a wrong argument must answer at once.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, ClassVar, Literal

import tyro
from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic.dataclasses import dataclass

# Unknown keys are errors: a misspelt setting that is silently ignored costs a training run.
STRICT = ConfigDict(extra="forbid", validate_assignment=True)

PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Folder = Annotated[str, Field(min_length=1)]  # an unset "$OUT" would mean the working directory


@dataclass(config=STRICT, kw_only=True)
class ModelConfig:
    """Which model is trained, and which of its weights."""

    # Hub id, local folder, LoRA checkpoint folder, or a bundled name such as tiny.
    name: Annotated[str, tyro.conf.arg(name="model")] = "gpt2"
    # Train low-rank adapters (LoRA) on a frozen base instead of every weight.
    use_lora: Annotated[bool, tyro.conf.arg(name="lora")] = True
    # Rank of the adapters: how many directions each adapted matrix may move in (4 to 64).
    lora_r: PositiveInt = 16
    # Adapter strength: the update is scaled by lora_alpha / lora_r (one to two times lora_r).
    lora_alpha: PositiveFloat = 32
    # Dropout inside the adapters (0.05 to 0.1 against memorising); 0 keeps batch identities exact.
    lora_dropout: Fraction = 0.0
    # Modules that get adapters. Empty: c_attn and c_proj for GPT-2, all linear layers elsewhere.
    lora_targets: tuple[str, ...] = ()
    # Load the frozen base in 4 bits (QLoRA): needs a GPU, bitsandbytes and LoRA.
    load_in_4bit: bool = False
    # Type of FROZEN weights. Trained weights are always float32: small steps vanish in bfloat16.
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    # Where to compute: auto, cpu, cuda or mps.
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    # File with a Jinja chat template, or the word builtin. Empty: the model's own, else the built-in one.
    chat_template: str = ""
    # Let the model's repository run its own Python code on this machine.
    trust_remote_code: bool = False


@dataclass(config=STRICT, kw_only=True)
class DatasetConfig:
    """Which rows are trained on, and how they become tokens."""

    # Hub name, local .jsonl/.json/.csv/.parquet, a folder saved by `datasets`, or a bundled name.
    name: Annotated[str, tyro.conf.arg(name="dataset")] = ""
    # Several data sets with their weights, instead of one name: {a.jsonl: 0.7, tiny-instructions: 0.3}.
    mix: dict[str, PositiveFloat] = field(default_factory=dict)
    # Configuration (subset) of a hub data set, where it has several.
    subset: str = ""
    # Split to train on.
    split: str = "train"
    # Use at most this many rows, drawn after a seeded shuffle. 0: all.
    max_samples: NonNegativeInt = 0
    # Longest row in tokens; longer ones are cut as docs/sft.md says, and counted. PPO and GRPO read prompts alone:
    # there it is the longest prompt, and a longer one is left out, as a cut question asks something else.
    max_length: Annotated[int, Field(ge=8)] = 512
    # Longest prompt in tokens, for preferences: a longer one loses its oldest turns, then its start. 0: max_length
    # alone decides.
    max_prompt_length: NonNegativeInt = 0
    # Row format: auto, alpaca, chat (messages or conversations), prompt_completion or text.
    format_type: Literal["auto", "alpaca", "chat", "prompt_completion", "text"] = "auto"
    # System message put before rows that have none.
    system_prompt: Annotated[str, tyro.conf.arg(name="system")] = ""
    # Train on the prompt's tokens as well. Off: only assistant turns are trained.
    train_on_prompt: bool = False
    # Data set to evaluate on. Empty: `eval_split` of the same source, else a held-out part of it.
    eval_name: Annotated[str, tyro.conf.arg(name="eval-dataset")] = ""
    # Split to evaluate on. Empty: validation or test where the source has one.
    eval_split: str = ""
    # Share of rows held out where the source has no evaluation split (0.01 to 0.1). 0: no evaluation.
    eval_fraction: Fraction = 0.05
    # Evaluate on at most this many rows. 0: all.
    eval_max_samples: NonNegativeInt = 500


@dataclass(config=STRICT, kw_only=True)
class TrainingConfig:
    """What the loop of `training/loop.py` reads. Each method's config adds its own settings."""

    # Learning rate where none is given: adapters start at zero and are few, so they bear ten times more.
    FULL_LEARNING_RATE: ClassVar[float] = 2e-5
    LORA_LEARNING_RATE: ClassVar[float] = 2e-4

    # ---- The run and its folder ----

    # Folder of the run: checkpoints, metrics.jsonl, samples.jsonl, final/.
    output_dir: Folder = "checkpoints/run"
    # Start anew in a folder that already holds a run; what was there is deleted.
    overwrite: bool = False
    # Go on from the newest checkpoint in output_dir.
    resume: bool = False
    # Seed of data order, dropout and sampling.
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 42

    # ---- Steps and batches ----

    # Passes over the data (1 to 3; more learn the rows by heart).
    num_epochs: Annotated[PositiveFloat, tyro.conf.arg(name="epochs")] = 1.0
    # At most this many optimiser steps. 0: as many as the epochs have.
    max_steps: NonNegativeInt = 0
    # Rows per process in one accumulation step.
    batch_size: PositiveInt = 4
    # Rows of one optimiser step = batch_size x this x processes (8 to 64 rows in all; more for long runs).
    gradient_accumulation_steps: Annotated[PositiveInt, tyro.conf.arg(name="grad-accum")] = 4
    # Padded tokens of one forward pass; the rows of a step are sorted by length and cut by it, which
    # changes speed and memory but not the gradient. 0: 2048 on CPU, batch_size x the longest row elsewhere.
    micro_batch_tokens: NonNegativeInt = 0

    # ---- Optimiser ----

    # Peak learning rate. Empty: 2e-5 for full fine-tuning, 2e-4 for LoRA; try 1e-5 to 5e-5, with LoRA 1e-4 to 5e-4.
    learning_rate: PositiveFloat | None = None
    # Shape of the learning rate after warm-up.
    lr_schedule: Literal["cosine", "linear", "constant"] = "cosine"
    # Steps of linear warm-up; a number below 1 is a fraction of all steps (0 to 0.1).
    warmup: NonNegativeFloat = 0.03
    # AdamW's pull of matrices towards zero (0 to 0.1); norms and biases are left alone.
    weight_decay: NonNegativeFloat = 0.0
    # AdamW's averaging of the gradient: 0.9 looks back over about 10 steps.
    adam_beta1: Fraction = 0.9
    # AdamW's averaging of the squared gradient: 0.999 over about 1000 steps (0.95 to 0.999).
    adam_beta2: Fraction = 0.999
    # Added to AdamW's denominator: larger ones slow weights down whose gradients are tiny (1e-8 to 1e-5).
    adam_epsilon: PositiveFloat = 1e-8
    # Clip the gradient's norm to this (0.3 to 1). 0: never.
    max_grad_norm: NonNegativeFloat = 1.0
    # Dropout of the model while training (0 to 0.1); 0 keeps accumulated and whole batches equal.
    dropout: Fraction = 0.0

    # ---- Precision, memory and speed ----

    # Arithmetic of the forward pass by autocast; weights stay float32. auto: bf16 where the GPU has it.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    # Recompute activations in the backward pass: less memory, about a third more time.
    gradient_checkpointing: bool = False
    # Compile the model with torch.compile: pays on GPUs over long runs.
    compile: bool = False

    # ---- Log, evaluation, samples and checkpoints ----

    # Log every this many steps.
    logging_steps: PositiveInt = 10
    # Evaluate every this many steps. 0: at the start and the end of the run only.
    eval_steps: NonNegativeInt = 0
    # Rows of one evaluation batch.
    eval_batch_size: PositiveInt = 8
    # Save a checkpoint every this many steps. 0: only on interruption.
    save_steps: NonNegativeInt = 500
    # Keep this many newest checkpoints (and the best, where it is tracked). 0: keep all.
    save_total_limit: NonNegativeInt = 2
    # Put the weights with the lowest evaluation loss (PPO, GRPO: the highest reward) into final/, not the last ones.
    keep_best: bool = False
    # Stop after this many evaluations without a new best (2 to 5). 0: never.
    early_stopping_patience: NonNegativeInt = 0
    # Prompts whose answers are written to samples.jsonl at each evaluation. Empty: from the eval rows.
    sample_prompts: tuple[str, ...] = ()
    # How many evaluation rows serve as sample prompts where none are given. 0: no samples, and no tokens in the report.
    num_samples: NonNegativeInt = 3
    # Longest sample, in new tokens.
    sample_max_new_tokens: PositiveInt = 64
    # Where the curves go besides metrics.jsonl; html: report.html in the folder of the run, when it ends.
    report_to: tuple[Literal["tensorboard", "html", "wandb", "trackio"], ...] = ("tensorboard", "html")
