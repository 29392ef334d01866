"""What must be saved so that a resumed run gives the bits of an uninterrupted one.

    weights       the model or its adapter, as a Hugging Face folder (safetensors), with the tokenizer
    optimizer     AdamW's two averages per weight, by the weight's name (optimizer.safetensors)
    randomness    the generator of every process (rng-R.safetensors): dropout and noise go on where they were
    state         step, best evaluation, loss scale (trainer_state.json)

The position in the data and the learning rate are functions of the step and need no saving. Nothing is pickled:
a checkpoint from a stranger can be opened without running a stranger's code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from auto_bot_tuner.training import sharding, zero
from auto_bot_tuner.training.run_folder import prune, written_aside
from auto_bot_tuner.training.soundness import STATE_FILE, is_sound, write_state
from auto_bot_tuner.utils.errors import UserError, one_line

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer


def save_checkpoint(trainer: Trainer) -> Path:
    """Write checkpoint-N for the step just finished, then delete those that `save_total_limit` no longer keeps."""
    run, state = Path(trainer.config.output_dir), trainer.state
    target = run / f"checkpoint-{state.step}"
    rngs = gather_object([rng_state()])  # every process takes part
    optimizer = optimizer_tensors(trainer)

    def write() -> None:
        if not is_sound(target):  # a damaged one is written anew
            with written_aside(target) as folder:
                trainer.save_weights(folder)
                save_file(optimizer, folder / "optimizer.safetensors")
                for rank, rng in enumerate(rngs):
                    save_file(rng, folder / f"rng-{rank}.safetensors")
                write_state(folder, {**state.as_dict(), **trainer.extra_state()})
        prune(run, trainer.config.save_total_limit, state.best_step, state.step)

    trainer.on_main(write)
    return target


def load_checkpoint(trainer: Trainer, folder: Path) -> None:
    """Put weights, optimiser, randomness and state of `folder` into the trainer.

    Raises:
        UserError: the folder was saved by a run that cannot be continued by this one, or cannot be read.
    """
    try:
        record = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
        check_same_run(trainer, record, folder)
        trainer.load_weights(folder)
        if isinstance(trainer.optimizer, zero.ZeroOptimizer):
            trainer.optimizer.take_weights()
        restore_optimizer(trainer, load_file(folder / "optimizer.safetensors"))
        trainer.load_extra_state(record)
        trainer.state.restore(record)
        rng = folder / f"rng-{trainer.rank}.safetensors"
        if rng.exists():  # another number of processes: the data order holds, dropout's noise is new
            set_rng_state(load_file(rng))
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(
            f"cannot resume from {folder}, a file of it cannot be read ({one_line(error)}): "
            "move that folder away and resume from the one before"
        ) from error


def check_same_run(trainer: Trainer, record: dict[str, Any], folder: Path) -> None:
    """The data position is a function of the step only while rows and rows per step stay what they were."""
    for name, now in trainer.state.shape.items():
        before = record["shape"].get(name)
        if before != now:
            raise UserError(
                f"cannot resume from {folder}: {name.replace('_', ' ')} was {before} and is {now} now; resume with the "
                "settings of the first start, or start anew from these weights with --model and another --output-dir"
            )
    if record["step"] > trainer.total_steps:
        raise UserError(
            f"nothing left to do: {folder} is past step {trainer.total_steps}; raise --max-steps or --epochs"
        )


def optimizer_tensors(trainer: Trainer) -> dict[str, torch.Tensor]:
    """AdamW's state as {"weight's name|exp_avg": tensor, …}, whole; on the main process alone. All must take part."""
    state, found = trainer.optimizer.state, {}
    for name, parameter in trainer.trained_parameters().items():
        for key, value in state.get(parameter, {}).items():
            tensor = sharding.whole(torch.as_tensor(value))
            if trainer.is_main:
                found[f"{name}|{key}"] = tensor.detach().cpu().contiguous()
    return found


def restore_optimizer(trainer: Trainer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = trainer.trained_parameters()
    for label, tensor in tensors.items():
        name, key = label.rsplit("|", 1)
        parameter = parameters[name]
        # AdamW keeps its step counter on the CPU unless it is fused on a GPU: it is moved on demand there.
        device = parameter.device if key != "step" or parameter.is_cuda else "cpu"
        on_device = tensor.to(device)
        if isinstance(trainer.optimizer, zero.ZeroOptimizer):
            trainer.optimizer.load(parameter, key, on_device)
        else:
            is_cut = key != "step"
            trainer.optimizer.state[parameter][key] = sharding.shard_like(parameter, on_device) if is_cut else on_device


def rng_state() -> dict[str, torch.Tensor]:
    """This process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
