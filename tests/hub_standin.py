"""A small stand-in for the model hub: its file protocol, over local folders, on 127.0.0.1.

It answers what huggingface_hub, transformers and datasets ask when `HF_ENDPOINT` names it:

    GET  /api/{models|datasets}/{id}[/revision/{rev}]      commit, files, whether it is gated
    GET  /api/{models|datasets}/{id}/tree/{rev}[/path]     files with sizes and hashes
    POST /api/{models|datasets}/{id}/paths-info/{rev}      the same for given paths
    HEAD, GET  [/datasets]/{id}/resolve/{rev}/{file}       a small file itself; a large one by a redirect, as from a CDN
    GET  /api/{models|datasets}?search=…&author=…          names that hold a text, or belong to somebody

with the hub's manners: `gpt2` redirects to openai-community/gpt2, a gated repository lists its files and then
refuses them, a private one is not there for strangers, a download that was cut goes on by Range. What is uploaded is
taken by `hub_uploads.py`. By hand, in two terminals:

    python -m tests.hub_standin --port 8765
    HF_ENDPOINT=http://127.0.0.1:8765 HF_HOME=$(mktemp -d) python main.py train-sft --preset quick
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_uploads import Uploads
from tests.models import gpt2_tokenizer, tiny_model

LARGE = 1_000_000  # bytes from which the hub sends a file from elsewhere (git LFS)
WORDS = ("red", "green", "blue", "old", "new", "small", "large", "round", "quiet", "warm", "cold", "bright")


HH_SIDES = {"chosen": "It reminds me of the sea.", "rejected": "I will not say."}


@dataclass
class Repository:
    """One model or data set: a folder, seen as one commit."""

    kind: str  # models or datasets
    name: str
    folder: Path
    is_gated: bool = False
    is_private: bool = False

    def files(self) -> dict[str, Path]:
        return {str(p.relative_to(self.folder)): p for p in sorted(self.folder.rglob("*")) if p.is_file()}

    @property
    def commit(self) -> str:
        content = [self.name, *(f"{name} {path.stat().st_mtime_ns}" for name, path in self.files().items())]
        return sha1("\n".join(content))

    def info(self) -> dict[str, Any]:
        return {
            "_id": self.commit[:24],
            "id": self.name,
            "modelId": self.name,
            "sha": self.commit,
            "private": self.is_private,
            "gated": "manual" if self.is_gated else False,
            "disabled": False,
            "downloads": 1,
            "likes": 0,
            "tags": [],
            "createdAt": "2022-03-02T23:29:04.000Z",
            "lastModified": "2024-02-19T10:57:45.000Z",
            "siblings": [{"rfilename": name, "size": path.stat().st_size} for name, path in self.files().items()],
        }

    def tree(self, below: str = "", recursive: bool = True) -> list[dict[str, Any]]:
        prefix = f"{below}/" if below else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, path in self.files().items():
            if not name.startswith(prefix):
                continue
            parts = name.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                if recursive or depth == 1:
                    directory = prefix + "/".join(parts[:depth])
                    entries[directory] = {"type": "directory", "path": directory, "oid": sha1(directory), "size": 0}
            if recursive or len(parts) == 1:
                entries[name] = self.entry(name, path)
        return list(entries.values())

    def entry(self, name: str, path: Path) -> dict[str, Any]:
        size, digest = path.stat().st_size, sha256(path)
        large = {"lfs": {"oid": digest, "size": size, "pointerSize": 134}} if size >= LARGE else {}
        return {"type": "file", "path": name, "size": size, "oid": digest[:40], **large}


def sha1(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Hub:
    """The repositories by (kind, name), names that moved, and what was asked."""

    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    url: str = ""
    # Who may upload: token → user; a token whose name begins with "read" may only read.
    users: dict[str, str] = field(default_factory=lambda: {"hf_write": "me", "hf_read": "me"})
    uploaded: dict[str, bytes] = field(default_factory=dict)  # large files by their hash, until a commit names them
    messages: list[str] = field(default_factory=list)  # of the commits
    folder: Path = Path()  # for repositories that are made here

    def add(self, repository: Repository) -> None:
        self.repositories[repository.kind, repository.name] = repository


class Handler(Uploads, BaseHTTPRequestHandler):
    """Answers one request; `hub` is set on the subclass that `serve` makes."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer(self.read_body())

    def do_PUT(self) -> None:
        self.receive_large(self.read_body())

    def log_message(self, format: str, *args: Any) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def answer(self, body: bytes = b"") -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if cdn := re.fullmatch(r"/cdn/(models|datasets)/(.+)/([0-9a-f]{40})/(.+)", path):
            return self.send_file(self.hub.repositories[cdn[1], cdn[2]].folder / cdn[4])
        if self.takes(path, body):
            return None
        if path in ("/", "/api/models", "/api/datasets"):
            return self.send_json(self.found(path.rpartition("/")[2], url.query))
        if api := re.fullmatch(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?", path):
            repository = self.find(api[1], api[2])
            return self.send_api(repository, api[3], api[5] or "", url.query, body) if repository else None
        if file := re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path):
            repository = self.find("datasets" if file[1] else "models", file[2])
            return self.send_resolved(repository, file[3], file[4]) if repository else None
        return self.send(404, b"not found")

    def find(self, kind: str, name: str) -> Repository | None:
        """The repository, or None after having answered with where it went or that it is not there."""
        if name in self.hub.moved:
            location = self.path.replace(f"/{name}", f"/{self.hub.moved[name]}", 1)
            self.send(307, headers={"Location": location})
            return None
        repository = self.hub.repositories.get((kind, name))
        if repository is None or (repository.is_private and self.user() != name.split("/")[0]):
            # To a stranger the hub says "unauthorized" of both: what is private may not be told from what is not.
            status = 404 if self.user() else 401
            self.send(status, headers={"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"})
            return None
        return repository

    def found(self, kind: str, query: str) -> list[dict[str, Any]]:
        """The hub's search: names that hold the words, whoever's; or all of an author."""
        asked = {name: values[0].lower() for name, values in parse_qs(query).items()}
        return [
            repository.info()
            for (own_kind, name), repository in self.hub.repositories.items()
            if own_kind == kind
            and not repository.is_private
            and asked.get("search", "") in name.lower()
            and name.lower().startswith(asked.get("author", ""))
        ]

    def send_api(self, repository: Repository, what: str | None, below: str, query: str, body: bytes) -> None:
        if what == "tree":
            recursive = parse_qs(query).get("recursive", ["false"])[0].lower() in ("true", "1")
            return self.send_json(repository.tree(below, recursive))
        if what == "paths-info":
            asked = parse_qs(body.decode())["paths"] if not body.startswith(b"{") else json.loads(body)["paths"]
            return self.send_json([entry for entry in repository.tree() if entry["path"] in asked])
        return self.send_json(repository.info())

    def send_resolved(self, repository: Repository, revision: str, name: str) -> None:
        commit = {"X-Repo-Commit": repository.commit}
        path = repository.files().get(name)
        if repository.is_gated:
            message = f"Access to model {repository.name} is restricted. You must be authenticated to access it."
            self.send(401, message.encode(), {**commit, "X-Error-Code": "GatedRepo", "X-Error-Message": message})
        elif revision not in ("main", repository.commit):
            self.send(404, headers={"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
        elif path is None:
            self.send(404, headers={**commit, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif path.stat().st_size >= LARGE:
            # From another host, as a CDN is: redirects within the hub are followed while asking for a file's hash.
            host = self.hub.url.replace("127.0.0.1", "localhost")
            location = f"{host}/cdn/{repository.kind}/{repository.name}/{repository.commit}/{name}"
            linked = {"X-Linked-ETag": f'"{sha256(path)}"', "X-Linked-Size": str(path.stat().st_size)}
            self.send(302, headers={**commit, **linked, "Location": location})
        else:
            self.send_file(path, {**commit, "ETag": f'"{sha256(path)[:40]}"'})

    def send_file(self, path: Path, headers: dict[str, str] | None = None) -> None:
        content, status, headers = path.read_bytes(), 200, {"Accept-Ranges": "bytes", **(headers or {})}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
            content, status = content[first : last + 1], 206
        self.send(status, content, headers)

    def send_json(self, content: Any) -> None:
        self.send(200, json.dumps(content).encode(), {"Content-Type": "application/json; charset=utf-8"})

    def send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve(hub: Hub, port: int = 0) -> Iterator[Hub]:
    """The hub on 127.0.0.1, in a thread, while the block runs; port 0 takes a free one."""
    server = ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- what it serves --------------------------------------------------------------------------------------------------


def make_hub(folder: Path) -> Hub:
    """`gpt2`, `yahma/alpaca-cleaned`, `Anthropic/hh-rlhf`, and models that are gated, private, pickled, or code."""
    hub = Hub(moved={"gpt2": "openai-community/gpt2"}, folder=folder / "uploads")
    hub.add(Repository("models", "openai-community/gpt2", make_gpt2(folder / "gpt2")))
    hub.add(Repository("models", "strict/gated-model", folder / "gpt2", is_gated=True))
    hub.add(Repository("models", "me/secret-model", folder / "gpt2", is_private=True))
    hub.add(Repository("models", "old/pickled-model", small(folder / "pickled", "config.json", "pytorch_model.bin")))
    hub.add(Repository("models", "strange/own-code", make_own_code(folder / "code", folder / "gpt2")))
    hub.add(Repository("datasets", "yahma/alpaca-cleaned", make_alpaca(folder / "alpaca")))
    hub.add(Repository("datasets", "Anthropic/hh-rlhf", make_hh(folder / "hh")))
    hub.add(Repository("datasets", "strict/gated-rows", folder / "alpaca", is_gated=True))
    hub.add(Repository("datasets", "school/maths", make_maths(folder / "maths")))
    hub.add(Repository("datasets", "old/pickled-rows", small(folder / "pickled-rows", "README.md", "train.pkl")))
    return hub


def make_gpt2(folder: Path) -> Path:
    """The file layout of the hub's gpt2 with a small random network in it: tensor names without "transformer.",
    causal masks among the weights, and the same weights once more in formats that must not be fetched."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    model = tiny_model("gpt2", n_positions=1024)
    model.save_pretrained(str(folder))
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in model.transformer.state_dict().items()}
    mask = torch.ones(1024, 1024, dtype=torch.bool).tril()[None, None].float()
    tensors |= {f"h.{layer}.attn.bias": mask.clone() for layer in range(2)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    backend = gpt2_tokenizer().backend_tokenizer
    backend.save(str(folder / "tokenizer.json"))
    backend.model.save(str(folder))  # vocab.json, merges.txt
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# GPT-2\n")
    (folder / "onnx").mkdir()
    for name in ("pytorch_model.bin", "tf_model.h5", "64.tflite", "onnx/decoder_model.onnx", "onnx/config.json"):
        (folder / name).write_text("another format")
    return folder


def small(folder: Path, *names: str) -> Path:
    """Files that only have a name."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text("{}")
    return folder


def make_own_code(folder: Path, gpt2: Path) -> Path:
    """A model of an architecture of its own, whose code would leave a trace if it ran."""
    folder.mkdir(parents=True)
    for path in gpt2.iterdir():
        if path.suffix in (".json", ".safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    config = {"model_type": "strange", "architectures": ["StrangeForCausalLM"]}
    code = {"AutoConfig": "configuration_strange.StrangeConfig", "AutoModelForCausalLM": "modeling_strange.Strange"}
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": code}))
    for name in ("configuration_strange.py", "modeling_strange.py"):
        (folder / name).write_text("import os, pathlib\npathlib.Path(os.environ['TRACE']).touch()\n")
    return folder


def make_alpaca(folder: Path, rows: int = 96) -> Path:
    """yahma/alpaca-cleaned in small: one JSON list of instruction, input, output."""
    folder.mkdir(parents=True)
    first = [(a, b) for a in WORDS for b in WORDS if a != b][:rows]
    table = [
        {
            "instruction": f"Which of the two words comes {'last' if i % 2 else 'first'} in the alphabet?",
            "input": "" if i % 3 == 0 else f"{a}, {b}",
            "output": (max if i % 2 else min)(a, b),
        }
        for i, (a, b) in enumerate(first)
    ]
    (folder / "alpaca_data_cleaned.json").write_text(json.dumps(table, indent=1))
    (folder / "README.md").write_text("---\nlicense: cc-by-4.0\nlanguage: [en]\n---\n# Alpaca, cleaned\n")
    return folder


def make_maths(folder: Path) -> Path:
    """openai/gsm8k in small: two subsets, so one has to be chosen."""
    parts = "".join(f"- config_name: {name}\n  data_files: {name}/*.jsonl\n" for name in ("main", "socratic"))
    for name in ("main", "socratic"):
        rows = [{"question": f"What is {i} plus 1 ({name})?", "answer": f"#### {i + 1}"} for i in range(8)]
        (folder / name).mkdir(parents=True)
        (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "README.md").write_text(f"---\nconfigs:\n{parts}---\n# Maths\n")
    return folder


def make_hh(folder: Path) -> Path:
    """Anthropic/hh-rlhf in small: several folders of gzipped JSON lines by split, and one that belongs to no split."""
    import gzip

    for part in ("harmless-base", "helpful-base"):
        for split, count in (("train", 40), ("test", 8)):
            rows = []
            for i in range(count):
                asked = f"Do you like the colour {WORDS[i % 3]}, {part} {split} {i}?"
                before = f"\n\nHuman: {asked}\n\nAssistant: I do.\n\nHuman: Why?"
                rows.append({side: f"{before}\n\nAssistant: {words}" for side, words in HH_SIDES.items()})
            path = folder / part / f"{split}.jsonl.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode(), mtime=0))
    attempts = folder / "red-team-attempts" / "red_team_attempts.jsonl.gz"
    attempts.parent.mkdir()
    attempts.write_bytes(gzip.compress(b'{"transcript": "of another shape"}\n', mtime=0))
    (folder / "README.md").write_text("---\nlicense: mit\ntags: [human-feedback]\n---\n# HH-RLHF\n")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve a stand-in for the model hub on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=8765)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as folder, serve(make_hub(Path(folder)), port) as hub:
        print(f"export HF_ENDPOINT={hub.url} HF_HOME=$(mktemp -d)   # Ctrl-C ends it", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print(f"{len(hub.requests)} requests answered")


if __name__ == "__main__":
    main()
