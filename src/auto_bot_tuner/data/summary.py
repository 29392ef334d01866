"""What became of the rows on their way to tokens: said before every run, so that nothing is lost in silence."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class DatasetSummary:
    """What became of the rows. Counts of rows unless said otherwise."""

    formats: dict[str, int]  # recognised format → rows
    max_length: int  # tokens
    rows: int = 0  # given
    kept: int = 0  # left to train on
    cut: int = 0  # kept, but shortened to max_length
    cut_turns: int = 0  # … by leaving out oldest turns
    cut_prompts: int = 0  # … by the start of the last prompt
    cut_responses: int = 0  # … by the end of the answer, which then has no end token
    dropped: int = 0  # before tokenising rows, after it units
    drop_reasons: dict[str, int] = field(default_factory=dict)
    tokens: int = 0  # of the kept rows
    trained_tokens: int = 0  # of these, the ones that the loss counts
    longest: int = 0  # tokens: of a row, or of a prompt with one response
    unit: str = "rows"  # what is trained on: rows, or the pairs (rankings …) that rows make

    def __str__(self) -> str:
        share = self.trained_tokens / max(self.tokens, 1)
        mean = self.tokens / max(self.kept, 1)
        kinds = {"oldest turns": self.cut_turns, "prompt's start": self.cut_prompts, "answer's end": self.cut_responses}
        cuts = ", ".join(f"{kind} {count:,}" for kind, count in kinds.items() if count)
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in self.drop_reasons.items())
        given = f"of {self.rows:,}" if self.unit == "rows" else f"from {self.rows:,} rows"
        lengths = f"mean {mean:.0f}, longest {self.longest:,} tokens"
        if self.unit != "rows":
            lengths = f"mean {mean:.0f} tokens (prompt once), longest side {self.longest:,}"
        return "\n".join(
            [
                f"format   {', '.join(f'{name} ({count:,} rows)' for name, count in self.formats.items())}",
                f"{self.unit:8} {self.kept:,} {given}",
                f"lengths  {lengths} (max_length {self.max_length:,})",
                f"trained  {self.trained_tokens:,} of {self.tokens:,} tokens ({share:.0%})",
                f"cut      {self.cut:,} {self.unit}{f' ({cuts})' if cuts else ''}",
                f"dropped  {self.dropped:,} {self.unit}{f' ({reasons})' if reasons else ''}",
            ]
        )


class Cuts(NamedTuple):
    """What a row has lost to max_length."""

    turns: int  # oldest turns
    prompt: int  # tokens of the last prompt's start
    response: int  # tokens of the answer's end
