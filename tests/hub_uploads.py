"""The stand-in hub's other half: it takes what is uploaded.

GET  /api/whoami-v2                          whose token this is, and what it may
POST /api/repos/create                       a repository, public or private
POST /api/models/{id}/preupload/{rev}        which files go by git LFS
POST /{id}.git/info/lfs/objects/batch        where they go; then PUT /lfs/{hash}
POST /api/models/{id}/commit/{rev}           small files in JSON lines, large ones by their hash, deletions
POST /api/validate-yaml                      the card's front matter
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.hub_standin import Hub


class Uploads:
    """What a request handler needs to take uploads; `hub`, `send` and `send_json` are the handler's."""

    hub: Hub
    headers: Any
    rfile: Any
    path: str

    def send(self, status: int, content: bytes = b"", headers: dict[str, str] | None = None) -> None: ...

    def send_json(self, content: Any) -> None: ...

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return bytes(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def user(self) -> str | None:
        return self.hub.users.get(self.token())

    def takes(self, path: str, body: bytes) -> bool:
        """Answer a request that is about an upload; False where it is about none."""
        if path == "/api/whoami-v2":
            self.who_am_i()
        elif path == "/api/validate-yaml":
            self.send_json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self.send_json({"transfer": "basic", "objects": [self.large(o) for o in json.loads(body)["objects"]]})
        elif modes := re.fullmatch(r"/api/models/(.+?)/(preupload|commit)/[^/]+", path):
            self.preupload(json.loads(body)) if modes[2] == "preupload" else self.commit(modes[1], body)
        else:
            return False
        return True

    def who_am_i(self) -> None:
        if self.user() is None:
            return self.send(401, b'{"error": "Invalid credentials"}')
        role = "read" if "read" in self.token() else "write"
        self.send_json({"name": self.user(), "type": "user", "orgs": [], "auth": {"accessToken": {"role": role}}})

    def create(self, asked: dict[str, Any]) -> None:
        from tests.hub_standin import Repository

        owner = asked.get("organization") or self.user()
        name = f"{owner}/{asked['name']}"
        if self.user() != owner or "read" in self.token():
            message = f"You don't have the rights to create a model under the namespace {owner}"
            return self.send(403, json.dumps({"error": message}).encode(), {"X-Error-Message": message})
        status = 409 if ("models", name) in self.hub.repositories else 200
        if status == 200:
            folder = self.hub.folder / name
            folder.mkdir(parents=True)
            is_private = asked.get("visibility") == "private" or asked.get("private") is True
            self.hub.add(Repository("models", name, folder, is_private=is_private))
        self.send(status, json.dumps({"url": f"{self.hub.url}/{name}", "name": name}).encode())

    def preupload(self, asked: dict[str, Any]) -> None:
        def mode(file: dict[str, Any]) -> dict[str, Any]:
            how = "lfs" if file["path"].endswith(".safetensors") else "regular"
            return {"path": file["path"], "uploadMode": how, "shouldIgnore": False, "oid": None}

        self.send_json({"files": [mode(file) for file in asked["files"]]})

    def large(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {**asked, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}", "header": {}}}}

    def receive_large(self, body: bytes) -> None:
        digest = self.path.rpartition("/")[2]
        sound = hashlib.sha256(body).hexdigest() == digest
        if sound:
            self.hub.uploaded[digest] = body
        self.send(200 if sound else 400)

    def commit(self, name: str, body: bytes) -> None:
        repository = self.hub.repositories["models", name]
        for entry in map(json.loads, body.splitlines()):
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
                continue
            path = repository.folder / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if entry["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif entry["key"] == "lfsFile":
                path.write_bytes(self.hub.uploaded[value["oid"]])
            else:
                path.unlink()
        oid = repository.commit
        self.send_json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{name}/commit/{oid}"})
