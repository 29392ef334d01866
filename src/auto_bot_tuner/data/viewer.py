"""A row token by token, exactly as the trainer gets it: the first thing to look at when a run learns nonsense.

Green is trained, dim is prompt, and the token that ends an answer is marked: if no row shows it, the
model will never learn to stop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from auto_bot_tuner.data import IGNORE_INDEX
from auto_bot_tuner.utils.terminal import neutral

if TYPE_CHECKING:
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
    stops = dataset.prompt_format.stop_token_ids
    cuts = dataset.cuts(index)
    view = Text().append(_cut_before(cuts.turns, cuts.prompt), STYLES["cut"])
    was_trained = False
    for position, text in enumerate(token_texts(dataset.tokenizer, ids)):
        trained = labels[position] != IGNORE_INDEX
        if trained != was_trained:
            view.append(OPENING if trained else CLOSING, STYLES["trained"])
        elif boundaries and position:
            view.append(BOUNDARY, "dim blue")
        was_trained = trained
        kind = "prompt" if not trained else "end" if ids[position] in stops else "trained"
        view.append(neutral(text), STYLES[kind])
        if trained and losses is not None:
            view.append(f"‹{losses[position]:.2f}›", "yellow")
    view.append(CLOSING if was_trained else "", STYLES["trained"])
    if cuts.response:
        whole = dataset.uncut(index)
        trained_ids = [token for token, trained in zip(whole.input_ids, whole.trained, strict=True) if trained]
        lost = neutral(dataset.tokenizer.decode(trained_ids[-cuts.response :]))
        view.append(f"[cut: {cuts.response} tokens]{lost}", STYLES["cut"])
    return view


def _cut_before(turns: int, prompt: int) -> str:
    said = [f"{turns} oldest turn(s)"] * (turns > 0) + [f"{prompt} tokens of the prompt's start"] * (prompt > 0)
    return f"[cut: {', '.join(said)}]" if said else ""


def legend() -> Text:
    """What the colours of `token_view` mean."""
    names = {"prompt": "read, not trained", "trained": "⟦trained⟧", "end": "end token", "cut": "[cut: to max_length]"}
    return Text("  ").join(Text(name, STYLES[kind]) for kind, name in names.items())


def describe(dataset: InstructionDataset) -> str:
    """What was understood of the data, and row 0 as the model sees it: said once, before a run."""
    row = token_view(dataset, 0).plain
    return f"{dataset.summary}\nrow 0 as the model sees it ({dataset.where(0)}; ⟦…⟧ is trained):\n{row}"
