"""README's section on speed, written from the whole record of `make benchmark`: see `record_words.py --speed`."""

from __future__ import annotations

from pathlib import Path

from tests.documents import ROOT

RECORD = ROOT / "benchmarks" / "results" / "cpu.json"


def speed_section(path: Path = RECORD) -> str:
    """The lines between README's markers: what was compared, one row for each, and where the whole record is."""
    from benchmarks.configurations import CPU
    from benchmarks.results import Record

    record = Record.load(path)
    assert record is not None, f"{path}: make benchmark writes it"
    results = record.results
    rows, worst = [], 0.0
    for configuration in CPU:
        result = results.get(configuration.name)
        if not result or not configuration.peer or configuration.environment:
            continue
        work, _, against = configuration.title.partition("; ")
        speed, memory = result.get("speed"), result.get("memory")
        if speed is None:
            continue
        rows.append(
            f"| {work} | {against or configuration.peer} | {speed:.1f} times | {f'{memory:.2f}' if memory else ''} |"
        )
        if "bf16" not in configuration.name and configuration.method not in ("rows", "generation"):
            worst = max(worst, result.difference or 0.0)
    lines = [
        "<!-- from: benchmarks/results/cpu.json -->",
        "`make benchmark` runs every method side by side with TRL: the same model, the same rows, the same steps, and",
        f"losses that differ by at most {worst:.1e} in float32. Less CPU time, share of the memory; medians of paired",
        "rounds, one thread:",
        "",
        "<!-- from: benchmarks/results/cpu.json -->",
        "| work | against | speed | memory |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
    slowest = results["start-up"].get("start-up wall s")
    if slowest:
        lines += [
            "<!-- from: benchmarks/results/cpu.json -->",
            f"The slowest `--help` takes {slowest:.2f} s. "
            "The whole [record](benchmarks/results/cpu.md) has spreads, the share of the",
            "machine's ceiling, and the measured reason wherever a target is missed.",
            "",
        ]
    lines.append("![every method beside TRL](docs/images/benchmark.png)")
    return "\n".join(lines)
