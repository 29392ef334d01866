"""Packages that export lazily: `from auto_bot_tuner.sft import SFTConfig` must not wait for torch.

torch, transformers and friends take 4 to 15 seconds to import. A package's `__init__` names what it
exports and where each name lives; Python calls the module's `__getattr__` (PEP 562) at first use.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def lazy_exports(package: str, homes: dict[str, str]) -> tuple[Callable[[str], Any], list[str]]:
    """`__getattr__` and `__all__` of a package whose names live in submodules.

    `homes` maps each exported name to the submodule that defines it, e.g. `{"sft_loss": "loss"}`; one of a neighbouring
    package begins with a dot, as in a relative import: `{"PromptDataset": ".rollouts.dataset"}`.
    """

    def __getattr__(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{homes[name]}", package), name)

    return __getattr__, sorted(homes)
