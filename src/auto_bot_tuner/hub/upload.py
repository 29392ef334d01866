"""What of a trained model's folder goes to the hub: checked, and free of what only means something on this machine.

final/ → which files (never a pickle, never code) → are the weights whole → paths of this machine out of the card
and the configs → a `Parcel`. The folder itself is not changed: mended files are sent as they are to arrive.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from auto_bot_tuner.assets import BUNDLED_MODELS
from auto_bot_tuner.hub.cache import has_all_weights
from auto_bot_tuner.hub.model_facts import read_facts, read_header
from auto_bot_tuner.utils.errors import UserError, one_line
from auto_bot_tuner.utils.front_matter import join_card, split_card
from auto_bot_tuner.utils.json_files import read_object
from auto_bot_tuner.utils.local_paths import missing_path
from auto_bot_tuner.utils.model_source import ADAPTER_CONFIG, model_folder, refuse_without_weights

CARD = "README.md"
ADAPTER = "adapter"  # folder in final/ of a LoRA run, whose own weights are merged
SENT = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", CARD, "LICENSE*", "*.png", "*.svg")
# Of a checkpoint to go on from: nobody who uses the model needs these.
STATE = ("optimizer.safetensors", "rng-*.safetensors", "trainer_state.json")
ROOTS = "home|root|Users|tmp|var|mnt|media|data|opt|srv|scratch|work|workspace|private|content|kaggle"
PATH = re.compile(rf"(?<![\w.:/~-])(?:/(?:{ROOTS})(?:/[\w.@+~-]+)+|[A-Z]:\\[\w\\. -]+)/?")


@dataclass
class Parcel:
    """What is sent, and what is to be said about it."""

    folder: Path
    files: dict[str, Path | bytes]  # name at the hub → the file, or the content that is sent instead
    left_out: list[str]
    remarks: list[str] = field(default_factory=list)

    @property
    def is_reward_model(self) -> bool:
        return read_facts(self.folder).is_reward_model

    def size(self, name: str) -> int:
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def pack(folder: Path) -> Parcel:
    """The parcel of a final/ folder, a run's folder (its final/), a checkpoint or an adapter.

    Raises:
        UserError: no model there, weights missing, cut or pickled, or an adapter whose base only this machine has.
    """
    if folder.is_file():
        raise UserError(f"{folder} is a file: name the folder that holds it, such as checkpoints/sft/final")
    if not folder.is_dir():
        raise missing_path(str(folder), "model")
    folder = model_folder(folder)
    files = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    sent = {name: path for name, path in files.items() if is_sent(name)}
    for name, path in sent.items():
        refuse_link(name, path, folder)
    parcel = Parcel(folder, dict(sent), [name for name in files if name not in sent])
    check_whole(folder, sent)
    leave_useless_adapter(parcel)
    for name in ("config.json", ADAPTER_CONFIG, "generation_config.json", "tokenizer_config.json"):
        for place in (name, f"{ADAPTER}/{name}"):
            if place in parcel.files:
                mend_config(parcel, place)
    mend_card(parcel)
    return parcel


def is_sent(name: str) -> bool:
    """Whether a file belongs to the model as others use it. Of folders only adapter/, the adapter of a merged model."""
    inside, _, own = name.rpartition("/")
    if inside not in ("", ADAPTER) or any(fnmatch(own, pattern) for pattern in STATE):
        return False
    return any(fnmatch(own, pattern) for pattern in SENT)


def refuse_link(name: str, path: Path, folder: Path) -> None:
    """A link is sent as what it points to: in somebody else's checkpoint that may be a file of yours.

    Raises:
        UserError: it leads out of the folder, and not to where the hub's own cache keeps a model's files.
    """
    target, blobs = path.resolve(), folder.resolve().parent.parent / "blobs"
    if not target.is_relative_to(folder.resolve()) and target.parent != blobs:
        raise UserError(f"{folder / name} is a link to {target}: put the file itself there if it is to be sent")


def check_whole(folder: Path, sent: dict[str, Path]) -> None:
    """Config and weights are all there, and as long as their headers say.

    Raises:
        UserError: they are not.
    """
    if not has_all_weights(folder):
        refuse_without_weights(str(folder), [path.name for path in folder.iterdir() if path.is_file()])
        raise UserError(f"{folder} lacks some of its weight files: copy it again, or name another checkpoint")
    for name, path in sent.items():
        if name.endswith(".safetensors"):
            try:
                read_header(path)
            except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
                raise UserError(f"{path} is damaged ({one_line(error)}): save or copy it again") from error


def leave_useless_adapter(parcel: Parcel) -> None:
    """Merged weights need no adapter. On a base that only this machine has, nobody could load it: it stays here."""
    place = f"{ADAPTER}/{ADAPTER_CONFIG}"
    base = base_here_alone(parcel.folder / place) if place in parcel.files else None
    if base is None:
        return
    useless = [name for name in parcel.files if name.startswith(f"{ADAPTER}/")]
    for name in useless:
        del parcel.files[name]
    parcel.left_out += useless
    parcel.remarks.append(
        f"{ADAPTER}/ stays here: it is for {base}, which nobody else has. The merged weights, which are sent, need "
        "neither"
    )


def base_here_alone(config: Path) -> str | None:
    """What an adapter's config calls its base, where that means nothing elsewhere; None where it is a hub id."""
    base = read_object(config).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        return "a base without a name"
    return base if is_absolute(base) or base.count("/") > 1 or base in BUNDLED_MODELS else None


def mend_config(parcel: Parcel, name: str) -> None:
    """Absolute paths in a config's values: they name something on this machine alone, and its user.

    Raises:
        UserError: the model is an adapter and the path is that of its base: nobody else could load it.
    """
    content = read_object(parcel.folder / name)
    found = {key: value for key, value in content.items() if isinstance(value, str) and is_absolute(value)}
    if name == ADAPTER_CONFIG:
        base = base_here_alone(parcel.folder / name)
        if base is not None:
            raise UserError(
                f"{parcel.folder} is an adapter for {base}, which nobody else has: merge it "
                f"first with python main.py convert merge-lora --lora-checkpoint {parcel.folder} --output merged"
            )
    if found:
        shorter = {key: Path(value).name for key, value in found.items()}
        parcel.files[name] = (json.dumps(content | shorter, indent=2, ensure_ascii=False) + "\n").encode()
        parcel.remarks += [f"{name}: {key} {value} is sent as {shorter[key]}" for key, value in found.items()]


def mend_card(parcel: Parcel) -> None:
    """The card without paths of this machine; where there is none, a short one."""
    text = card_of(parcel)
    head, body = split_card(text)
    base = next((line for line in head if line.startswith("base_model:")), "")
    named = base.partition(":")[2].strip().strip("'\"")
    if named and (named in BUNDLED_MODELS or is_absolute(named) or named.count("/") > 1):
        # On the hub it would be a link, to a stranger's model or to none.
        head = [line for line in head if not line.startswith(("base_model:", "base_model_relation:"))]
        parcel.remarks.append(f"{CARD}: base_model {named} left out of its front matter, it is no model on the hub")
    mended = join_card(head, body)
    for path in sorted(set(PATH.findall(mended)), key=len, reverse=True):
        shorter = shortened(path)
        mended = mended.replace(path, shorter)
        parcel.remarks.append(f"{CARD}: {path} is sent as {shorter}")
    if mended != text or CARD not in parcel.files:
        parcel.files[CARD] = mended.encode()


def card_of(parcel: Parcel) -> str:
    path = parcel.folder / CARD
    if path.is_file():
        return path.read_text(encoding="utf-8", errors="replace")
    parcel.remarks.append(f"{CARD}: there is none, a short one is sent")
    facts = read_facts(parcel.folder)
    base = f"base_model: {facts.base}\n" if facts.base else ""
    return f"""---
{base}library_name: {"peft" if facts.base else "transformers"}
tags: [auto_bot_tuner]
---
# {parcel.folder.parent.name if parcel.folder.name == "final" else parcel.folder.name}

{facts.architecture}, {facts.parameters:,} weights ({facts.dtype}), trained with auto_bot_tuner.
"""


def is_absolute(value: str) -> bool:
    return value.startswith(("/", "~/")) or bool(re.match(r"[A-Za-z]:\\", value))


def shortened(path: str) -> str:
    """What of a path means something elsewhere: its part below the working directory, else its last name."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return re.split(r"[/\\]", path.rstrip("/\\"))[-1]
