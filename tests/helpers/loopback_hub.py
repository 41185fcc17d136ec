"""A small model hub on loopback, and the environment of a process that asks it."""

import contextlib
import hashlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypeVar

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """As much of the hub as a download asks for."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def fetched(self) -> set[str]:
        """Paths of the files that were downloaded."""
        paths = [p for method, p in self.requests if method == "GET" and "/resolve/" in p]
        return {path.split(f"/{COMMIT}/")[1] for path in paths}


AnyHub = TypeVar("AnyHub", bound=Hub)


class Handler(BaseHTTPRequestHandler):
    server: Hub  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path))
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        if name == "org/broken":
            return self.send(500, b"{}")
        if name == "org/gated":
            return self.send(403, b"{}", {"X-Error-Code": "GatedRepo"})
        if name == "org/secret":
            message = {"X-Error-Message": "Invalid credentials in Authorization header"}
            return self.send(401, b"{}", message)
        if name not in self.server.models:
            return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = self.server.models[name]
        if rest[0] == "revision":
            if rest[1] not in ("main", COMMIT):
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            return self.send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())
        if rest[0] == "tree":
            tree = [
                {
                    "type": "file",
                    "path": p,
                    "size": len(data),
                    "oid": hashlib.sha1(data).hexdigest(),
                }
                for p, data in files.items()
            ]
            return self.send(200, json.dumps(tree).encode())
        data = files["/".join(rest[2:])]
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        return self.send(200, data, headers)

    def send(self, status: int, data: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def running(server: AnyHub) -> Iterator[AnyHub]:
    """A hub that answers."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def serving(handler: type[Handler]) -> contextlib.AbstractContextManager[Hub]:
    """A hub on loopback, answered by `handler`."""
    return running(Hub(handler))


def environment(home: Path, endpoint: str, **changes: str) -> dict[str, str]:
    ours = ("HF_", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
    kept = {k: v for k, v in os.environ.items() if not k.upper().startswith(ours)}
    return kept | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **changes,
    }


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
