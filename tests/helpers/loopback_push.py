"""A hub on loopback that also takes uploads: repositories with commits, branches and LFS."""

import base64
import dataclasses
import hashlib
import json
import threading
from typing import Any

from loopback_hub import Handler, Hub

TOKEN, READER = "hf_writes", "hf_reads"
"""A token that may write everywhere, and one that may not."""


@dataclasses.dataclass
class Repository:
    """Files by commit; the commit that each branch is at."""

    private: bool
    commits: dict[str, dict[str, bytes]]
    branches: dict[str, str]
    large: set[str] = dataclasses.field(default_factory=set)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.branches["main"]]

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        names = b"".join(name.encode() + files[name] for name in sorted(files))
        oid = hashlib.sha1(names + str(len(self.commits)).encode()).hexdigest()
        self.commits[oid] = files
        self.branches[branch] = oid
        return oid


class PushHub(Hub):
    """What the handler below keeps."""

    def __init__(self, handler: type["PushHandler"]) -> None:
        super().__init__(handler)
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.lfs_status = 200
        self.card_errors: list[str] = []
        self.commits_meanwhile = 0
        self.upload_begun, self.upload_may_end = threading.Event(), threading.Event()
        self.upload_may_end.set()

    def add(self, name: str, files: dict[str, bytes], *, private: bool = False) -> Repository:
        """A repository with one commit."""
        self.repositories[name] = Repository(private, {}, {})
        self.repositories[name].commit("main", files)
        return self.repositories[name]


class PushHandler(Handler):
    server: PushHub  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def answer(self) -> None:
        path = self.path.split("?")[0]
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self.server.repositories.get(name)
        if repository is None:
            return super().answer()
        self.server.requests.append((self.command, path))
        if rest and rest[0] in ("revision", "tree", "resolve"):
            wanted = rest[1].replace("%2F", "/")
            oid = repository.branches.get(wanted, wanted)
            if oid not in repository.commits:
                return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            oid = repository.branches["main"]
        files = repository.commits[oid]
        if rest and rest[0] == "tree":
            rows = [self.entry(repository, file, data) for file, data in files.items()]
            return self.reply(rows)
        if rest and rest[0] == "resolve":
            data = files.get("/".join(rest[2:]))
            if data is None:
                return self.send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": oid}
            return self.send(200, data, headers)
        return self.reply({"id": name, "sha": oid, "private": repository.private, "siblings": []})

    def entry(self, repository: Repository, file: str, data: bytes) -> dict[str, Any]:
        row = {"type": "file", "path": file, "size": len(data), "oid": git_digest(data)}
        if file in repository.large:
            oid = hashlib.sha256(data).hexdigest()
            row["lfs"] = {"oid": oid, "size": len(data), "pointerSize": 130}
        return row

    def take(self) -> None:
        """A request that changes something, by a token that may."""
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path.startswith("/lfs/"):
            return self.take_blob(path.removeprefix("/lfs/"), body)
        if path == "/api/validate-yaml":
            errors = [{"message": message} for message in self.server.card_errors]
            return self.reply({"errors": errors, "warnings": []}, 400 if errors else 200)
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token not in (TOKEN, READER):
            message = {"X-Error-Message": "Invalid username or password."}
            return self.send(401, b"{}", message)
        if token == READER:
            message = {"X-Error-Message": "You have read access, not the required write access"}
            return self.send(403, b"{}", message)
        parts = path.removeprefix("/api/models").strip("/").split("/")
        name, rest = "/".join(parts[:2]).removesuffix(".git"), parts[2:]
        match rest:
            case ["create"]:  # /api/repos/create
                return self.create(json.loads(body))
            case ["branch", branch]:
                return self.branch(self.server.repositories[name], branch)
            case ["preupload", branch]:
                return self.preupload(self.server.repositories[name], branch, json.loads(body))
            case ["info", "lfs", "objects", "batch"]:
                return self.batch(json.loads(body))
            case ["commit", branch]:
                return self.commit(name, branch, body)
            case _:
                return self.send(404, b"{}")

    def branch(self, repository: Repository, name: str) -> None:
        status = 409 if name in repository.branches else 200
        repository.branches.setdefault(name, repository.branches["main"])
        self.reply({}, status)

    def create(self, wanted: dict[str, Any]) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        url = {"url": f"{self.server.url}/{name}"}
        is_there = name in self.server.repositories
        if not is_there:
            private = wanted.get("visibility") == "private"
            self.server.add(name, {".gitattributes": b""}, private=private)
        self.reply(url, 409 if is_there else 200)

    def preupload(self, repository: Repository, branch: str, wanted: dict[str, Any]) -> None:
        there = repository.commits[repository.branches[branch]]
        rows = []
        for file in wanted["files"]:
            path = file["path"]
            large = path.endswith(".safetensors") or file["size"] > 10_000
            row = {"path": path, "uploadMode": "lfs" if large else "regular"}
            ignored = there.get(".gitignore", b"").decode().splitlines()
            row["shouldIgnore"] = path in ignored  # pyright: ignore[reportArgumentType]
            if path in there:
                data = there[path]
                row["oid"] = hashlib.sha256(data).hexdigest() if large else git_digest(data)
            rows.append(row)
        self.reply({"files": rows})

    def batch(self, wanted: dict[str, Any]) -> None:
        objects = []
        for one in wanted["objects"]:
            row = {"oid": one["oid"], "size": one["size"]}
            if one["oid"] not in self.server.blobs:
                row["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{one['oid']}"}}
            objects.append(row)
        self.reply({"transfer": "basic", "objects": objects})

    def take_blob(self, oid: str, data: bytes) -> None:
        self.server.upload_begun.set()
        self.server.upload_may_end.wait(120)
        if self.server.lfs_status == 200 and hashlib.sha256(data).hexdigest() == oid:
            self.server.blobs[oid] = data
        self.reply({}, self.server.lfs_status)

    def commit(self, name: str, branch: str, body: bytes) -> None:
        repository = self.server.repositories[name]
        while self.server.commits_meanwhile:
            self.server.commits_meanwhile -= 1
            repository.commit(branch, {**repository.files, "theirs.txt": b"theirs"})
        parent = repository.branches[branch]
        files, rows = dict(repository.commits[parent]), [json.loads(x) for x in body.splitlines()]
        if rows[0]["value"].get("parentCommit", parent) != parent:
            return self.send(412, b"{}", {"X-Error-Message": "A commit has happened since"})
        for row in rows:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.server.blobs[value["oid"]]
                repository.large.add(value["path"])
            elif row["key"] == "deletedFile":
                del files[value["path"]]
            else:
                assert row["key"] == "header", row
        oid = repository.commit(branch, files)
        url = f"{self.server.url}/{name}/commit/{oid}"
        return self.reply({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    def reply(self, value: Any, status: int = 200) -> None:
        self.send(status, json.dumps(value).encode())


def git_digest(data: bytes) -> str:
    """As git names a file's contents."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
