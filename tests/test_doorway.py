"""`src.auto_bot_tuner` (as the documents write) and `auto_bot_tuner` (installed) are one package."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import auto_bot_tuner

ROOT = Path(__file__).parent.parent
LIGHT = [
    "auto_bot_tuner.sft.config",
    "auto_bot_tuner.training.config",
    "auto_bot_tuner.utils.errors",
    "auto_bot_tuner.sft",
]


@pytest.mark.parametrize("name", LIGHT)
def test_both_names_give_the_same_module(name):
    assert importlib.import_module(f"src.{name}") is importlib.import_module(name)


@pytest.mark.parametrize("first", ["auto_bot_tuner", "src.auto_bot_tuner"])
def test_a_class_is_the_same_whichever_name_came_first(first):
    other = {"auto_bot_tuner": "src.auto_bot_tuner", "src.auto_bot_tuner": "auto_bot_tuner"}[first]
    code = (
        f"from {first}.sft import SFTConfig as A; from {other}.sft import SFTConfig as B; import {other}.sft as m; "
        "assert A is B and isinstance(A(), B), (A, B); assert m.__spec__.name == 'auto_bot_tuner.sft', m.__spec__"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_module_that_does_not_exist_is_missing_under_both_names():
    for prefix in ("", "src."):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{prefix}auto_bot_tuner.no_such_module")


def test_the_package_and_its_configs_import_nothing_heavy():
    """torch and friends take seconds; whoever wants a config, or `--help`, must not wait for them."""
    modules = [info.name for info in pkgutil.walk_packages(auto_bot_tuner.__path__, "auto_bot_tuner.")]
    light = [
        name
        for name in modules
        if name.endswith(".config") or importlib.util.find_spec(name).submodule_search_locations
    ]
    code = (
        "import importlib, sys\n"
        f"for name in {light!r}: importlib.import_module(name)\n"
        "heavy = {'torch', 'transformers', 'peft', 'datasets', 'accelerate'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert len(light) >= 6
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
