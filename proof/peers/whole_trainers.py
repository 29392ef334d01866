"""TRL's trainers as wholes."""

ADVANTAGES: dict[str, str] = {}
