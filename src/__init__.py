"""The doorway: `src.auto_bot_tuner` *is* `auto_bot_tuner`, the same module objects.

The documents write `from src.auto_bot_tuner.sft import …` (run from the repository root); an
installed copy is `auto_bot_tuner.sft`. Were these two imports two modules, every class would exist
twice and `isinstance` would fail between them. So this package sends the first spelling to the second.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

PREFIX = "src."
TARGET = "auto_bot_tuner"

# Not installed (a bare checkout): let `import auto_bot_tuner` find the folder beside this file.
if importlib.util.find_spec(TARGET) is None:
    sys.path.insert(0, str(Path(__file__).parent))


class Doorway(MetaPathFinder, Loader):
    """Answers imports of `src.auto_bot_tuner[.x]` with the module `auto_bot_tuner[.x]`."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        real_name = fullname.removeprefix(PREFIX)
        if real_name == fullname or real_name.split(".")[0] != TARGET:
            return None
        real_spec = importlib.util.find_spec(real_name)
        if real_spec is None:
            return None
        is_package = real_spec.submodule_search_locations is not None
        return ModuleSpec(fullname, self, is_package=is_package)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.removeprefix(PREFIX))
        # The import system is about to write the alias's spec onto the real module; remember its own.
        self.own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own_spec  # it has run already under its real name


sys.meta_path.insert(0, Doorway())
