"""final/: the trained model as others will use it, with a card that says where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from auto_bot_tuner.training.card import CardFacts, model_card
from auto_bot_tuner.training.curves import draw_curves
from auto_bot_tuner.training.record import method_of
from auto_bot_tuner.utils.errors import one_line
from auto_bot_tuner.utils.json_files import read_lines
from auto_bot_tuner.utils.saving import base_is_on_hub, is_adapted, save_for_users

if TYPE_CHECKING:
    from auto_bot_tuner.training.loop import Trainer


def save_final(trainer: Trainer, folder: Path, metrics: dict[str, float], model: Any = None, usage: str = "") -> None:
    """Write `folder` whole or not at all: a Hugging Face folder that transformers and peft load as it is.

    Args:
        model: the transformers or peft model, where `trainer.model` is none but holds one.
        usage: Markdown for the card: what a user of the model has to know; empty: what holds for language models.

    Raises:
        UserError: it could not be written; a `final/` that stood there before stands there still.
    """
    model = trainer.model if model is None else model
    facts = CardFacts(is_adapter_alone=is_adapted(model) and base_is_on_hub(model), usage=usage)  # else it is merged

    def write_card(aside: Path) -> None:
        if "html" in trainer.config.report_to:
            facts.curves = curves_of(trainer, aside / "curves.png")
        (aside / "README.md").write_text(card_of(trainer, metrics, facts), encoding="utf-8")

    save_for_users(model, trainer.tokenizer, folder, write_card)


def card_of(trainer: Trainer, metrics: dict[str, float], facts: CardFacts) -> str:
    """The model card; where what it tells of cannot be read, one that says so: weights are not lost for their card."""
    try:
        return model_card(trainer, metrics, facts)
    except Exception as error:
        return f"# {method_of(trainer.config)} model\n\nThe card could not be written ({one_line(error)}).\n"


def curves_of(trainer: Trainer, file: Path) -> str:
    """Draw the run's curves beside the card; what the card says of them. Weights are not lost for a picture."""
    logged = read_lines(Path(trainer.config.output_dir) / "metrics.jsonl")
    try:
        is_drawn = draw_curves(logged, method_of(trainer.config), file)
    except Exception as error:
        file.unlink(missing_ok=True)
        return f"The curves could not be drawn ({one_line(error)}).\n\n"
    return f"![curves of the run]({file.name})\n\n" if is_drawn else ""
