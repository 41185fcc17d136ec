"""The object stores behind addresses: listings, transfers and errors, through fsspec.

s3fs and gcsfs retry what a lost connection interrupts, with growing pauses, and find the
credentials and endpoints as their vendors' own tools do.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrl_jax.core.addresses import EXTRA, SCHEMES, scheme_of, without_secrets
from mrl_jax.core.errors import MrlError, describe_os_error, first_line
from mrl_jax.core.extras import require

_LOGIN = {
    "s3": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with the aws command line",
    "gs": "set GOOGLE_APPLICATION_CREDENTIALS, or log in with the gcloud command line",
}
_CREDENTIALS = ("NoCredentials", "PartialCredentials", "DefaultCredentials", "TokenRetrieval")
_CONNECTION = (
    "Endpoint",
    "Connect",
    "Timeout",
    "HTTPClient",
    "Disconnected",
    "ClientOSError",
)


@dataclass(frozen=True)
class StoredObject:
    """What a listing says of an object.

    Attributes:
        size: in bytes.
        tag: changes with the contents: the store's etag, or the time of change.
    """

    size: int
    tag: str


class ObjectStore:
    """The store of an address.

    Args:
        address: any address there.

    Raises:
        MrlError: the package for its scheme is not installed.
    """

    def __init__(self, address: str):
        scheme = scheme_of(address)
        assert scheme in SCHEMES
        require("fsspec", SCHEMES[scheme], by=f"{scheme}://", where=address, extra=EXTRA)
        import fsspec

        self._scheme = scheme
        with readable_errors(address, "opened"):
            self._files: Any = fsspec.filesystem(scheme, use_listings_cache=False)

    def objects(self, address: str) -> dict[str, StoredObject]:
        """All objects below an address, by the rest of their keys; the object itself by "".

        Raises:
            MrlError: as all methods here: the bucket is not there, credentials are missing or
                do not suffice, the store cannot be reached.
        """
        with readable_errors(address, "listed"):
            found = self._find(address)
        start = address.partition("://")[2].rstrip("/")
        objects = {}
        for name, info in found.items():
            if info.get("type") == "directory" or name.endswith("/"):
                continue  # The empty objects that consoles make for folders.
            if name == start or name.startswith(f"{start}/"):
                objects[name[len(start) + 1 :]] = _described(info)
        return objects

    def _find(self, address: str) -> dict[str, Any]:
        try:
            return self._files.find(address, detail=True)
        except FileNotFoundError:
            # Either the bucket is missing, or nothing has this prefix.
            bucket = "/".join(address.split("/")[:3])
            self._files.ls(bucket, detail=False, refresh=True)
            return {}

    def get(self, address: str, path: Path) -> None:
        """Download one object into a file."""
        with readable_errors(address, "read"):
            self._files.get_file(address, str(path))

    def put(self, path: Path, address: str) -> None:
        """Upload a file; its object appears whole, or not at all."""
        with readable_errors(address, "written"):
            self._files.put_file(str(path), address)

    def read(self, address: str) -> bytes | None:
        """The contents of a small object; None where there is none."""
        with readable_errors(address, "read"):
            try:
                return self._files.cat_file(address)
            except FileNotFoundError:
                return None

    def write(self, address: str, data: bytes, *, new: bool = False) -> bool:
        """Write a small object; of one that is to be `new`, whether it was not there yet."""
        with readable_errors(address, "written"):
            try:
                self._files.pipe_file(address, data, mode="create" if new else "overwrite")
            except FileExistsError:
                return False
            except OSError as error:
                if new and "PreconditionFailed" in repr(error.__cause__ or error):
                    return False
                raise
        return True

    def changed_at(self, address: str) -> float:
        """When an object was written, by the store's clock: seconds since 1970."""
        with readable_errors(address, "read"):
            return self._files.modified(address).timestamp()

    def remove(self, addresses: Iterable[str]) -> None:
        """Remove objects; those that are gone already are no matter."""
        for address in addresses:
            with readable_errors(address, "removed"), contextlib.suppress(FileNotFoundError):
                self._files.rm_file(address)


def _described(info: dict[str, Any]) -> StoredObject:
    tags = (info.get(name) for name in ("ETag", "etag", "md5Hash", "LastModified", "updated"))
    return StoredObject(int(info["size"]), str(next((tag for tag in tags if tag), "")).strip('"'))


@contextlib.contextmanager
def readable_errors(address: str, what: str) -> Iterator[None]:
    """What the clients of stores raise, as one line that says what to do.

    Raises:
        MrlError: whatever the block raised; one of this machine's disk stays an `OSError`.
    """
    try:
        yield
    except MrlError:
        raise
    except Exception as error:  # botocore, aiohttp, google.auth: each has kinds of its own.
        if isinstance(error, OSError) and error.filename:
            raise
        problem, hint = _problem_of(error, address)
        problem = f"could not be {what}: {problem}"
        raise MrlError(problem, where=address, hint=hint) from error


def _problem_of(error: Exception, address: str) -> tuple[str, str]:
    names = " ".join(kind.__name__ for one in _chain(error) for kind in type(one).__mro__)
    text = without_secrets(first_line(error))
    if any(name in names for name in _CREDENTIALS):
        return "there are no credentials for it", _LOGIN[str(scheme_of(address))]
    if isinstance(error, PermissionError):
        return f"access is denied ({text})", "check the credentials, and what they may do there"
    if isinstance(error, FileNotFoundError):
        return f"it is not there ({text})", "check the bucket and the rest of the address"
    if any(name in names for name in _CONNECTION):
        return f"the store cannot be reached ({text})", "check the network and the endpoint"
    if isinstance(error, OSError) and error.errno:
        return f"{describe_os_error(error)} ({text})", "check the address"
    return text, "check the address"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
