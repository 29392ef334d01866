"""A model card's front matter: YAML between two lines of ---, which the hub reads."""

from __future__ import annotations


def split_card(text: str) -> tuple[list[str], list[str]]:
    """(lines of the front matter, without the two ---; lines of the rest). A card without one is all rest.

    >>> split_card("---\\nlicense: mit\\n---\\n# Model")
    (['license: mit'], ['# Model'])
    """
    lines = text.replace("\r\n", "\n").split("\n")
    if lines[0].strip() != "---" or "---" not in lines[1:]:
        return [], lines
    end = lines.index("---", 1)
    return lines[1:end], lines[end + 1 :]


def join_card(head: list[str], body: list[str]) -> str:
    """The inverse of `split_card`; without a head, no front matter."""
    return "\n".join([*(["---", *head, "---"] if head else []), *body])
