"""A row token by token, exactly as the trainer gets it: the first thing to look at when a run learns nonsense.

Green is trained, dim is prompt, and the token that ends an answer is marked: if no row shows it, the
model will never learn to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.utils.terminal import neutral

if TYPE_CHECKING:
    from auto_bot_tuner.data.prompt_format import Encoded
    from auto_bot_tuner.data.response_groups import ResponseGroups
    from auto_bot_tuner.sft.dataset import InstructionDataset

STYLES = {"prompt": "dim", "trained": "green", "end": "bold black on green", "cut": "red"}
# Brackets say the same as the colours, for pipes and for eyes that do not tell green from red.
OPENING, CLOSING = "⟦", "⟧"
BOUNDARY = "│"


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text. Bytes of an unfinished character add nothing; the last one brings it."""
    texts: list[str] = []
    start, done = 0, ""  # decode from `start`: the whole text for every token would be quadratic
    for end in range(1, len(ids) + 1):
        window = tokenizer.decode(ids[start:end], clean_up_tokenization_spaces=False)
        finished = window.rstrip("\ufffd")
        texts.append(finished[len(done) :])
        done = finished if len(finished) > len(done) else done
        if end - start > 32 and window == finished:
            start, done = end - 1, tokenizer.decode(ids[end - 1 : end], clean_up_tokenization_spaces=False)
    return texts


def token_view(
    dataset: InstructionDataset, index: int, losses: Sequence[float] | None = None, boundaries: bool = False
) -> Text:
    """Row `index` as coloured text: a stroke between tokens where `boundaries`, their losses (nats) where given."""
    row = dataset[index]
    ids, labels = row["input_ids"].tolist(), row["labels"].tolist()
    cuts = dataset.cuts(index)
    view = Text().append(_cut_before(cuts.turns, cuts.prompt), STYLES["cut"])
    _append_tokens(view, dataset, ids, labels, 0, losses, boundaries)
    if cuts.response:
        _append_lost(view, dataset.tokenizer, dataset.uncut(index), cuts.response)
    return view


def group_view(
    dataset: ResponseGroups, index: int, losses: Sequence[Sequence[float]] | None = None, boundaries: bool = False
) -> tuple[Text, list[Text]]:
    """Group `index` as coloured text: the prompt that all sides share, and each side's own tokens after it."""
    group, cuts = dataset.group(index), dataset.cuts(index)
    start = group.prompt_length
    prompt = Text().append(_cut_before(cuts[0].turns, cuts[0].prompt), STYLES["cut"])
    _append_tokens(prompt, dataset, group.input_ids[0][:start].tolist(), [IGNORE_INDEX] * start, 0, None, boundaries)
    views = []
    for k, (ids, labels) in enumerate(zip(group.input_ids, group.labels, strict=True)):
        view = Text()
        own_losses = losses[k] if losses is not None else None
        _append_tokens(view, dataset, ids.tolist(), labels.tolist(), start, own_losses, boundaries)
        if cuts[k].response:
            _append_lost(view, dataset.tokenizer, dataset.uncut(index).sides[k], cuts[k].response)
        views.append(view)
    return prompt, views


def side_names(dataset: ResponseGroups, index: int) -> list[str]:
    """What to call the sides of group `index`: chosen and rejected, good or bad, places, or scores."""
    scores = dataset.group(index).scores
    known = [f"score {score:g}" if math.isfinite(score) else "" for score in scores]
    names = {
        "pairs": ["chosen", "rejected"],
        "unpaired": ["good" if score else "bad" for score in scores],
        "rankings": [f"place {place}" for place in range(1, len(scores) + 1)],
        "scores": known,
    }[dataset.kind]
    if dataset.kind in ("unpaired", "scores"):
        return names
    return [f"{name} ({score})" if score else name for name, score in zip(names, known, strict=True)]


def _append_tokens(
    view: Text,
    dataset: InstructionDataset | ResponseGroups,
    ids: list[int],
    labels: list[int],
    start: int,
    losses: Sequence[float] | None,
    boundaries: bool,
) -> None:
    """The tokens from `start` on; those before it are only decoded, as a token's text may hang on them."""
    stops = dataset.prompt_format.stop_token_ids
    was_trained = False
    for position, text in enumerate(token_texts(dataset.tokenizer, ids)[start:], start):
        trained = labels[position] != IGNORE_INDEX
        if trained != was_trained:
            view.append(OPENING if trained else CLOSING, STYLES["trained"])
        elif boundaries and position > start:
            view.append(BOUNDARY, "dim blue")
        was_trained = trained
        kind = "prompt" if not trained else "end" if ids[position] in stops else "trained"
        view.append(neutral(text), STYLES[kind])
        if trained and losses is not None:
            view.append(f"‹{losses[position]:.2f}›", "yellow")
    view.append(CLOSING if was_trained else "", STYLES["trained"])


def _append_lost(view: Text, tokenizer: Any, whole: Encoded, count: int) -> None:
    """The last `count` trained tokens of a row before it was cut: what the model will not see."""
    trained_ids = [token for token, trained in zip(whole.input_ids, whole.trained, strict=True) if trained]
    view.append(f"[cut: {count} tokens]{neutral(tokenizer.decode(trained_ids[-count:]))}", STYLES["cut"])


def _cut_before(turns: int, prompt: int) -> str:
    said = [f"{turns} oldest turn(s)"] * (turns > 0) + [f"{prompt} tokens of the prompt's start"] * (prompt > 0)
    return f"[cut: {', '.join(said)}]" if said else ""


def legend() -> Text:
    """What the colours of `token_view` mean."""
    names = {"prompt": "read, not trained", "trained": "⟦trained⟧", "end": "end token", "cut": "[cut: to max_length]"}
    return Text("  ").join(Text(name, STYLES[kind]) for kind, name in names.items())


def describe(dataset: InstructionDataset | ResponseGroups) -> str:
    """What was understood of the data, and row 0 as the model sees it: said once, before a run."""
    from auto_bot_tuner.data.response_groups import ResponseGroups

    heading = f"{dataset.summary}\nrow 0 as the model sees it ({dataset.where(0)}; ⟦…⟧ is trained):\n"
    if not isinstance(dataset, ResponseGroups):
        return heading + token_view(dataset, 0).plain
    prompt, sides = group_view(dataset, 0)
    named = zip(side_names(dataset, 0), sides, strict=True)
    return heading + "\n".join([prompt.plain.rstrip("\n"), *(f"{name}: {side.plain}" for name, side in named)])
