"""What a bare machine relies on: declared dependencies, one environment that nothing swaps, the shipped files."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGE_OF = {"yaml": "pyyaml"}  # where the import's name is another, in more than its dashes
OURS = {"auto_bot_tuner", "commands", "src", "benchmarks", "proof", "tests"}


def declared(*extras: str) -> set[str]:
    lists = [PYPROJECT["project"]["dependencies"]]
    lists += [PYPROJECT["project"]["optional-dependencies"][extra] for extra in extras]
    return {re.split(r"[<>=\[; ]", requirement)[0].lower() for requirements in lists for requirement in requirements}


def imported(*files: Path) -> set[str]:
    """Top-level packages that these files import by name, standard library and our own left out."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.split(".")[0])
    names -= set(sys.stdlib_module_names) | OURS
    return {PACKAGE_OF.get(name, name).lower().replace("_", "-") for name in names}


def test_the_program_imports_declared_dependencies_only():
    files = [ROOT / "main.py", *(ROOT / "commands").rglob("*.py"), *(ROOT / "src").rglob("*.py")]
    for_users = set(PYPROJECT["project"]["optional-dependencies"]) - {"dev", "docs"}
    assert imported(*files) <= declared(*for_users)


def test_trl_is_the_peer_of_tests_benchmarks_and_proof_and_used_nowhere_else():
    files = [ROOT / "main.py", *(ROOT / "commands").rglob("*.py"), *(ROOT / "src").rglob("*.py")]
    assert "trl" not in imported(*files) and "trl" not in declared() and "trl" in declared("dev")


def test_uv_never_manages_the_environment():
    # A managed project is re-resolved by every `uv run`, which would swap the torch that `make install` chose.
    assert PYPROJECT["tool"]["uv"]["managed"] is False


@pytest.mark.skipif(not shutil.which("make"), reason="make is not here")
def test_make_installs_again_only_after_the_requirements_changed(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    stamp = tmp_path / ".venv" / "installed"
    stamp.parent.mkdir()
    stamp.touch()

    def plan() -> str:
        return subprocess.run(["make", "-n", "test"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    later = (tmp_path / "pyproject.toml").stat().st_mtime + 10
    os.utime(stamp, (later, later))
    assert "install.sh" not in plan() and "pytest" in plan()
    os.utime(tmp_path / "pyproject.toml", (later + 10, later + 10))
    assert "install.sh" in plan()


def test_continuous_integration_runs_the_linters_and_the_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make lint" in script.read_text() and "make test" in script.read_text()


def test_the_scripts_of_the_set_up_are_sound_shell():
    for script in (ROOT / "tools" / "install.sh", ROOT / ".ci" / "run"):
        subprocess.run(["sh", "-n", str(script)], check=True)
