"""Data sets of the Hugging Face hub, downloaded into its cache."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError, first_line


def download_dataset(
    hub_id: str, *, patterns: Sequence[str], revision: str | None = None, hint: str
) -> Path:
    """The local folder of a data set's snapshot; what the cache has is not fetched again.

    Args:
        hub_id: owner and name of the data set.
        patterns: the files to fetch.
        revision: branch, tag or commit; the main branch by default.
        hint: what to do without the hub, for errors.

    Raises:
        MrlError: the hub does not have it, wants a login, or cannot be reached; none of
            its files fits a pattern.
    """
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    where = f"data set {hub_id}"
    try:
        snapshot = huggingface_hub.snapshot_download(
            hub_id, repo_type="dataset", revision=revision, allow_patterns=list(patterns)
        )
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem = f"the hub could not be reached ({type(error).__name__}: {first_line(error)})"
        if isinstance(error, hub_errors.GatedRepoError):
            problem = "the hub wants an agreement for this data set"
            hint = "accept it on its page and log in with `hf auth login`"
        elif isinstance(error, hub_errors.RepositoryNotFoundError):
            problem = "the hub has no such data set"
        elif isinstance(error, hub_errors.RevisionNotFoundError):
            problem = f"the hub has no revision {revision!r} of this data set"
        raise MrlError(problem, where=where, hint=hint) from error
    folder = Path(snapshot)
    if not any(path.is_file() for path in folder.rglob("*")):
        problem = f"the hub has none of the files {', '.join(patterns)}"
        raise MrlError(problem, where=where, hint=hint)
    return folder
