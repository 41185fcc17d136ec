"""SHA-256 of files, remembered by size and time so that unchanged ones are not read again."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

from tqdm import tqdm

from mrl_jax.core.checksums import stream_digest
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import open_regular
from mrl_jax.core.json_text import parse_json
from mrl_jax.data.sets.intent_set import IntentExample
from mrl_jax.data.sets.retrieval_set import RetrievalSet

ABSENT = "absent"
"""The digest of what is no readable file."""

_SETTLED_NS = 2_000_000_000


class FileDigest(NamedTuple):
    """SHA-256 of a file when it had this size and time of change."""

    size: int
    mtime_ns: int
    sha256: str


def digest_files(
    paths: Iterable[Path], known: dict[str, FileDigest], *, workers: int
) -> tuple[dict[Path, str], dict[str, FileDigest]]:
    """The SHA-256 of each file by `workers` threads, and what to remember for the next time.

    Args:
        paths: the files; those that cannot be read are `ABSENT`.
        known: what was remembered, by absolute path.
    """
    paths = list(dict.fromkeys(paths))

    def digest(path: Path) -> tuple[str, FileDigest | None]:
        try:
            with open_regular(path, where=path) as file:
                stat = os.fstat(file.fileno())
                old = known.get(os.path.abspath(path))
                if old is not None and old[:2] == (stat.st_size, stat.st_mtime_ns):
                    return old.sha256, old
                sha256 = _sha256(file)
        except (MrlError, OSError):
            return ABSENT, None
        # A file changed a moment ago may change again within one tick of the clock.
        settled = time.time_ns() - stat.st_mtime_ns > _SETTLED_NS
        return sha256, FileDigest(stat.st_size, stat.st_mtime_ns, sha256) if settled else None

    with ThreadPoolExecutor(workers) as pool:
        made = pool.map(digest, paths)
        bar = tqdm(made, total=len(paths), desc="hashing", unit=" files", disable=None)
        results = dict(zip(paths, bar, strict=True))
    digests = {path: sha256 for path, (sha256, _) in results.items()}
    entries = {os.path.abspath(path): entry for path, (_, entry) in results.items()}
    return digests, {name: entry for name, entry in entries.items() if entry is not None}


def digest_lines(values: Iterable[object]) -> str:
    """The SHA-256 of values as JSON lines."""
    sha256 = hashlib.sha256()
    for value in values:
        sha256.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    return sha256.hexdigest()


def save_digests(path: Path, digests: dict[str, FileDigest]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for name, digest in digests.items():
            file.write(json.dumps([name, *digest]) + "\n")


def load_digests(path: Path) -> dict[str, FileDigest]:
    """What `save_digests` wrote; nothing where it cannot be read, as files are then hashed anew."""
    try:
        rows = [parse_json(line) for line in path.read_bytes().splitlines()]
        return {name: FileDigest(*digest) for name, *digest in rows}
    except (OSError, ValueError, TypeError):
        return {}


def digest_retrieval_set(data: RetrievalSet) -> str:
    """SHA-256 of queries, corpus and judgements; the same for every form on disk."""
    queries = (
        [
            *("query", q.id, _recording(q.audio), q.text, q.task, q.speaker, q.transcript),
            *(() if q.prompt is None else (q.prompt,)),
        ]
        for q in data.queries
    )
    documents = (["document", document.id, document.text] for document in data.corpus)
    judged = (["qrels", query, dict(scores)] for query, scores in sorted(data.qrels.items()))
    return digest_lines([*queries, *documents, *judged])


def digest_intent_set(
    examples: Iterable[IntentExample], label_texts: Mapping[str, Sequence[str]] | None = None
) -> str:
    """SHA-256 of every example, and of the labels' texts; the same for every form on disk."""
    rows = [
        [
            *("intent", e.id, _recording(e.audio), e.text, e.label, e.split, e.label_text),
            *(() if e.speaker is None else (e.speaker,)),
        ]
        for e in examples
    ]
    texts = [["label", name, *some] for name, some in sorted((label_texts or {}).items())]
    return digest_lines([*rows, *texts])


def _recording(audio: Path | bytes | None) -> str | None:
    """The digest of a recording's bytes, wherever they are."""
    if audio is None:
        return None
    if isinstance(audio, bytes):
        return hashlib.sha256(audio).hexdigest()
    with open_regular(audio, where=audio) as file:
        return _sha256(file)


def _sha256(file: IO[bytes]) -> str:
    if not os.fstat(file.fileno()).st_size:  # Files of /proc say so, and some have no end.
        return hashlib.sha256().hexdigest()
    return stream_digest(file)
