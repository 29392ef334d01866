"""Numbers that docstrings work out by hand are right: every `>>>` example of the package runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import auto_bot_tuner

MODULES = [info.name for info in pkgutil.walk_packages(auto_bot_tuner.__path__, "auto_bot_tuner.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    outcome = doctest.testmod(importlib.import_module(name))
    assert outcome.failed == 0


def test_there_are_examples():
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 2
