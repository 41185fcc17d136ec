"""The Hugging Face hub: names of its models, snapshots of them, and what its failures mean."""

import dataclasses
import errno
import glob
import re
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError, describe_os_error, first_line, write_hint

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NAME = re.compile(rf"(?P<id>{HUB_ID.pattern})(?:@(?P<revision>\S+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT = re.compile(r"models--(?P<id>[\w.-]+)")
_OF_DISKS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
)
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclasses.dataclass(frozen=True)
class HubName:
    """A model on the hub: its id, "owner/name", and a branch, tag or commit; None for the main
    branch.
    """

    hub_id: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.hub_id if self.revision is None else f"{self.hub_id}@{self.revision}"


def is_hub_id(text: str) -> bool:
    """Whether a text is "owner/name", and no relative path."""
    return HUB_ID.fullmatch(text) is not None and not text.startswith(".")


def hub_name(text: str) -> HubName | None:
    """The model that "owner/name" or "owner/name@revision" names; None of what is neither."""
    match = _NAME.fullmatch(text)
    if match is None or text.startswith("."):
        return None
    return HubName(match["id"], match["revision"])


def is_pinned(text: str) -> bool:
    """Whether a text is "owner/name@commit", which always means the same files."""
    name = hub_name(text)
    return name is not None and _COMMIT.fullmatch(name.revision or "") is not None


def hub_name_of(path: Path) -> HubName | None:
    """The model, with its commit, whose snapshot in the hub's cache a folder is; None of others."""
    match = _SNAPSHOT.fullmatch(path.parent.parent.name)
    if match is None or path.parent.name != "snapshots":
        return None
    return HubName(match["id"].replace("--", "/", 1), path.name)


def snapshot_around(path: Path) -> Path | None:
    """The snapshot in the hub's cache that a path is, or lies in; None of others."""
    return next((one for one in (path, *path.parents) if hub_name_of(one) is not None), None)


def refuse_snapshot(folder: Path, *, by: str) -> None:
    """Refuse to write into the hub's cache.

    Args:
        folder: that would be changed.
        by: the command or option that would.

    Raises:
        MrlError: the folder is a snapshot of the hub, or lies in one.
    """
    snapshot = snapshot_around(folder.absolute())
    if snapshot is not None:
        name = hub_name_of(snapshot)
        assert name is not None
        copy = f"hf download {name.hub_id} --revision {name.revision} --local-dir DIR"
        problem = f"is the cached copy of a model on the hub, which {by} does not change"
        raise MrlError(problem, where=name, hint=f"make a copy of your own: `{copy}`")


def shown_model(path: Path) -> str:
    """A model as a user knows it: by its name on the hub where it is from there."""
    name = hub_name_of(path)
    return str(path if name is None else name)


def fetch_snapshot(name: HubName, files: Sequence[str]) -> Path:
    """The folder of a model's snapshot, with those of the `files` that the hub has.

    Args:
        name: the model; what the cache has of it is not fetched again.
        files: their exact names in the repository.

    Raises:
        MrlError: the hub does not have the model or the revision, does not let us read it, or
            cannot be reached.
    """
    import huggingface_hub

    patterns = [glob.escape(file) for file in files]
    try:
        folder = huggingface_hub.snapshot_download(
            name.hub_id, revision=name.revision, allow_patterns=patterns
        )
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem, hint = hub_problem(error, name.revision)
        raise MrlError(problem, where=name.hub_id, hint=hint) from error
    return Path(folder)


def hub_problem(error: Exception, revision: str | None) -> tuple[str, str]:
    """What went wrong with the download of a model, and what helps."""
    from huggingface_hub import errors

    first = first_line(error)
    match error:
        case errors.GatedRepoError():
            problem = "the hub wants an agreement for this model"
            hint = "accept it on the model's page and log in with `hf auth login`"
        case errors.RepositoryNotFoundError():
            problem = "neither a local folder nor a model on the hub"
            hint = "check the spelling; for a private model log in with `hf auth login`"
        case errors.RevisionNotFoundError():
            problem = f"the hub has no revision {revision!r} of this model"
            hint = "pass a branch, tag or commit that its page lists"
        case errors.HFValidationError():
            problem = f"neither a local folder nor a hub id ({first})"
            hint = "pass a folder, or a hub id such as owner/name"
        case OSError() if error.errno in _OF_DISKS:
            problem = f"could not be kept in the hub's cache ({describe_os_error(error)})"
            hint = f"{write_hint(error)}; HF_HOME names another folder"
        case _ if status_of(error) in (401, 403):
            problem = f"the hub does not let us read this model ({first_line(refusal_of(error))})"
            hint = LOG_IN
        case _:
            kind = type(error).__name__
            problem = f"no such folder, and the hub could not be reached ({kind}: {first})"
            hint = "check the network, or pass a folder"
    return problem, hint


def status_of(error: BaseException) -> int | None:
    """The HTTP status that the hub answered with; None where there was no answer."""
    return getattr(getattr(refusal_of(error), "response", None), "status_code", None)


def refusal_of(error: BaseException) -> BaseException:
    """The hub's own answer, which a look into the cache, or a thread, may have wrapped; the error
    itself where there is none.
    """
    from huggingface_hub import errors

    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, errors.HfHubHTTPError):
            return inner
        inner = inner.__cause__
    return error
