"""Runs tests against each mutant of one file: one process that has imported everything, and a fork of it per mutant.

    python -m proof.mutation_runner TASK.json      (started by `mutation.py`, in a copy of the repository)

pytest collects once. In a first fork all tests run on the file as it is, while coverage notes which test runs which
line. Then, in a fork for each mutant, the mutated function's code takes the place of the right one, and the tests that
run its statement run, the fastest first, until one fails. Everybody who has imported the function, under whatever name
and behind whatever decorator, has the mutant: it is the same function object with other code.

The fork's limit is processor time, not time on the clock: what else the machine does cannot make a verdict.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import json
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

SURVIVED, KILLED, BROKEN = 0, 1, 2  # how a fork ends
MEMORY = 16 * 2**30  # bytes of address space on top of the parent's: a mutant may ask for a tensor of any size


class Runner:
    """A pytest plugin that runs the collected tests once for the file and once for each mutant."""

    def __init__(self, task: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
        self.task, self.tell = task, tell
        self.module = importlib.import_module(task["module"])
        self.path = str(Path(task["file"]).resolve())
        self.failed = ""
        self.seconds: dict[str, float] = {}  # of the processor, by test

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = f"{report.nodeid}\n{report.longreprtext}"

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.collect()
        gc.freeze()  # forks share what they do not write to; the collector would write to all
        lines, seconds, failed = self.baseline(session.items)
        if failed:
            self.tell({"error": f"the tests fail without any mutant: {failed}"})
            return True
        self.tell({"tests": len(session.items), "seconds": sum(seconds.values())})
        tree = ast.parse(Path(self.path).read_text())
        for mutant in self.task["mutants"]:
            reached = {test for line in statement_lines(tree, mutant) for test in lines.get(line, ())}
            items = sorted((i for i in session.items if i.nodeid in reached), key=lambda item: seconds[item.nodeid])
            limit = self.task["patience"] * (1 + sum(seconds[item.nodeid] for item in items))
            self.tell({"outcome": self.outcome(mutant, items, int(limit))})
        return True

    def baseline(self, items: list[pytest.Item]) -> tuple[dict[int, list[str]], dict[str, float], str]:
        """Of the file as it is: tests by line that they run, seconds by test, and the test that fails, if one does."""
        place = Path(self.task["scratch"]) / "baseline.pickle"
        if (child := os.fork()) == 0:
            import coverage

            watch = coverage.Coverage(data_file=None, include=[self.path], config_file=False)
            watch.start()
            for item, following in zip_longest(items, items[1:]):
                watch.switch_context(item.nodeid)
                started = time.process_time()
                run_test(item, following or item)
                self.seconds[item.nodeid] = time.process_time() - started
            watch.stop()
            data = watch.get_data()
            file = next(iter(data.measured_files()), "")
            place.write_bytes(pickle.dumps((data.contexts_by_lineno(file), self.seconds, self.failed)))
            os._exit(0)
        os.waitpid(child, 0)
        found: tuple[dict[int, list[str]], dict[str, float], str] = pickle.loads(place.read_bytes())
        return found

    def outcome(self, mutant: dict[str, Any], items: list[pytest.Item], limit: int) -> str:
        """killed, survived or timeout."""
        if (child := os.fork()) == 0:
            gc.disable()
            set_limits(limit)
            try:
                replace_code(self.module, mutant["function"], mutant["source"])
            except BaseException as error:
                print(f"{mutant['function']}: {error!r}", flush=True)
                os._exit(BROKEN)
            for item, following in zip_longest(items, items[1:]):
                run_test(item, following or item)
                if self.failed:
                    os._exit(KILLED)
            os._exit(SURVIVED)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            too_long = os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGALRM, signal.SIGKILL)
            return "timeout" if too_long else "killed"
        return {SURVIVED: "survived", KILLED: "killed"}.get(os.WEXITSTATUS(status), "broken")


def set_limits(seconds: int) -> None:
    """The end of this process where it takes more time or memory than a mutant may."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    signal.alarm(20 * seconds)  # one that waits for ever uses no processor time
    size = Path("/proc/self/statm")  # Linux; elsewhere memory is not limited
    if size.exists():
        space = int(size.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def run_test(item: pytest.Item, following: pytest.Item) -> None:
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def statement_lines(tree: ast.Module, mutant: dict[str, Any]) -> range:
    """The lines of the innermost statement that holds the mutant's first changed line."""
    around = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= mutant["line"] <= (node.end_lineno or node.lineno)
    ]
    innermost = min(around, key=lambda node: (node.end_lineno or node.lineno) - node.lineno)
    return range(innermost.lineno, (innermost.end_lineno or innermost.lineno) + 1)


def replace_code(module: ModuleType, qualified_name: str, source: str) -> None:
    """Give a function or method the code and the defaults that it has in `source`."""
    *classes, name = qualified_name.split(".")
    body, holder = ast.parse(source).body, module
    for class_name in classes:
        body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == class_name)
        holder = vars(holder)[class_name]
    function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    function.decorator_list = []
    shell: ast.stmt = function  # a class without bases around a method, as `super()` needs one
    for class_name in reversed(classes):
        shell = ast.ClassDef(name=class_name, bases=[], keywords=[], body=[shell], decorator_list=[])
    tree = ast.fix_missing_locations(ast.Module([shell], type_ignores=[]))
    flags = annotations.compiler_flag  # as in our files: what is annotated is not evaluated
    made: Any = {}
    exec(compile(tree, module.__file__ or "mutant", "exec", flags=flags, dont_inherit=True), vars(module), made)
    for part in (*classes, name):
        made = made[part] if isinstance(made, dict) else vars(made)[part]
    target = bare_function(vars(holder)[name])
    target.__code__, target.__defaults__, target.__kwdefaults__ = made.__code__, made.__defaults__, made.__kwdefaults__


def bare_function(found: Any) -> FunctionType:
    """The function under property, staticmethod, classmethod and wrappers that say what they wrap."""
    found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
    bare: FunctionType = inspect.unwrap(found)
    return bare


def main(task_file: str) -> None:
    from hypothesis import settings

    settings.register_profile("mutation", derandomize=True, database=None, deadline=None)
    settings.load_profile("mutation")
    task = json.loads(Path(task_file).read_text())
    told = os.fdopen(task["report_to"], "w")

    def tell(what: dict[str, Any]) -> None:
        print(json.dumps(what), file=told, flush=True)

    started = time.perf_counter()
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:timeout", "--basetemp", f"{task['scratch']}/tmp"]
    short = ["--assert=plain", "--tb=line"]  # that a test fails is asked thousands of times, and never what it says
    pytest.main([*arguments, *short, *task["tests"]], plugins=[Runner(task, tell)])
    tell({"seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main(sys.argv[1])
