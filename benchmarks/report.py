"""The one table of the benchmark, for benchmarks/results/ and for the terminal, with what stands below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.configurations import Configuration, Target
from benchmarks.measure import TOLERANCE
from benchmarks.report_words import BREAKDOWN_WORDS, EXPLANATION, GPU, NO_GPU, ON_GPU, ROLLOUT_WORDS
from benchmarks.results import Record, Result

HEADINGS = (
    "work",
    "useful tokens/s, ours · peer",
    "speed ÷ peer",
    "memory MB, ours · peer",
    "memory ÷ peer",
    "share of matmul ceiling, ours · peer",
    "largest difference",
)
BREAKDOWN = {"products": "matrix products", "attention": "attention", "softmax": "softmax and loss"}
BREAKDOWN |= {"optimiser": "AdamW", "rest": "element-wise, copies"}
PARTS = ("writing", "scoring", "training")
# Which column a figure's target stands in.
COLUMN = {"speed": 2, "memory": 4, "ceiling": 5}


@dataclass(frozen=True)
class Missed:
    """A target that was not reached, with the reason as this run's figures tell it."""

    title: str
    target: Target
    value: float
    reason: str


def missed(record: Record, configurations: Mapping[str, Configuration]) -> list[Missed]:
    found = []
    for name, result in record.results.items():
        for target in configurations[name].targets:
            value = result.get(target.figure)
            if value is not None and result.agrees and not target.reached(value):
                reason = words_of(target.reason, name, record.figures())
                found.append(Missed(configurations[name].title, target, value, reason))
    return found


def words_of(reason: str, name: str, figures: Mapping[str, float]) -> str:
    """A reason with this run's figures in its holes. NAME is the line that it stands for."""
    try:
        return reason.replace("NAME", name).format(f=figures) or "No reason was measured."
    except KeyError as missing:
        return f"The reason rests on a figure that this run did not measure: {missing.args[0]}."


def markdown(record: Record, configurations: Mapping[str, Configuration], command: str, remark: str = "") -> str:
    """The whole page."""
    ordered = [record.results[name] for name in configurations if name in record.results]
    device = record.setting["device"]
    sections = [
        f"# Every method beside TRL, on a {'GPU' if device == 'cuda' else 'CPU'}",
        " ".join([made_in_words(record, command), setting_in_words(record.setting), remark]).strip(),
        table(HEADINGS, [cells(result, configurations[result.name]) for result in ordered]),
        EXPLANATION.format(fp32=TOLERANCE["fp32"], bf16=TOLERANCE["bf16"]),
        *missed_section(missed(record, configurations), any(configurations[result.name].targets for result in ordered)),
        *breakdown_section(ordered, configurations),
        *rollout_section(ordered, configurations),
        *startup_section(ordered),
        ON_GPU if device == "cuda" else GPU if record.setting["gpu"] else NO_GPU,
    ]
    return "\n\n".join(sections) + "\n"


def made_in_words(record: Record, command: str) -> str:
    minutes = sum(result.seconds for result in record.results.values()) / 60
    return f"Made by `{command}` on {record.made}, in {minutes:.0f} minutes."


def setting_in_words(setting: Mapping[str, object]) -> str:
    versions = setting["versions"]
    assert isinstance(versions, dict)
    return (
        f"{setting['machine']}, {setting['threads']} thread(s) on each side; "
        f"{', '.join(f'{name} {version}' for name, version in versions.items())}; {setting['rows']}; "
        f"commit {setting['commit']} (sources {setting['sources']})."
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cells(result: Result, configuration: Configuration) -> list[str]:
    """One line. A line whose sides did not do the same work shows no speed at all."""
    if "start-up CPU s" in result.figures:
        return startup_cells(result, configuration)
    peer = bool(configuration.peer)
    row = [
        configuration.title.replace("TRL", configuration.peer or "TRL") + f" ({rounds_in_words(result)})",
        pair(result, "tokens/s", "{:.0f}", peer) + (" rows" if configuration.method == "rows" else ""),
        str(result.figures["speed"]) if "speed" in result.figures else "–",
        pair(result, "memory MB", "{:.0f}", peer),
        pair(result, "memory", "{:.2f}", peer=False),
        pair(result, "ceiling", "{:.0%}", peer and "peer ceiling" in result.figures),
        "–" if result.difference is None else f"{result.difference:.1e}" if result.difference else "0",
    ]
    if not result.agrees:
        return [row[0], *["void"] * (len(row) - 2), f"**{row[-1]}**, more than {result.tolerance:.0e}"]
    for target in configuration.targets:
        value, column = result.get(target.figure), COLUMN.get(target.figure)
        if value is not None and column is not None:
            row[column] += verdict(target, value)
    floors = [target for target in configuration.targets if target.figure.removesuffix(" ceiling") in PARTS]
    if floors:
        row[5] = "<br>".join(part_in_words(result, target) for target in floors)
    return row


def part_in_words(result: Result, target: Target) -> str:
    value = result.get(target.figure)
    assert value is not None, target
    return f"{target.figure.removesuffix(' ceiling')} {value:.0%}{verdict(target, value, line=False)}"


def startup_cells(result: Result, configuration: Configuration) -> list[str]:
    words = []
    for target in configuration.targets:
        value = result.get(target.figure)
        assert value is not None, target
        kind = target.figure.removeprefix("start-up ").removesuffix(" s")
        words.append(f"{kind} {value:.2f} s{verdict(target, value, line=False)}")
    return [f"{configuration.title} ({rounds_in_words(result)})", "–", "<br>".join(words), "–", "–", "–", "–"]


def rounds_in_words(result: Result) -> str:
    return f"{result.rounds} round{'s' * (result.rounds != 1)}"


def pair(result: Result, figure: str, form: str, peer: bool) -> str:
    values = [result.get(name) for name in ((figure, f"peer {figure}") if peer else (figure,))]
    if values.count(None) == len(values):
        return "–"
    return " · ".join("–" if value is None else form.format(value) for value in values)


def verdict(target: Target, value: float, line: bool = True) -> str:
    apart = "<br>" if line else ", "
    return f"{apart}{target} reached" if target.reached(value) else f"{apart}**{target} not reached**"


# ---- below the table ----


def missed_section(misses: Sequence[Missed], had_targets: bool) -> list[str]:
    if not had_targets:
        return []
    if not misses:
        return ["## Targets", "All were reached."]
    lines = [f"- **{m.title}: {m.target.figure} {shown(m)}, target {m.target}.** {m.reason}" for m in misses]
    return ["## Not reached, and why", "\n".join(lines)]


def shown(miss: Missed) -> str:
    return f"{miss.value:.0%}" if "ceiling" in miss.target.figure else f"{miss.value:.2f}"


def breakdown_section(results: Sequence[Result], configurations: Mapping[str, Configuration]) -> list[str]:
    rows = [
        [
            configurations[result.name].title.partition(";")[0],
            *(f"{result.figures[kind].median:.0%}" for kind in BREAKDOWN),
            f"{result.figures['square GFLOP/s'].median:.0f} · {result.figures['model GFLOP/s'].median:.0f}",
            f"{result.figures['ceiling'].median:.0%} · {result.figures['reachable'].median:.0%}",
        ]
        for result in results
        if "products" in result.figures and not result.name.endswith(("-best", "-best-bf16"))
    ]
    headings = ["our step", *BREAKDOWN.values(), "ceiling GFLOP/s: square · model's sizes", "share of either"]
    return ["## Where a step's time goes", table(headings, rows), BREAKDOWN_WORDS] if rows else []


def rollout_section(results: Sequence[Result], configurations: Mapping[str, Configuration]) -> list[str]:
    rows = []
    for result in results:
        if "writing" in result.figures and not result.name.endswith("-best"):
            get = result.get
            memory = [get("models MB"), get("memory with models MB")]
            rows.append(
                [
                    configurations[result.name].title.partition(";")[0],
                    ", ".join(f"{part} {get(part) or 0:.0%}" for part in PARTS),
                    ", ".join(f"{p} {get(f'{p} ceiling'):.0%}" for p in PARTS if get(f"{p} ceiling") is not None),
                    " · ".join(f"{get(f'{size} GFLOP/s') or 0:.0f}" for size in ("square", "model", "few rows")),
                    " · ".join(f"{value or 0:.0f}" for value in memory),
                ]
            )
    headings = ["rollouts", "share of time", "share of ceiling"]
    headings += ["ceiling GFLOP/s: square · model's sizes · few rows", "memory MB: models · peak with them"]
    return ["## Where a rollout's time goes", table(headings, rows), ROLLOUT_WORDS] if rows else []


def startup_section(results: Sequence[Result]) -> list[str]:
    details = {command: seconds for result in results for command, seconds in result.details.items()}
    rows = [[f"`{command}`", f"{cpu:.2f}", f"{wall:.2f}"] for command, (cpu, wall) in details.items()]
    return ["## Start-up", table(["command", "CPU s (user + system)", "wall s"], rows)] if rows else []
