"""What fewer bits cost a model, as docs/export.md shows it: `python -m tests.record_rounding MODEL`.

Each type is written as GGUF, read back by transformers, and measured on held-out answers of the bundled world.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tempfile
from pathlib import Path

DTYPES = ("float32", "float16", "bfloat16", "q8_0")


def ran(*words: str) -> str:
    """What a command of main.py prints; lines that it wrapped are joined."""
    import main

    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main.main(list(words)) == 0, words
    return " ".join(out.getvalue().split())


def measured(model: str, dtype: str, folder: Path) -> str:
    from transformers import AutoConfig, AutoModelForCausalLM

    from auto_bot_tuner.utils.model_loading import load_model_and_tokenizer

    exported, back = folder / dtype, folder / f"{dtype}-back"
    said = ran("convert", "export", "--checkpoint", model, "--format", "gguf", "--dtype", dtype, "--output",
               str(exported), "--name", "m")  # fmt: skip
    file = exported / "m.gguf"
    config = AutoConfig.from_pretrained(model)
    weights = AutoModelForCausalLM.from_pretrained(exported, gguf_file=file.name, config=config).state_dict()
    plain = AutoModelForCausalLM.from_config(config)
    plain.load_state_dict(weights)
    plain.save_pretrained(back)
    load_model_and_tokenizer(model, "cpu")[1].save_pretrained(back)
    scored = ran("evaluate", "perplexity", "--model", str(back), "--dataset", "tiny-instructions",
                 "--max-samples", "400", "--json", str(folder / "perplexity.json"))  # fmt: skip
    moved = re.search(r"moves the logits by at most (\S+)", said)
    numbers = re.findall(r'"perplexity": ([\d.]+)', (folder / "perplexity.json").read_text())
    assert scored and numbers
    size = f"{file.stat().st_size / 2**20:.1f} MiB"
    return f"{dtype:9} {size:>9} {float(moved[1]) if moved else 0:16.3f} {float(numbers[0]):11.4f}"


def record() -> None:
    import src  # noqa: F401 - the doorway

    print("dtype          file   largest change   perplexity of 400 answers")
    with tempfile.TemporaryDirectory() as folder:
        for dtype in DTYPES:
            print(measured(sys.argv[1], dtype, Path(folder)), flush=True)


if __name__ == "__main__":
    record()
