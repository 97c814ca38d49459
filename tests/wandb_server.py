"""As much of W&B's server as ``wandb sync`` needs, on this machine."""

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


class Server(ThreadingHTTPServer):
    """Keeps what it is sent.

    Attributes:
        rows: The history of the run, by place.
        summary: Its values.
        config: Its config.
        files: Name and size of each file that was uploaded.
        aliases: Those of its artifacts.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.rows: dict[int, dict[str, Any]] = {}
        self.summary: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.files: dict[str, int] = {}
        self.aliases: list[str] = []

    def stream(self, files: dict[str, Any]) -> None:
        """Take lines of the run's files, each of which goes to its place."""
        for name, lines in files.items():
            for place, line in enumerate(lines["content"], lines["offset"]):
                if name == "wandb-history.jsonl":
                    self.rows[place] = json.loads(line)
                elif name == "wandb-summary.json":
                    self.summary = json.loads(line)

    def answer(self, operation: str, given: dict[str, Any]) -> Any:
        """Answer what is asked by GraphQL."""
        place = {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}}
        if operation == "RunResumeStatus":
            return {"model": {**place, "bucket": self._run() if self.config else None}}
        if operation == "UpsertBucket":
            self.config |= json.loads(given.get("config") or "{}")
            return {"upsertBucket": {"bucket": {**self._run(), "project": place}}}
        if operation == "CreateRunFiles":
            files = [{"name": name, "uploadUrl": self._place(name)} for name in given["files"]]
            return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
        if operation == "CreateArtifact":
            self.aliases += [alias["alias"] for alias in given["input"]["aliases"]]
            artifact = {"id": "a", "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
            return {"createArtifact": {"artifact": artifact}}
        if operation == "CreateArtifactManifest":
            file = self._file("manifest")
            return {"createArtifactManifest": {"artifactManifest": {"id": "m", "file": file}}}
        if operation == "CreateArtifactFiles":
            names = [file["name"] for file in given["input"]["artifactFiles"]]
            edges = [{"node": {**self._file(name), "artifact": {"id": "a"}}} for name in names]
            return {"createArtifactFiles": {"files": {"edges": edges}}}
        if operation == "CommitArtifact":
            return {"commitArtifact": {"artifact": {"id": "a", "digest": "d"}}}
        if operation == "Viewer":
            return {"viewer": {"id": "u", "entity": "me", "flags": "{}", "teams": {"edges": []}}}
        return {}

    def _run(self) -> dict[str, Any]:
        last = json.dumps(self.rows[max(self.rows)]) if self.rows else "{}"
        return {
            **{"id": "r", "name": "r", "displayName": "r", "tags": [], "notes": ""},
            "summaryMetrics": json.dumps(self.summary),
            "config": json.dumps(self.config),
            "wandbConfig": '{"t": 1}',
            "historyTail": json.dumps([last]),
            "eventsTail": "[]",
            **{"historyLineCount": len(self.rows), "eventsLineCount": 0, "logLineCount": 0},
        }

    def _place(self, name: str) -> str:
        return f"{self.url}/upload/{name}"

    def _file(self, name: str) -> dict[str, Any]:
        place = {"uploadUrl": self._place(name), "uploadHeaders": [], "storagePath": name}
        return {"id": name, "name": name, "displayName": name, **place}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def do_PUT(self) -> None:
        self.server.files[self.path.removeprefix("/upload/")] = len(self._body())
        self._reply({})

    def do_POST(self) -> None:
        body = self._body()
        if self.path.endswith("file_stream"):
            self.server.stream(json.loads(body).get("files") or {})
            self._reply({"limits": {}})
        elif not self.path.endswith("graphql"):  # telemetry
            self._reply({})
        else:
            sent = json.loads(body)
            operation = re.search(r"(?:query|mutation)\s+(\w+)", sent["query"])
            name = operation[1] if operation else ""
            self._reply({"data": self.server.answer(name, sent.get("variables") or {})})

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _reply(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server while the block lasts."""
    with Server() as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
