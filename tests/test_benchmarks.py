"""The benchmark's book-keeping, with made-up laps: what voids a line, which target is reached, what is written when."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import machine, rollout_figures, startup
from benchmarks.baton import Lap, Worker, gflops
from benchmarks.configurations import CPU, GPU, Target, configurations
from benchmarks.device import KINDS, REST, kind_of
from benchmarks.matmul import Products
from benchmarks.measure import compare, largest_difference
from benchmarks.picture import paint
from benchmarks.report import cells, markdown, missed
from benchmarks.results import Record, Result, Spread
from benchmarks.task import Task
from benchmarks.workload import SHAPES, Work, build_model, forward_flops

KNOWN = configurations("cpu")
SETTING = {"device": "cpu", "machine": "2 cores", "threads": 1, "rows": "rows", "versions": {}, "gpu": ""}
SETTING |= {"commit": "abc", "sources": "def"}
KIND_SECONDS = {**dict.fromkeys(KINDS, 0.1), REST: 0.6}


def ceiling_lap() -> Lap:
    sizes = ("square", "model", "few rows", "new sizes")
    return Lap(parts=dict.fromkeys(sizes, 1.0), part_flops=dict.fromkeys(sizes, 100e9))


def trained(
    name: str, seconds: float = 1.0, peer_seconds: float = 4.0, peer_losses: tuple[float, ...] = (2.0,)
) -> Result:
    """What `compare` makes of two rounds of made-up laps: 50 GFLOP and 1000 useful tokens each."""
    ours = [Lap(99.0, 99.0, 7, 300.0, [2.1])] + [Lap(seconds, seconds, 1000, 300.0, [2.0])] * 2
    peer = [Lap(1.0, 1.0, 7, 900.0, [2.1])] + [Lap(peer_seconds, peer_seconds, 2000, 900.0, list(peer_losses))] * 2
    profiled = Lap(kinds=KIND_SECONDS)
    return compare(KNOWN[name], ours, peer, [ceiling_lap()] * 3, [Work(1000, 50e9)] * 2, profiled)


def rolled_out(name: str) -> Result:
    ours = Lap(4.0, 4.0, 1000, 300.0, useful_tokens=1000, parts={"writing": 2.0, "rollout": 3.0})
    ours.part_flops = {"writing": 20e9, "scoring": 40e9, "training": 50e9}
    peer = Lap(10.0, 10.0, 2000, 900.0, useful_tokens=1000, parts={"writing": 4.0}, part_flops=ours.part_flops)
    facts = {"models_mb": 65.0, "loaded_mb": 70.0}
    figures = rollout_figures.shares([ours], [ceiling_lap()], facts)
    if KNOWN[name].peer:
        memory = trained("sft").figures
        figures |= rollout_figures.beside([ours], [peer], [ceiling_lap()]) | {
            n: memory[n] for n in memory if "memory" in n or "MB" in n
        }
    return Result(name, figures, 0.0 if KNOWN[name].peer else None, 1e-4, 1)


def made_up(name: str) -> Result:
    """A result of a line with the figures that its kind of measurement gives."""
    configuration = KNOWN[name]
    if configuration.method in ("grpo", "ppo"):
        return rolled_out(name)
    if configuration.method == "start-up":
        figures = {f"start-up {clock} s": Spread.of([0.5]) for clock in ("CPU", "wall")}
        return Result(name, figures, rounds=5, details={"main.py --help": [0.1, 0.2]})
    if configuration.method in ("generation", "rows"):
        figures = {"speed": Spread.of([2.0, 3.0]), "tokens/s": Spread.of([900.0]), "peer tokens/s": Spread.of([400.0])}
        return Result(name, figures | {"rows": Spread.of([32]), "encoding": Spread.of([0.6])}, 0.0, 0.0, 5)
    result = trained(name)
    assert "state MB" in result.figures or configuration.task.reference == "adapter_off"
    return result


def whole_record() -> Record:
    return Record(dict(SETTING), "2026-01-01", {name: made_up(name) for name in KNOWN})


# ---- figures ----


def test_speed_share_and_memory_are_those_of_the_paired_laps():
    figures = trained("sft", seconds=1.0, peer_seconds=4.0).figures
    assert figures["speed"] == Spread(4.0, 4.0, 4.0)
    assert figures["tokens/s"].median == 1000 and figures["peer tokens/s"].median == 250
    assert figures["ceiling"].median == pytest.approx(0.5) and figures["peer ceiling"].median == pytest.approx(0.125)
    assert figures["memory"].median == pytest.approx(1 / 3) and figures["peer read"].median == 2
    assert sum(figures[kind].median for kind in KIND_SECONDS) == pytest.approx(1)


def test_a_rollouts_parts_are_shares_of_its_time_and_of_the_ceiling():
    figures = rolled_out("grpo").figures
    assert [figures[part].median for part in rollout_figures.PARTS] == [0.5, 0.25, 0.25]
    assert [figures[f"{part} ceiling"].median for part in rollout_figures.PARTS] == pytest.approx([0.1, 0.4, 0.5])
    assert figures["ceiling"].median == pytest.approx(0.275) and figures["peer ceiling"].median == pytest.approx(0.11)
    assert figures["speed"].median == 2.5 and figures["writing speed"].median == 2 and figures["rest speed"].median == 3


def test_a_target_is_a_floor_or_a_cap_with_its_bound_included():
    assert Target("speed", 3).reached(3) and not Target("speed", 3).reached(2.99)
    cap = Target("memory", 0.45, at_most=True)
    assert cap.reached(0.45) and not cap.reached(0.46)
    assert not Target("speed", 3).reached(float("nan")) and not cap.reached(float("nan"))


# ---- void lines ----


@pytest.mark.parametrize("loss", [2.001, float("nan")])
def test_losses_that_differ_void_the_line_and_show_no_speed(loss):
    result = trained("sft", peer_losses=(loss,))
    row = cells(result, KNOWN["sft"])
    assert not result.agrees and "4.00" not in "".join(row) and row.count("void") == 5
    assert missed(Record(SETTING, "", {"sft": result}), KNOWN) == []


def test_rounding_does_not_void_a_line_and_no_losses_at_all_do():
    assert trained("sft", peer_losses=(2.00009,)).agrees
    assert not trained("sft", peer_losses=(2.0003,)).agrees
    assert trained("sft-bf16", peer_losses=(2.0003,)).agrees
    assert not replace(trained("sft"), difference=largest_difference([], [])).agrees


def test_replayed_rollouts_compare_losses_and_relative_gradient_norms():
    # loss, norm, loss, norm; then a rollout that each side wrote itself
    assert rollout_figures.difference([1, 2, 1, 2, 5, 5], [1, 2.5, 1.1, 2, 9, 9], 2) == pytest.approx(0.2)


# ---- the page and the picture ----


def test_the_page_has_every_line_each_target_and_a_measured_reason_for_what_was_missed():
    record = whole_record()
    page = markdown(record, KNOWN, "make benchmark")
    for configuration in CPU:
        assert f"| {configuration.title.replace('TRL', configuration.peer or 'TRL')} (" in page
    assert (
        "≥ 3 reached" in page and "**≥ 75% not reached**" in page and "A GPU: not run" in page and "(1 round)" in page
    )
    assert (
        "- **SFT; TRL out of the box: ceiling 50%, target ≥ 75%.** In the profiled step matrix products take 10%"
        in page
    )


def test_every_reason_cites_figures_that_its_run_measures():
    record = whole_record()
    hopeless = {
        name: replace(line, targets=tuple(replace(t, bound=0 if t.at_most else 1e9) for t in line.targets))
        for name, line in KNOWN.items()
    }
    misses = missed(record, hopeless)
    assert len(misses) == sum(len(line.targets) for line in CPU)
    for miss in misses:
        assert any(c.isdigit() for c in miss.reason) and "NAME" not in miss.reason and "{" not in miss.reason, miss
        assert "did not measure" not in miss.reason, miss


def test_a_reason_that_rests_on_another_line_says_so_where_that_was_not_measured():
    (miss,) = missed(
        Record(SETTING, "", {"sft": made_up("sft")}), {"sft": replace(KNOWN["sft"], targets=KNOWN["sft"].targets[2:])}
    )
    assert "did not measure: sft-slow-products" in miss.reason


def test_the_picture_shows_every_line_with_a_figure_and_is_not_blank(tmp_path):
    from matplotlib.image import imread

    record = whole_record()
    record.results["dpo"] = trained("dpo", peer_losses=(9.0,))  # void: not shown
    figure = paint(record, KNOWN)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["SFT", "SFT, TRL at its best"] and "DPO, reference a copy" not in labels
    assert len(labels) == sum(line.method not in ("start-up",) for line in CPU) - 1
    assert [axes.get_title() for axes in figure.axes][2] == "share of the matmul ceiling"
    figure.savefig(tmp_path / "picture.png")
    pixels = imread(tmp_path / "picture.png")[..., :3]
    assert pixels.min() < 0.2 and pixels[0, 0].min() > 0.9 and pixels.std() > 0.05  # dark words on a light ground


# ---- what is written when ----


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program with made-up measurements, and its results in a folder of the test."""
    monkeypatch.setattr(program, "RESULTS", tmp_path)
    monkeypatch.setattr(program, "IMAGES", tmp_path)
    monkeypatch.setattr(program, "measure", lambda configuration, rounds, threads: made_up(configuration.name))
    monkeypatch.setattr(program, "draw", lambda record, known, file: file.write_text(f"{len(record.results)} lines"))
    monkeypatch.setattr(machine, "setting", lambda device, threads: dict(SETTING))
    return tmp_path


def run(*words: str) -> int:
    return program.main([*words, "--device", "cpu"])


def test_a_part_never_overwrites_the_record_of_all_and_the_rest_can_follow(book, capsys):
    (book / "cpu.md").write_text("the record of all")
    assert run("sft", "ppo-lora") == 0
    assert (book / "cpu.md").read_text() == "the record of all" and not (book / "cpu.json").exists()
    kept = json.loads((book / "cpu-unfinished.json").read_text())
    assert set(kept["results"]) == {name for name in KNOWN if KNOWN[name].method == "sft"} | {"ppo-lora"}
    capsys.readouterr()
    assert run("--resume") == 0
    assert f"[1/{len(KNOWN) - len(kept['results'])}]" in capsys.readouterr().out  # what was kept is not measured again
    assert "# Every method" in (book / "cpu.md").read_text() and (book / "benchmark.png").exists()
    assert set(json.loads((book / "cpu.json").read_text())["results"]) == set(KNOWN)
    assert not (book / "cpu-unfinished.json").exists()


def test_lines_of_other_code_or_another_machine_are_measured_again(book, monkeypatch):
    run("sft")
    monkeypatch.setattr(machine, "setting", lambda device, threads: SETTING | {"sources": "changed"})
    run("rows", "--resume")
    assert set(json.loads((book / "cpu-unfinished.json").read_text())["results"]) == {"rows"}


def test_a_run_with_more_threads_has_a_record_of_its_own(book):
    run("--threads", "2")
    assert (book / "cpu-2-threads.md").exists() and not (book / "cpu.md").exists()
    assert not (book / "benchmark.png").exists()


def test_a_void_line_is_exit_code_1_and_stands_in_the_page(book, monkeypatch, capsys):
    def measured(configuration: Any, rounds: int, threads: int) -> Result:
        return trained("sft", peer_losses=(3.0,)) if configuration.name == "sft" else made_up(configuration.name)

    monkeypatch.setattr(program, "measure", measured)
    assert run() == 1
    assert "not the same work" in capsys.readouterr().out
    assert "| void | void |" in (book / "cpu.md").read_text()


def test_a_worker_that_fails_costs_its_line_only(book, monkeypatch, capsys):
    def measured(configuration: Any, rounds: int, threads: int) -> Result:
        if configuration.name == "reward":
            raise program.WorkerFailed("peer ended with code 1")
        return made_up(configuration.name)

    monkeypatch.setattr(program, "measure", measured)
    assert run("reward", "sft") == 1
    assert "peer ended with code 1" in capsys.readouterr().out
    assert set(json.loads((book / "cpu-unfinished.json").read_text())["results"]) >= {"reward-best", "sft"}


def test_the_page_can_be_drawn_again_from_the_record_alone(book, monkeypatch):
    run()
    (book / "cpu.md").unlink()
    monkeypatch.delattr(program, "measure")
    assert run("--redraw") == 0 and "SFT; TRL out of the box" in (book / "cpu.md").read_text()


def test_a_record_that_cannot_be_read_is_none_and_nothing_is_drawn_of_it(book, capsys):
    (book / "cpu-unfinished.json").write_text('{"results": {"sft": {"colour": 1}}}')
    assert run("rows") == 0  # goes on with a record of its own
    (book / "cpu.json").write_text("{")
    assert run("--redraw") == 1 and "measure first" in capsys.readouterr().out


def test_a_misspelt_part_is_told(capsys):
    with pytest.raises(SystemExit):
        run("sfft")
    assert "no such part: sfft" in capsys.readouterr().err


# ---- the work ----


def test_a_gpu_does_the_same_work_in_bf16_and_more():
    assert {line.task.device for line in GPU} == {"cuda"} and {line.task.precision for line in GPU} == {"bf16"}
    assert {line.method for line in CPU} - {line.method for line in GPU} == {"rows", "start-up"}
    assert [line.name for line in GPU if line.task.compile] == ["sft-124M-compile"]
    assert round(SHAPES["124M"].weights / 1e6) == 124 and not any(line.targets for line in GPU)


def test_the_ceilings_products_are_those_of_the_model():
    from torch.utils.flop_counter import FlopCounterMode

    products = Products(Task(method="grpo", rows_per_step=2))
    for work in (products.training, products.writing, products.training_on_another_number_of_tokens):
        with FlopCounterMode(display=False) as counter:
            flops = work()
        assert counter.get_total_flops() == flops


def test_the_arithmetic_of_a_row_is_that_of_the_model():
    from torch.utils.flop_counter import FlopCounterMode

    model = build_model()
    assert sum(p.numel() for p in model.parameters() if p.dim() == 2) == SHAPES["17M"].weights
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(10)[None])
    # PyTorch counts the attention that a causal mask hides too: once more of what is needed.
    needed, attention = forward_flops(10, 0, 10), 4 * 6 * 384 * 10 * 5
    assert counter.get_total_flops() in (needed, needed + attention, needed - attention)


def test_operations_are_sorted_by_kind():
    names = ["aten::mm", "aten::_scaled_dot_product_flash_attention_for_cpu_backward", "aten::_fused_adamw_"]
    assert [kind_of(name) for name in names] == ["products", "attention", "optimiser"]
    assert [kind_of(name) for name in ("aten::_log_softmax", "aten::mul", "nvjet_hsh_128x256")] == [
        "softmax",
        REST,
        "products",
    ]


def test_a_worker_waits_for_the_baton_follows_the_plan_and_says_why_it_ended():
    with Worker("toy", "tests.benchmark_worker", Task(steps=3).as_json(), threads=1) as worker:
        assert worker.wait_until_ready() == {"rows": 24}
        worker.send_plan([[1, 2], [3], [4]])
        first, second = worker.go(2), worker.go(1)
        assert first.losses == [3, 3] and second.losses == [4]
        assert first.useful_tokens == 3 and gflops([first], "writing")[0] > 0 and first.part_flops == {"writing": 2e9}
        assert 0 <= first.parts["writing"] <= first.seconds
        with pytest.raises(program.WorkerFailed, match=r"toy ended with code 1:[^{]*\n.*the plan is over"):
            worker.go(1)


@pytest.mark.long
def test_the_ceilings_worker_multiplies_and_can_be_profiled():
    with Worker("ceiling", "benchmarks.matmul", Task(steps=1).as_json(), threads=1) as worker:
        assert worker.wait_until_ready() == {}
        lap, looked_into = worker.go(1), worker.profile(1)
    assert lap.part_flops["square"] == 20 * 2 * 1024**3 and 0 < lap.parts["square"] < lap.seconds
    assert lap.kinds == {} and looked_into.kinds["products"] > looked_into.kinds["attention"]


def test_start_up_is_measured_for_every_verb(monkeypatch):
    from commands import VERBS

    monkeypatch.setattr(startup, "time_help", lambda command: (0.9 if command == ["chat"] else 0.1, 0.2))
    result = startup.measure("start-up", 3)
    assert set(result.details) == {f"main.py {verb} --help" for verb in VERBS} | {"main.py --help"}
    assert result.get("start-up CPU s") == 0.9 and result.get("start-up wall s") == 0.2
