"""Reports: what was logged stands in the page, what models wrote stays text, and nothing is fetched from anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from auto_bot_tuner.reports import write_comparison, write_run_report, write_story
from auto_bot_tuner.reports.curves import BY_METHOD, FIRST, METHODS, SHOULD
from auto_bot_tuner.reports.drawing import Line, plot, smoothed, thinned
from auto_bot_tuner.reports.heatmap import question_in
from auto_bot_tuner.reports.pages import TEMPLATES
from auto_bot_tuner.reports.run_files import find_run
from auto_bot_tuner.utils.errors import UsageError, UserError
from auto_bot_tuner.utils.run_config import TRAINING_CLASSES
from commands import report as command

HOSTILE = (
    "</script><script>alert(1)</script><img src=x onerror=alert(2)>\" onmouseover='x' \x1b[31m\x00\u202e {{ 7 * 7 }}"
)


class Page(HTMLParser):
    """A page as a browser would read it: its elements with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def write_lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def write_run(folder: Path, method: str = "sft", scale: float = 1.0, **training: Any) -> Path:
    """A run of 40 logs and two evaluations."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"method": method, "model": {"name": "tiny", "use_lora": False}, "dataset": {"name": "rows.jsonl"}}
    config["training"] = {"output_dir": str(folder), "learning_rate": 1e-3, "batch_size": 4, **training}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    logs: list[Any] = [{"step": 0, "eval_loss": 2.5 * scale, "eval_accuracy": 0.25}]
    logs += [{"step": i, "loss": scale * 3 / i, "accuracy": 0.5, "learning_rate": 1e-3 / i} for i in range(1, 41)]
    logs += [{"step": 40, "eval_loss": 0.1375 * scale, "eval_accuracy": 0.875}]
    write_lines(folder / "metrics.jsonl", logs)
    samples = [(0, "no idea", False), (40, f"blue, by {scale:g}", True)]
    write_lines(
        folder / "samples.jsonl",
        [{"step": step, "prompt": "Sky?", "response": text, "ended": ended} for step, text, ended in samples],
    )
    return folder


def write_record(folder: Path, text: str = "fine", **fields: Any) -> None:
    record = {
        "method": "sft",
        "status": "finished",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 75.0,
        "step": 40,
        "total_steps": 40,
        "tokens": 12345,
        "model": {"name": text, "architecture": text, "parameters": 1000, "trained_parameters": 10},
        "lineage": [{"name": "tiny", "method": "base"}, {"name": text, "method": "sft"}],
        "data": {"name": text, "rows": 90, "summary": text, "sha256": "a1" * 32},
        "eval_data": {"rows": 10, "sha256": "b2" * 32},
        "settings": [["one step", text]],
        "hardware": {"device": "cpu", "processor": text, "cores": 2, "memory_gib": 7.8, "gpu": None},
        "versions": {"python": "3.11", "torch": text},
        "seed": 7,
    }
    (folder / "run.json").write_text(json.dumps(record | fields))
    write_lines(folder / "notes.jsonl", [{"step": 9, "kind": "verdict", "text": text}])
    view = {"step": 40, "title": text, "prompt": text, "tokens": [text, " b", " c"], "trained": [True, True, False]}
    write_lines(folder / "token_views.jsonl", [{**view, "series": {"loss": [3.25, 0.5, None]}}])


def test_the_figures_are_those_of_the_log(tmp_path):
    page = Page(write_run_report(write_run(tmp_path / "run")))
    assert "2.5 → 0.1375" in page.text and "25.0% → 87.5%" in page.text
    assert "eval_loss 2.5 0.1375" in page.text  # the table of evaluations
    assert "step 20: training 0.15" in page.text and "step 40: training 0.075, evaluation 0.1375" in page.text
    assert "training from 3 at step 1 to 0.075 at step 40; evaluation from 2.5 at step 0 to 0.1375" in page.text


def test_the_record_of_a_run_is_told(tmp_path):
    folder = write_run(tmp_path / "run", batch_size=4)
    write_record(folder)
    text = Page(write_run_report(folder)).text
    for words in ("finished", "2026-01-02 03:04 UTC", "75 s", "12,345", "1.00% of the weights", "base tiny", "a1" * 32):
        assert words in text
    assert "verdict, step 9 fine" in text and "memory 8 GiB" in text and "seed 7" in text
    assert "fine 3.25" in text and " b .50" in text  # tokens with their numbers, colour or not
    assert "model.name tiny gpt2" in text and "Hub id, local folder" in text  # value, default, the config's comment
    assert "1 of 1 sample answers ends by itself; before training 0 of 1 did." in text
    assert f"train-config {folder}/config.yaml" in text and f"chat {folder}/final" in text


def test_what_others_wrote_is_text_and_nothing_else(tmp_path):
    folder = write_run(tmp_path / "run", method="sft")
    clean = Page(write_run_report(folder))
    write_record(folder, HOSTILE)
    write_lines(folder / "samples.jsonl", [{"step": 1, "prompt": HOSTILE, "response": HOSTILE, "ended": True}])
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["name"] = config["dataset"]["name"] = HOSTILE.replace("\x00", "").replace("\x1b", "")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    page = Page(write_run_report(folder))
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "link", "form"}
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count("<script>alert(1)</script>") >= 6  # it is there to be read: prompt, answer, note, token …
    assert "{{ 7 * 7 }}" in page.text and "\x1b" not in page.source and "\x00" not in page.source
    assert "␛[31m␀" in page.text and "\u202e" not in page.source
    assert {tag for tag, _ in clean.elements} <= tags


def test_half_a_character_in_json_does_not_stop_the_page(tmp_path):
    folder = write_run(tmp_path / "run")
    line = '{"step": 1, "prompt": "a\\ud800b", "response": "x", "ended": true}\n'
    (folder / "samples.jsonl").write_text(line)
    assert "a\ufffdb" in Page(write_run_report(folder)).text


def test_a_page_needs_nothing_from_outside(tmp_path):
    first, second = write_run(tmp_path / "a"), write_run(tmp_path / "b", 2.0)
    write_record(first)
    pages = [Page(write_run_report(first)), Page(write_comparison([first, second], tmp_path / "both.html"))]
    for page in pages:
        (policy,) = [
            meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"
        ]
        assert str(policy).startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
        for _, attributes in page.elements:
            assert "src" not in attributes and "data" not in attributes
            link = attributes.get("href") or attributes.get("xlink:href")
            assert link is None or link.startswith("#") or (tmp_path / link).is_file()
        assert not re.search(r"https?://|url\(|@import|//fonts", page.source)


def test_the_same_files_give_the_same_page_and_its_ids_are_unique(tmp_path):
    folder = write_run(tmp_path / "run", method="ppo")
    write_record(folder)
    first = write_run_report(folder).read_bytes()
    assert write_run_report(folder).read_bytes() == first
    page = Page(folder / "report.html")
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 10
    named = [name for svg in page.all("svg") for name in str(svg.get("aria-labelledby") or "").split()]
    assert named and set(named) <= set(ids)  # each chart has its title and its description
    assert next(tag for tag, _ in page.elements if tag in ("h1", "h2", "h3")) == "h1"


def test_a_folder_of_another_day_is_enough(tmp_path):
    """Only metrics, with a line that a kill tore and values that are no numbers."""
    folder = tmp_path / "old"
    folder.mkdir()
    lines = ['{"step": 1, "loss": 2.0}', '{"step": 2, "loss": NaN}', '{"step": 3, "loss": null}', "[1]", "nonsense"]
    huge = '{"step": 3, "loss": 1' + "0" * 400 + "}"
    (folder / "metrics.jsonl").write_text("\n".join([*lines, huge, '{"step": 4, "loss": 1.0}', '{"step": 5, "lo']))
    page = Page(write_run_report(folder))
    assert "training from 2 at step 1 to 1 at step 4" in page.text and "steps 4" in page.text
    assert "nan" not in page.source.lower().split("<title>")[2]


@pytest.mark.parametrize("nonsense", [None, 5, "x", [], [1, 2], {"a": 1}, {"rows": "many", "parameters": "few"}])
def test_a_record_of_another_shape_costs_only_itself(tmp_path, nonsense):
    folder = write_run(tmp_path / "run")
    fields = ("status", "started", "seconds", "tokens", "model", "lineage", "data", "eval_data", "settings", "hardware")
    write_record(folder, **dict.fromkeys((*fields, "versions", "seed", "total_steps"), nonsense))
    view = {"step": nonsense, "tokens": ["a"], "series": {"loss": [nonsense]}}
    write_lines(folder / "token_views.jsonl", [view, nonsense, {"tokens": nonsense, "series": {"loss": [1]}}])
    write_lines(folder / "notes.jsonl", [{"step": nonsense, "text": nonsense, "kind": nonsense}])
    write_lines(folder / "samples.jsonl", [{"step": 1, "prompt": nonsense, "response": nonsense, "ended": nonsense}])
    assert "2.5 → 0.1375" in Page(write_run_report(folder)).text


def test_the_line_of_a_run_without_a_record_is_read_from_its_configs(tmp_path):
    (write_run(tmp_path / "sft") / "final").mkdir()
    folder = write_run(tmp_path / "dpo", method="dpo")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["model"]["name"] = f"{tmp_path}/sft/final"
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert f"base tiny sft {tmp_path}/sft dpo {tmp_path}/dpo" in Page(write_run_report(folder)).text


def test_series_of_one_text_are_chosen_between_without_a_script(tmp_path):
    folder = write_run(tmp_path / "run", method="ppo")
    series = {"reward": [0.0, 2.0], "value": [-1.0, 1.5], "advantage": [0.25, -0.75]}
    views = [{"step": step, "title": "response 0", "prompt": "p", "tokens": ["Hi", "!"]} for step in (0, 40)]
    write_lines(folder / "token_views.jsonl", [{**view, "series": series} for view in views])
    page = Page(write_run_report(folder))
    radios = [element for element in page.all("input") if element["type"] == "radio"]
    assert len(radios) == 3 and sum("checked" in radio for radio in radios) == 1
    shades = [str(element.get("class")) for element in page.all("span") if "token " in str(element.get("class"))]
    assert [shade.split()[-1] for shade in shades if "down" in shade or "up" in shade][:2] == ["up-6", "up-6"]
    assert any(element.get("title") == "!: −.75" and "down-" in str(element["class"]) for element in page.all("span"))


def test_differing_settings_figures_and_answers_stand_side_by_side(tmp_path):
    a, b = write_run(tmp_path / "a"), write_run(tmp_path / "deep" / "b", scale=2.0, learning_rate=5e-4)
    page = Page(write_comparison([a, b], tmp_path / "report.html"))
    table = page.text[page.text.index("What differs") : page.text.index("Last evaluation")]
    assert "training.learning_rate 0.001 0.0005" in table and "batch_size" not in table and "output_dir" not in table
    assert "eval_loss 0.1375 0.275" in page.text
    assert page.source.count('class="number best"') == 1  # the lower loss; equal accuracies have no best
    assert "a blue, by 1 ended deep/b blue, by 2 ended" in page.text
    assert "step 20: a 0.15, deep/b 0.3" in page.text
    assert page.source.count('<g class="run-1">') == page.source.count('<g class="run-2">') > 2


def test_losses_of_different_methods_have_no_best(tmp_path):
    runs = [write_run(tmp_path / "a"), write_run(tmp_path / "b", method="dpo", scale=2.0)]
    page = Page(write_comparison(runs, tmp_path / "report.html"))
    assert "number best" not in page.source and "method sft dpo" in page.text


def test_a_run_is_named_by_its_folder_or_by_what_it_made(tmp_path, capsys):
    folder = write_run(tmp_path / "run")
    for name in ("final", "checkpoint-20"):
        (folder / name).mkdir()
    for name in (folder, folder / "final", folder / "checkpoint-20"):
        assert find_run(name) == folder
        command.run(command.Arguments(runs=(str(name),)))
        assert str(folder / "report.html") in capsys.readouterr().out


def test_the_folder_that_one_stands_in_is_called_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "run"))
    assert f"{tmp_path}/run-again" in Page(write_run_report(Path())).text


def test_several_runs_have_their_page_in_the_folder_that_they_share(tmp_path, capsys, monkeypatch):
    for name in ("one", "two"):
        write_run(tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    arguments = command.Arguments(runs=("runs/one", "runs/two", "runs/one/"))
    command.run(arguments)
    assert "runs/report.html" in capsys.readouterr().out
    assert "2 runs side by side" in Page(Path("runs/report.html")).text
    Path("runs/results.json").write_text("{}")  # a demo's folder keeps its own page
    command.run(arguments)
    assert "runs/comparison.html" in capsys.readouterr().out
    command.run(command.Arguments(runs=("runs/one", "runs/two"), output="new/both.html"))
    assert "runs/one" not in Page(Path("new/both.html")).text.split("What differs")[0]


def test_mistakes_are_told_with_their_cure(tmp_path):
    write_run(tmp_path / "run")
    (tmp_path / "started").mkdir()
    (tmp_path / "started" / "config.yaml").write_text("method: sft\n")
    (tmp_path / "file").write_text("")
    wrong = [
        ((), {}, UsageError, "name the folder of a run"),
        (("nowhere",), {}, UsageError, "there is no folder nowhere"),
        ((str(tmp_path),), {}, UsageError, rf"not the folder of a run.*there are runs in it: {tmp_path}/run"),
        ((str(tmp_path / "started"),), {}, UserError, "no metrics yet: wait"),
        ((str(tmp_path / "run"),), {"output": "x.html"}, UsageError, "--output is for comparisons"),
    ]
    for runs, fields, kind, words in wrong:
        with pytest.raises(kind, match=words):
            command.run(command.Arguments(runs=runs, **fields))
    write_run(tmp_path / "other")
    both = (str(tmp_path / "run"), str(tmp_path / "other"))
    with pytest.raises(UsageError, match="cannot write --output"):
        command.run(command.Arguments(runs=both, output=str(tmp_path / "file" / "x.html")))


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run")
    write_run_report(folder)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = (folder / "report.html").read_bytes()
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left"):
        write_run_report(folder)
    assert (folder / "report.html").read_bytes() == before


def test_a_long_run_has_a_small_page_soon(tmp_path):
    folder = write_run(tmp_path / "run")
    names = ("loss", "accuracy", "grad_norm", "learning_rate", "tokens_per_second", "entropy", "kl", "reward")
    rows = [{"step": i} | dict.fromkeys(names, 1 + (i * 7919 % 101) / 50) for i in range(1, 10_001)]
    write_lines(folder / "metrics.jsonl", rows)
    view = {"step": 1, "title": "row", "prompt": "p", "tokens": ["ab"] * 5000, "series": {"loss": [0.1] * 5000}}
    write_lines(folder / "token_views.jsonl", [view] * 40)
    started = time.process_time()
    page = write_run_report(folder)
    assert page.stat().st_size < 1_000_000
    assert time.process_time() - started < 1.5


def test_writing_a_report_imports_nothing_heavy(tmp_path):
    folder = write_run(tmp_path / "run")
    code = (
        "import sys; from pathlib import Path; from auto_bot_tuner.reports import write_run_report\n"
        f"write_run_report(Path({str(folder)!r}))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'matplotlib'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_curve_to_look_at_first_says_what_it_should_do():
    said = {*SHOULD, *(name for _, name in BY_METHOD)}
    assert {name for names in FIRST.values() for name in names} <= said
    assert FIRST.keys() == METHODS.keys() == TRAINING_CLASSES.keys()


def test_no_template_takes_text_for_markup():
    for path in TEMPLATES.iterdir():
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|<script|\son\w+=", source), path.name


def test_a_run_without_held_out_rows_says_so_and_names_none(tmp_path):
    folder = write_run(tmp_path / "run")
    evaluated = Page(write_run_report(folder)).text
    assert "evaluation, on held-out rows" in evaluated and "figures of training rows" not in evaluated
    write_lines(folder / "metrics.jsonl", [{"step": step, "loss": 1.0 / step} for step in range(1, 9)])
    (folder / "config.yaml").unlink()  # its settings' comments speak of held-out rows too
    text = Page(write_run_report(folder)).text
    assert "Nothing was held out: these are figures of training rows." in text
    assert "held-out" not in text and "Evaluations as a table" not in text
    write_record(folder)
    assert "No evaluation was made yet" in Page(write_run_report(folder)).text


def write_pairs(folder: Path, *sides: str) -> Path:
    """A reward run's samples: two answers to a prompt, at two evaluations."""
    write_run(folder, method="reward")
    rows: list[dict[str, Any]] = []
    for step, scores in ((0, (0.5, 0.25)), (40, (2.5, -1.5))):
        for i, (text, score) in enumerate(zip(("Blue.", "No idea."), scores, strict=True)):
            row = {"step": step, "prompt": "Sky?", "response": text, "ended": True, "score": score}
            rows.append({**row, "side": sides[i]} if sides else row)
    write_lines(folder / "samples.jsonl", rows)
    return folder


def test_a_pair_is_one_block_with_its_sides(tmp_path):
    page = Page(write_run_report(write_pairs(tmp_path / "run", "chosen", "rejected")))
    samples = page.text.partition("Samples over time")[2]
    assert "Sky? chosen Blue. score 0.5 at step 0 → 2.5 at step 40 rejected No idea. score 0.25 at step 0" in samples
    assert samples.count("Sky?") == 1 and "ended" not in samples.partition("Data")[0]  # people wrote them
    old = Page(write_run_report(write_pairs(tmp_path / "old"))).text
    assert "Sky? answer 1 Blue. score 0.5" in old and "answer 2 No idea." in old


def test_what_changed_stands_first(tmp_path):
    folder = write_run(tmp_path / "run")
    told = [(step, f"Q{i}", f"A{i}" + "!" * step * (i == 2)) for step in (0, 1) for i in range(4)]
    write_lines(folder / "samples.jsonl", [{"step": s, "prompt": q, "response": a, "ended": True} for s, q, a in told])
    views = [
        {"step": s, "title": "row", "prompt": f"<user>\n{q}\n<bot>", "tokens": [a], "series": {"loss": [1.0]}}
        for s, q, a in told
    ]
    write_lines(folder / "token_views.jsonl", views)
    page = Page(write_run_report(folder))
    samples, tokens = page.text.split("Samples over time")[1].split("Token by token")
    for part in (samples, tokens):
        assert re.findall(r"\bQ\d", part.partition("Settings")[0]) == ["Q2", "Q0", "Q1", "Q3"]
    assert "<user>" not in page.text  # the prompt as it was asked, without the template


def test_a_prompt_is_found_in_its_template_and_only_as_a_whole():
    assert question_in("### Instruction:\nName it.\n\n### Response:\n", ["it", "Name it."]) == "Name it."
    assert question_in("### Instruction:\nItalics.\n", ["Ital", ""]) == "### Instruction:\nItalics.\n"


def test_answers_that_differ_between_runs_come_first_and_none_are_said(tmp_path):
    a, b, c = (write_run(tmp_path / name) for name in "abc")
    for run, word in ((a, "x"), (b, "y")):
        rows = [("same", "1"), ("other", word), ("same", "2")]
        lines = [{"step": 1, "prompt": prompt, "response": text, "ended": True} for prompt, text in rows]
        write_lines(run / "samples.jsonl", lines)
    text = Page(write_comparison([a, b], tmp_path / "both.html")).text.partition("Answers to the same prompts")[2]
    assert re.findall("same|other", text.partition("first.")[2]) == ["other", "same"]
    assert "No two of these runs" in Page(write_comparison([a, c], tmp_path / "none.html")).text


def test_what_falls_far_has_a_logarithmic_axis():
    def drawn(name: str, first: float, last: float) -> Any:
        return plot(name, "Loss", [Line("a", [(1, first), (2, abs(first * last) ** 0.5), (3, last)], "train")])

    far = drawn("loss", 4.0, 0.04)
    heights = [float(y) for y in re.findall(r",([\d.]+)", far.drawn[0].path)]
    assert far.title == "Loss, log scale" and heights[1] == pytest.approx((heights[0] + heights[2]) / 2, abs=0.2)
    assert len(far.y_ticks) >= 3
    assert drawn("perplexity", 90.0, 3.0).title.endswith("log scale")
    for name, first, last in (("loss", 4.0, 0.4), ("loss", 4.0, -0.1), ("loss", 0.04, 4.0), ("reward", 4.0, 0.04)):
        assert drawn(name, first, last).title == "Loss"


def test_thinning_keeps_spikes_and_ends():
    points = [(float(i), 0.0) for i in range(5000)]
    points[2345] = (2345.0, 9.0)
    kept = thinned(points)
    assert len(kept) <= 310 and (2345.0, 9.0) in kept and kept[0] == points[0] and kept[-1] == points[-1]
    assert kept == sorted(kept)


def test_a_running_mean_of_a_line_is_the_line():
    line = [(float(i), 3.0 * i + 1) for i in range(100)]
    assert [value for _, value in smoothed(line)] == pytest.approx([value for _, value in line])


def test_higher_values_stand_higher_and_later_steps_further_right():
    drawn = plot("loss", "Loss", [Line("a", [(0, 1.0), (5, 3.0), (10, 2.0)], "train")])
    assert drawn is not None
    (x0, y0), (x1, y1), (x2, y2) = (
        (float(x), float(y)) for x, y in re.findall(r"([\d.]+),([\d.]+)", drawn.drawn[0].path)
    )
    assert x0 < x1 < x2 and y1 < y2 < y0  # an SVG's y grows downwards
    assert (x1 - x0) == pytest.approx(x2 - x1, abs=0.2)
    ticks = {tick.label: tick.at for tick in drawn.y_ticks}
    assert ticks["1"] == y0 and ticks["3"] == y1


@pytest.mark.parametrize(
    "stage", [{"tasks": [1]}, {"name": "base", "accuracy": 1, "tasks": [1]}, {"name": "base", "pair_table": [1]}]
)
def test_results_that_no_demo_wrote_are_one_line(stage: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"stages": [stage]}))
    with pytest.raises(UserError, match=r"results\.json .*: run the demo again"):
        write_story(tmp_path)
