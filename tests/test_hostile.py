"""Hostile input: what is meant to run code, to fill the memory, to leave its folder or to write on the terminal."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import struct
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import GPTJConfig

from auto_bot_tuner.assets import bundled_model
from auto_bot_tuner.data import chat_template
from auto_bot_tuner.rewards import verifiers
from auto_bot_tuner.utils.errors import UserError
from auto_bot_tuner.utils.weight_files import check_sizes
from tests.evaluations import write_rows
from tests.fuzzing import Outcome, lawful

ESCAPES = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e"
ROWS = [{"instruction": f"What is {i}?", "output": f"It is {i}."} for i in range(6)]
INSPECT = "inspect --dataset rows.jsonl --model"


class Bomb:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch pwned",)


PICKLE = pickle.dumps(Bomb())


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model, some rows, and something that is nobody's business."""
    folder = tmp_path / "desk"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("precious")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = bundled_model("tiny")
    assert found is not None
    shutil.copytree(found, "model")
    write_rows("rows.jsonl", ROWS)
    return folder


def refused(command: str, *words: str, code: int = 1) -> Outcome:
    """One line that has these words; nothing was run, and nothing outside was touched."""
    done = lawful(command.split())
    assert done.code == code, done
    for word in words:
        assert word in done.err, done
    assert_unharmed()
    return done


def assert_unharmed() -> None:
    assert not Path("pwned").exists() and Path("../secret.txt").read_text() == "precious"
    assert sorted(path.name for path in Path("..").iterdir()) == ["desk", "secret.txt"]


def changed(file: str, **values: Any) -> None:
    path = Path("model", file)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- YAML and JSON ---------------------------------------------------------------------------------------------------

BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40))
YAML = {
    "billion laughs": (BOMB, ("line 2", "aliases")),
    "nested": ("a: " + "[" * 20_000, ("nested too deeply",)),
    "large": ("a: " + "x" * 300_000, ("larger than a config",)),
    "a python object": ("model: !!python/object/apply:os.system ['touch pwned']", ("tags", "line 1")),
    "a python name": ("model: {name: !!python/name:os.system ''}", ("tags",)),
    "a python module": ("model: !!python/module:os ''", ("tags",)),
    "a tag of its own": ("model: !x {name: tiny}", ("!x",)),
    "escape codes": ('model: {name: "\\e[2J"}', ("control character",)),
    "a NUL": ('model: {name: "\\0"}', ("control character",)),
    "half a character": ('model: {name: "\\ud800"}', ("UTF-8",)),
    "a month too many": ("model: {name: 2026-13-13}", ("month",)),
    "to the base of sixty": ("training: {learning_rate: 12:30}", ("12:30", "line 1")),
    "octal": ("training: {batch_size: 017}", ("017",)),
    "ten thousand digits": ("training: {seed: 0x" + "f" * 10_000 + "}", ("no plain number",)),
}


@pytest.mark.parametrize("case", YAML)
def test_hostile_yaml(case: str, desk: Path) -> None:
    text, words = YAML[case]
    Path("sft.yaml").write_text(text)
    refused("train-config sft.yaml --dry-run", "sft.yaml", *words, code=2)


def test_a_config_from_a_pipe_is_read_only_so_far(desk: Path) -> None:
    refused("train-config /dev/zero --type sft", "larger than a config", code=2)


DATA = {
    "nested JSON": ("[" * 100_000, "nested too deeply"),
    "a number of 5,000 digits": ('{"instruction": ' + "9" * 5000 + ', "output": "a"}', "too many digits"),
    "half a character": ('{"instruction": "\\ud800", "output": "a"}', "surrogate"),
    "a pickle": ("\x80\x04cos\nsystem\n(S'touch pwned'\ntR.", "line 1"),
}


@pytest.mark.parametrize("case", DATA)
def test_hostile_rows(case: str, desk: Path) -> None:
    line, word = DATA[case]
    Path("rows.jsonl").write_text(line, encoding="latin-1")
    refused(f"{INSPECT} tiny", "rows.jsonl line 1", word)


# --- words of the command --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["a\0b", "a\x1b[31mb", "\x9b31m", "\ud800", "\udcff"])
@pytest.mark.parametrize("flag", ["--model", "--dataset", "--output-dir", "--chat-template", "--report-to"])
def test_words_that_no_file_can_be_called_and_no_terminal_should_see(flag: str, word: str, desk: Path) -> None:
    done = lawful(["train-sft", "--model", "tiny", "--dataset", "rows.jsonl", flag, word])
    assert done.code == 2 and repr(word) in done.err and sorted(os.listdir()) == ["model", "rows.jsonl"]


def test_names_too_long_for_the_system(desk: Path) -> None:
    for name in ("x" * 300, "x/" * 3000):
        for command in (f"chat {name}", f"{INSPECT} {name}", f"train-sft --model tiny --output-dir {name}"):
            refused(command, "File name too long", "shorter name")


# --- weights and tokenizers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "file", ["pytorch_model.bin", "model.pt", "adapter_model.bin", "consolidated.00.pth", "model.ckpt"]
)
def test_pickled_weights_are_never_read(file: str, desk: Path) -> None:
    Path("model/model.safetensors").unlink()
    Path("model", file).write_bytes(PICKLE)
    refused("evaluate perplexity --model model --dataset rows.jsonl", "pickle")


def test_pickles_beside_the_weights_are_left_alone(desk: Path) -> None:
    for file in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "tokenizer.pkl", "vocab.pkl"):
        Path("model", file).write_bytes(PICKLE)
    assert lawful(["evaluate", "perplexity", "--model", "model", "--dataset", "rows.jsonl"]).code == 0
    sent = lawful(["push", "model", "me/mine", "--dry-run"]).out
    assert "Not sent: optimizer.pt, pytorch_model.bin, tokenizer.pkl, training_args.bin, vocab.pkl" in " ".join(
        sent.split()
    )
    assert_unharmed()


HEADERS = {
    "a pickle": PICKLE,
    "a header of 2^63 bytes": struct.pack("<Q", 2**63) + b"{}",
    "a header of 90 MB": struct.pack("<Q", 90_000_000) + b"{}",
    "a header that is no JSON": struct.pack("<Q", 4) + b"{{{{",
    "a tensor of 2^60 numbers": b"",
    "nothing": b"",
    "a tensor outside the file": b"",
}


@pytest.mark.parametrize("case", HEADERS)
def test_hostile_safetensors(case: str, desk: Path) -> None:
    content = HEADERS[case]
    if "tensor" in case:
        shape, end = ([2**60], 2**62) if "numbers" in case else ([4], 10**12)
        header = json.dumps({"x": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        content = struct.pack("<Q", len(header)) + header + b"1234"
    Path("model/model.safetensors").write_bytes(content)
    refused("evaluate perplexity --model model --dataset rows.jsonl", "model.safetensors", "damaged")
    refused("push model me/mine --dry-run", "model.safetensors")


SIZES = {
    "vocab_size": 10**9,
    "n_layer": 10**7,
    "num_hidden_layers": 10**7,
    "hidden_size": 10**8,
    "n_embd": 10**8,
    "n_positions": 10**10,
    "intermediate_size": 10**9,
}


def test_a_config_of_a_larger_model_than_the_weights(desk: Path) -> None:
    """Refused before a module of that size is made: this test would not end."""
    original = json.loads(Path("model/config.json").read_text())
    tried = [name for name in SIZES if name in original]
    assert len(tried) >= 3
    for name in tried:
        changed("config.json", **{**original, name: SIZES[name]})
        refused("evaluate perplexity --model model --dataset rows.jsonl", "config.json")


@pytest.mark.parametrize(("positions", "passes"), [(2048, True), (10**10, False)])
def test_positions_that_stand_in_no_file_may_be_more_than_any_side_of_the_weights(
    positions: int, passes: bool, tmp_path: Path
) -> None:
    """GPT-J's are rotations; of a small one with an alphabet of bytes there are more than of anything else."""
    architecture = GPTJConfig(vocab_size=300, n_positions=positions, n_embd=64, n_layer=2, n_head=4, rotary_dim=8)
    save_file({f"layer.{i}": torch.zeros(300, 64) for i in range(2)}, tmp_path / "model.safetensors")
    with nullcontext() if passes else pytest.raises(UserError, match="n_positions"):
        check_sizes("mine", architecture, tmp_path)


def test_an_index_that_leads_out_of_the_folder(desk: Path) -> None:
    shutil.move("model/model.safetensors", "stolen.safetensors")
    for name in ("../stolen.safetensors", str(desk / "stolen.safetensors"), ""):
        Path("model/model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
        refused("evaluate perplexity --model model --dataset rows.jsonl", "index.json")


@pytest.mark.parametrize("case", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_is_not_run(case: str, desk: Path) -> None:
    Path("model/evil.py").write_text("open('pwned', 'w')\nclass Evil: pass\n")
    names = {
        "AutoConfig": "evil.Evil",
        "AutoModelForCausalLM": "evil.Evil",
        "AutoTokenizer": ["evil.Evil", "evil.Evil"],
    }
    changed(case, auto_map=names, **({"model_type": "evil"} if case == "config.json" else {}))
    done = lawful(["evaluate", "perplexity", "--model", "model", "--dataset", "rows.jsonl"])
    assert_unharmed()
    assert done.code == 0 or "--trust-remote-code" in done.err, done
    assert done.code == (case == "config.json")


def test_ids_of_a_billion_in_a_tokenizer(desk: Path) -> None:
    path = Path("model/tokenizer.json")
    original = json.loads(path.read_text())
    for number in (10**9, 2**40, -1):
        content = json.loads(json.dumps(original))
        content["model"]["vocab"][next(iter(content["model"]["vocab"]))] = number
        path.write_text(json.dumps(content))
        refused("evaluate perplexity --model model --dataset rows.jsonl", "tokenizer")
    content = json.loads(json.dumps(original))
    content["added_tokens"].append({**content["added_tokens"][0], "id": 10**9, "content": "<far>"})
    path.write_text(json.dumps(content))
    lawful(["evaluate", "perplexity", "--model", "model", "--dataset", "rows.jsonl"])


@pytest.mark.parametrize(
    "base", ["/etc", "..", "../secret.txt", "https://evil.example/x", "model", "", ESCAPES, 7, None]
)
def test_an_adapter_with_an_odd_base(base: Any, desk: Path) -> None:
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": 1}
    shutil.rmtree("model")
    Path("model").mkdir()
    Path("model/adapter_config.json").write_text(json.dumps(config))
    Path("model/adapter_model.safetensors").write_bytes(PICKLE)
    for command in ("chat model", "convert merge-lora --lora-checkpoint model --output out", f"{INSPECT} model"):
        refused(command, "model")
    assert not Path("out").exists()


# --- templates -------------------------------------------------------------------------------------------------------

TEMPLATES = {
    "attributes of Python": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "globals of Python": ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "unsafe"),
    "a format string": ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
    "a file": ("{% include '/etc/passwd' %}", "loader"),
    "a module": ("{% import 'os' as os %}{{ os.system('touch pwned') }}", "loader"),
    "a long range": ("{% for i in range(1000000000000) %}{% endfor %}", "too big"),
    "a loop in a loop": ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "forever"),
    "a power": ("{{ 9 ** 9 ** 9 }}", "powers"),
    "a terabyte": ("{% set x = 'a' * 10000000000000 %}", "two gigabytes"),
    "what memory might hold": ("{% set n = 99999 %}{% set x = 'a' * n * n %}", "two gigabytes"),
    "no end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "a change of the rows": ("{{ messages.append(1) }}", "unsafe"),
    "escape codes": ("{{ raise_exception('" + ESCAPES + "') }}", "refuses"),
    "two megabytes": ("x" * 2_000_000, "larger than a template"),
    "nested": ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recursion"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_hostile_template(case: str, desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that is named, and as the one that comes with a model."""
    text, word = TEMPLATES[case]
    monkeypatch.setattr(chat_template, "SECONDS", 0.3)
    Path("template.jinja").write_text(text + chat_template.BUILT_IN_TEMPLATE)
    refused(f"{INSPECT} tiny --chat-template template.jinja", word)
    shutil.copyfile("template.jinja", "model/chat_template.jinja")
    refused(f"{INSPECT} model", word)


# --- rewards ---------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "raises": ("raise OSError('no service')", "no service"),
    "leaves": ("raise SystemExit(3)", "SystemExit"),
    "recurses": ("return score(prompt, response)", "RecursionError"),
    "gives NaN": ("return float('nan')", "nan"),
    "gives too much": ("return 10 ** 400", "finite"),
    "gives a text": ("return '1'", "'1'"),
    "gives two numbers": ("import torch; return torch.ones(2)", "finite number"),
    "gives nothing": ("pass", "None"),
    "writes on the terminal": (f"raise ValueError({ESCAPES!r})", "ValueError"),
}
GRPO = (
    "train-grpo --model tiny --dataset tiny-puzzles --max-samples 4 --max-steps 1 --max-new-tokens 4 --output-dir run"
)


@pytest.mark.parametrize("case", FUNCTIONS)
def test_hostile_reward(case: str, desk: Path) -> None:
    from auto_bot_tuner.rewards import rewards_from_names
    from auto_bot_tuner.rewards.source import Attempt
    from auto_bot_tuner.utils.errors import UserError

    body, word = FUNCTIONS[case]
    Path("mine.py").write_text(f"def score(prompt, response):\n    {body}\n")
    reward = rewards_from_names(["mine.py:score"])
    with pytest.raises(UserError, match=r"mine\.py") as caught:
        reward([Attempt([{"role": "user", "content": "?"}], "!", True, {}, [1], [2])])
    assert word in str(caught.value)


def test_a_reward_that_python_cannot_look_into(desk: Path) -> None:
    Path("mine.py").write_text("score = max\n")
    refused(f"{GRPO} --reward mine.py:score --dry-run", "mine.py", "wrap it", code=2)


def test_a_pattern_that_backtracks_for_ever(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from auto_bot_tuner.rewards.source import Attempt
    from auto_bot_tuner.utils.errors import UserError

    monkeypatch.setattr(verifiers, "REGEX_SECONDS", 0.3)
    reward = verifiers.verifier("regex:(a+)+$")
    with pytest.raises(UserError, match="repeat inside a repeat"):
        reward([Attempt([], "a" * 40 + "b", True, {}, [], [])])
    assert reward([Attempt([], "aaa", True, {}, [], [])]) == [1.0]


# --- what other programs read: pages, the terminal, the hub ----------------------------------------------------------

MARKUP = "</script></style><script>alert(1)</script><svg onload=alert(1)><img src=x onerror=alert(1)>'\"&{{7*7}}${1}"
NASTY = MARKUP + ESCAPES


def hostile_run(folder: str) -> None:
    """A run in which every text and every name is somebody's idea of a joke."""
    run = Path(folder)
    run.mkdir(parents=True)
    steps = [{"step": i, "loss": 1.0 / i, "eval_loss": 1.0, NASTY: 0.5, f"reward_{NASTY}": i} for i in (1, 2)]
    view = {"title": NASTY, "prompt": NASTY, "tokens": [NASTY, "b"], "trained": [True, False]}
    lines = {
        "metrics.jsonl": [*steps, {"step": NASTY}, {"step": 1, "loss": NASTY}],
        "samples.jsonl": [{"step": 1, "prompt": NASTY, "response": NASTY, "ended": True, "score": NASTY}],
        "notes.jsonl": [{"step": 1, "text": NASTY, "note": NASTY, "level": NASTY, "advice": NASTY}],
        "token_views.jsonl": [{**view, "step": 1, "series": {NASTY: [0.1, 0.2]}}],
    }
    for name, rows in lines.items():
        (run / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = {
        "method": NASTY,
        "status": NASTY,
        "step": 2,
        "total_steps": 2,
        "model": {"name": NASTY, "architecture": NASTY},
        "lineage": [{"name": "../../secret.txt", "method": NASTY}, {"name": NASTY, "method": NASTY}],
        "data": {"name": NASTY, "summary": NASTY},
        "versions": {NASTY: NASTY},
        NASTY: NASTY,
    }
    (run / "run.json").write_text(json.dumps(record))
    plain = json.dumps(MARKUP)
    (run / "config.yaml").write_text(
        f"method: sft\nmodel: {{name: {plain}}}\ndataset: {{name: {plain}, system_prompt: {plain}}}\n"
        f"training: {{output_dir: {plain}, report_to: [{plain}]}}\n"
    )


def assert_inert(page: str) -> None:
    """No tag and no attribute of theirs, and nothing that a terminal or a reader's eye would obey."""
    assert "alert(1)" in page  # it is shown
    for tag in ("<script>alert", "<svg onload", "<img src=x", "</style><script"):
        assert tag not in page, page[page.index(tag) - 200 :][:400]
    assert not re.search(r"""(href|src)=["']?(javascript:|\.\./\.\./secret)""", page)
    assert not set(page) & set("\x1b\x07\x9b\u202e")


def test_pages_show_hostile_texts_and_run_none(desk: Path) -> None:
    for name in ("one", "two"):
        hostile_run(f"runs/{name}")
    assert lawful(["report", "runs/one"]).code == 0
    assert_inert(Path("runs/one/report.html").read_text())
    assert lawful(["report", "runs/one", "runs/two", "--output", "both.html"]).code == 0
    assert_inert(Path("both.html").read_text())
    assert_unharmed()


def test_the_menu_shows_hostile_names_as_text(desk: Path) -> None:
    from src.menu import home, stock
    from src.menu.screen import table

    hostile_run(f"runs/a{ESCAPES}b")
    Path(f"mine{ESCAPES}.jsonl").write_text('{"text": "a"}\n')
    found = stock.look_around()
    assert len(found.runs) == 1
    entries = [
        *stock.models(found, "any"),
        *stock.data(found, "sft"),
        *((run.method, stock.told(run)) for run in found.runs),
    ]
    shown = home.picture(found, 30).plain + "".join(table(entries))
    assert "mine␛" in shown and not set(shown) & set("\x1b\x07\x9b\u202e")


def test_a_file_with_a_hostile_name_is_named_as_text(desk: Path) -> None:
    Path(f"rows{ESCAPES}").mkdir()
    done = refused(f"{INSPECT} ./row/model", "␛")  # the neighbours are listed
    assert "rows" in done.err


def test_links_out_of_a_checkpoint_are_not_sent(desk: Path) -> None:
    """A stranger's checkpoint with a link to your key would publish the key."""
    for name in ("README.md", "notes.json"):
        path = Path("model", name)
        path.unlink(missing_ok=True)
        path.symlink_to("../../secret.txt")
        done = lawful(["push", "model", "me/mine", "--dry-run"])
        assert "precious" not in done.out
        if name == "README.md":
            refused("push model me/mine --dry-run", "README.md", "link", "secret.txt")
        path.unlink()


@pytest.mark.parametrize("name", ["../out", "a/b", "..", ".hidden", "a\\b", "a\nb", "a\u202eb", "$(touch pwned)\n"])
def test_an_export_stays_in_its_folder(name: str, desk: Path) -> None:
    words = ["convert", "export", "--checkpoint", "tiny", "--format", "gguf", "--output", "out", "--name", name]
    done = lawful(words)
    assert done.code == 2 and "--name" in done.err and not Path("out").exists()
    assert_unharmed()


def test_no_shell_script_carries_names_of_files(desk: Path) -> None:
    Path("$(touch pwned)").touch()
    Path("`touch pwned`.yaml").touch()
    for shell in ("bash", "zsh", "fish"):
        assert "touch pwned" not in lawful(["completion", shell]).out


# --- a hub that answers nonsense -------------------------------------------------------------------------------------

ANSWERS = {
    "a page": b"<html><script>alert(1)</script>",
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "numbers": b'{"siblings": 7, "sha": 9, "id": [], "lastModified": "yesterday"}',
    "odd names": json.dumps(
        {"id": "a/b", "sha": "0" * 40, "siblings": [{"rfilename": n} for n in ("../../evil.json", "/etc/x", "\x1b[2J")]}
    ).encode(),
    "deep": b"[" * 20_000,
    "no text": b"\xff\xfe\x00\x80",
}


@pytest.mark.long  # a process that imports everything
def test_a_hub_that_answers_nonsense(desk: Path, tmp_path: Path) -> None:
    """Each command says in one line that this is no hub; the name asked for says which answer is given."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from tests.hub_commands import run_commands

    class Nonsense(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            named = re.search(r"thing(\d)", self.path)
            content = list(ANSWERS.values())[int(named[1]) if named else 0]
            self.send_response(200)
            for name, value in (("ETag", '"x"'), ("X-Repo-Commit", "0" * 40), ("Content-Length", len(content))):
                self.send_header(name, str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_HEAD = do_POST = do_PUT = do_GET

        def log_message(self, *_: Any) -> None:
            """Silence."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Nonsense)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = [
        f"{command} someone/thing{number}"
        for number in range(len(ANSWERS))
        for command in ("download model", "download dataset", "chat", "inspect --model tiny --dataset")
    ]
    asked.append("HF_TOKEN=hf_x push model me/mine --private")
    try:
        endpoint = f"http://127.0.0.1:{server.server_port}"
        done = run_commands(*asked, endpoint=endpoint, home=tmp_path / "home", cwd=desk)
        assert len(done) == len(asked)
        for result in done:
            result.failed_with()
            assert "\x1b" not in result.err and len(result.err) < 1100
    finally:
        server.shutdown()
        server.server_close()
