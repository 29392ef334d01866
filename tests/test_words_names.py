"""What our words name is there: files, flags, functions, links, and the commands of docstrings, comments and errors."""

from __future__ import annotations

import ast
import keyword
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import commands
from auto_bot_tuner.utils.settings import all_settings, subcommands
from tests.documents import ROOT, blocks, documents

CODE = [
    *(path for folder in ("src", "commands", "tests", "benchmarks", "proof") for path in (ROOT / folder).rglob("*.py")),
    ROOT / "main.py",
]
SHIPPED = [path for path in CODE if "tests" not in path.relative_to(ROOT).parts]
PLACES = ("", "src", "src/auto_bot_tuner", "commands", "tests", "benchmarks", "docs")
# What a reader has or makes, and this repository does not.
THEIRS = re.compile(
    r"(?:checkpoints|merged|gg|lora|out|runs|for-ollama|exports?|downloads|~|\.venv|\.uv|DIR|FOLDER|RUN|CKPT)\b|"
    r"(?:mine|rewards?|file|module|rows|my_\w+|recipe|tool|\w*_?standin|modeling_\w+|configuration_\w+)\.(?:py|yaml|md)$|"
    r"(?:FILE|NAME|README|MODEL_CARD|config|card|cfg|sft|task|opposites)\.(?:py|yaml|yml|md)$"
)


# ---- files ----


@cache
def file_names() -> frozenset[str]:
    return frozenset(
        path.name for path in [*CODE, *ROOT.glob("configs/**/*"), *ROOT.glob("docs/**/*"), *ROOT.glob("*")]
    )


def missing_files(text: str, beside: Path = ROOT) -> Iterator[str]:
    """Names of .py, .md, .yaml and .sh files in a text that lie nowhere they could be meant."""
    for name in re.findall(r"(?<![\w./{-])((?:[\w.-]+/)*[\w-]+\.(?:py|md|yaml|sh))\b(?![\w/])", text):
        bare = name.removeprefix("./")
        if "METHOD" in bare or THEIRS.match(bare) or THEIRS.match(Path(bare).name):
            continue
        if "/" not in bare:
            if bare not in file_names() and not (beside / bare).exists():
                yield name
        elif not any((ROOT / place / bare).exists() for place in PLACES) and not (beside / bare).exists():
            yield name


@pytest.mark.parametrize("document", documents())
def test_files_that_a_document_names_are_there(document):
    assert not list(missing_files((ROOT / document).read_text(encoding="utf-8"), (ROOT / document).parent))


@cache
def words_of(path: Path) -> str:
    """The docstrings and comments of a file."""
    source = path.read_text(encoding="utf-8")
    said = [ast.get_docstring(node) or "" for node in ast.walk(ast.parse(source)) if isinstance(node, DOCUMENTED)]
    return "\n".join([*said, *re.findall(r"(?<!\S)# .*", source)])


DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def test_files_that_docstrings_and_comments_name_are_there():
    dangling = {
        f"{path.relative_to(ROOT)}: {name}" for path in SHIPPED for name in missing_files(words_of(path), path.parent)
    }
    assert not dangling


# ---- links ----


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(
        r"^#+ (.*)$", re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S), re.M
    )
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", documents())
def test_links_and_anchors_exist(document):
    for block in blocks(document):
        if block.kind not in ("text", "heading"):
            continue
        for target in re.findall(r"\]\(([^)\s]+)\)", block.text):
            path, _, anchor = target.partition("#")
            if path.startswith(("http://", "https://")):
                continue
            place = (ROOT / document).parent / path if path else ROOT / document
            assert place.exists(), f"{block}: {target}"
            if line := re.fullmatch(r"L(\d+)(?:-L\d+)?", anchor):
                assert int(line[1]) <= len(place.read_text(encoding="utf-8").splitlines()), f"{block}: {target}"
            else:
                assert not anchor or anchor in anchors(place), f"{block}: {target}"


# ---- flags and commands ----


@cache
def flags() -> dict[str, frozenset[str]]:
    """The flags of each verb, by `verb` and by `verb subcommand`."""
    found: dict[str, frozenset[str]] = {}

    def of(path: str, arguments: object) -> frozenset[str]:
        members = subcommands(arguments)
        own = {setting.flag for setting in all_settings(arguments)} if not members else set()
        for name, member in members.items():
            own |= of(f"{path} {name}", member)
        no = {f"--no-{flag[2:]}" for flag in own}
        found[path] = frozenset(own | no | {"--help", "--debug"})
        return found[path]

    for verb in commands.VERBS:
        of(verb, commands.arguments_class(verb))
    return found


# Of other programs: pytest, pip and uv, tensorboard, accelerate and torchrun, Ollama's and llama.cpp's.
OTHERS = frozenset(
    f"--{name}"
    for name in (
        "version", "no-deps", "logdir", "extra", "port", "nproc_per_node", "config_file", "num_processes",
        "num_machines", "machine_rank", "main_process_ip", "main_process_port", "nnodes", "node_rank",
        "rdzv_backend", "rdzv_endpoint",
    )
)  # fmt: skip


def unknown_flags(text: str) -> Iterator[str]:
    known = frozenset().union(*flags().values()) | OTHERS
    for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", text):
        if flag not in known and flag.rstrip("-") not in known:
            yield flag


@pytest.mark.parametrize("document", documents())
def test_flags_that_a_document_names_exist(document):
    said = [block.text for block in blocks(document) if block.kind in ("text", "heading")]
    assert not list(unknown_flags("\n".join(re.findall(r"`[^`]*`", "\n".join(said)))))


def test_flags_that_docstrings_name_exist():
    known_here = {path: set(re.findall(r"\"(--[a-z][\w-]+)\"", path.read_text(encoding="utf-8"))) for path in SHIPPED}
    dangling = {
        f"{path.relative_to(ROOT)}: {flag}"
        for path in SHIPPED
        for flag in unknown_flags("\n".join(re.findall(r"`[^`]*`", words_of(path))))
        if flag not in known_here[path] | {"--training"}  # the prefix that the flags of sections do without
    }
    assert not dangling


def wrong_command(words: str) -> str:
    """What is wrong with the words behind `python main.py` in a text; placeholders are in capitals or braces."""
    parts = re.findall(r"[^\s(),;]+", words)
    if not parts or re.match(r"[\[{A-Z(]", parts[0]):
        return ""
    path = parts[0].rstrip(".:")
    if path.startswith("-"):
        return "" if path in ("--help", "--version", "-h") else path
    if path not in commands.VERBS:
        return f"no verb {path}"
    if len(parts) > 1 and f"{path} {parts[1].rstrip('.:')}" in flags():
        path = f"{path} {parts[1].rstrip('.:')}"
    for flag in re.findall(r"(?<!\S)--[a-z][\w-]+", words):
        if flag not in flags()[path]:
            return f"{path} takes no {flag}"
    return ""


def test_commands_in_docstrings_comments_errors_and_configs_are_commands():
    wrong = []
    for path in [*SHIPPED, *ROOT.glob("configs/**/*.yaml"), ROOT / "Makefile", *(ROOT / d for d in documents())]:
        joined = re.sub(r"\\\n\s*|\"\s*\n\s*f?\"", "", path.read_text(encoding="utf-8"))
        for words in re.findall(r"python main\.py ((?:[^`\"'\n…#|),;])*)", joined):
            if problem := wrong_command(words):
                wrong.append(f"{path.relative_to(ROOT)}: {words.strip()!r}: {problem}")
    assert not wrong, "\n".join(wrong)


# ---- names in backticks ----


@cache
def identifiers() -> frozenset[str]:
    """Every name and every word of a string in the code, tests and configs; comments and docstrings apart."""
    found: set[str] = set()
    for path in CODE:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
        said = {ast.get_docstring(node, clean=False) for node in ast.walk(tree) if isinstance(node, DOCUMENTED)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value not in said:
                found.update(re.findall(r"\w+", node.value))
            for attribute in ("id", "attr", "arg", "name", "asname", "module"):
                if isinstance(name := getattr(node, attribute, None), str):
                    found.update(name.split("."))
        found.add(path.stem)
        found.update(path.relative_to(ROOT).parts)
    for path in ROOT.glob("configs/**/*.yaml"):
        found.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return frozenset(found)


@cache
def made_of_two() -> frozenset[str]:
    """Names that the code puts together: f"{side}_labels" for `chosen_labels`."""
    endings = {word for word in identifiers() if word.startswith("_")}
    return frozenset(f"{side}{ending}" for side in ("chosen", "rejected", "eval", "prompt") for ending in endings)


# Of Python and of libraries that nothing here calls by these names.
OTHER_LIBRARIES = frozenset(
    ("yield", "hash", "DTensor", "input_layernorm", "group_by_length", "get_batch_loss_metrics")
)
NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*(?:\(\))?")
ELSEWHERE = frozenset(
    ("RUN", "NAME", "FOLDER", "FILE", "VERB", "COMMAND", "CKPT", "SFT", "REWARD", "DATA", "ROWS", "Class", "method")
)


def unknown_names(text: str) -> Iterator[str]:
    """Names in backticks (`compute_gae`, `Config.field`, `reward_<name>` not) that nothing in the code is called."""
    for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text):
        if NAME.fullmatch(code) and len(code) > 2 and not keyword.iskeyword(code):
            parts = code.removesuffix("()").split(".")
            if not all(part in identifiers() | ELSEWHERE | OTHER_LIBRARIES | made_of_two() for part in parts):
                yield code


@pytest.mark.parametrize("document", documents())
def test_names_in_backticks_exist(document):
    said = "\n".join(block.text for block in blocks(document) if block.kind in ("text", "heading"))
    assert not {name for name in unknown_names(said) if not re.fullmatch(r"[0-9a-f]{7,}", name)}  # hashes


def test_names_in_docstrings_exist():
    dangling = {f"{path.relative_to(ROOT)}: {name}" for path in SHIPPED for name in unknown_names(words_of(path))}
    assert not dangling


# ---- the lint itself ----


def test_the_lint_sees_what_is_not_there():
    assert [*missing_files("see training/loops.py and `sft/trainer.py`, then nowhere.py, mine.py")] == [
        "training/loops.py",
        "nowhere.py",
    ]
    assert [*unknown_flags("`--learning-rate 1e-4 --learnig-rate 1e-4`")] == ["--learnig-rate"]
    assert wrong_command("train-sftt --model tiny") == "no verb train-sftt"
    assert wrong_command("evaluate accuracy --model A --judge gold") == "evaluate accuracy takes no --judge"
    assert not wrong_command("train-sft --model {name} --dataset ROWS.jsonl") and not wrong_command("VERB --help")
    mistyped = "compute" + "_" + "gea"  # apart: this file is code that names are looked for in
    assert [*unknown_names(f"`compute_gae`, `SFTConfig.batch_size`, `chosen_rewards`, `{mistyped}`")] == [mistyped]
