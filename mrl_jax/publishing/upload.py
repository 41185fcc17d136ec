"""A repository to the hub: created where it is not there, and filled by one commit."""

import re
from collections.abc import Mapping
from pathlib import Path

from mrl_jax.checkpoints.head_file import HEAD_FILE
from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.hub import LOG_IN, HubName, refusal_of, status_of
from mrl_jax.publishing.metadata import LIBRARY

CARD = "README.md"
_OURS = re.compile(
    rf"{re.escape(MODEL_FILE)}|{re.escape(HEAD_FILE)}|search\.json|search-[0-9a-f]{{8}}\.npy|"
    r"rotation\.safetensors|(speech|text)/.*"
)
"""Files of a model's repository, of which an upload removes those that the model has no more."""


@checked
def upload_repository(
    name: HubName, files: Mapping[str, Path], card: str, *, private: bool, message: str
) -> str:
    """Upload a model in one commit: all of it is there afterwards, or nothing of it.

    Args:
        name: of the repository, and the branch; both are made where they are not there.
        files: places of the contents, by name in the repository.
        card: its README.md.
        private: make the repository private; one that is there must be private already.
        message: of the commit.

    Returns:
        The commit.

    Raises:
        MrlError: no token, or one that may not write there; the hub refuses something or
            cannot be reached.
    """
    import huggingface_hub

    if huggingface_hub.get_token() is None:
        raise MrlError("there is no token of the hub on this machine", where=name, hint=LOG_IN)
    try:
        return _upload(name, files, card, private=private, message=message)
    except MrlError:
        raise
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem, hint = _upload_problem(error)
        raise MrlError(problem, where=name, hint=hint) from error


def _upload(
    name: HubName, files: Mapping[str, Path], card: str, *, private: bool, message: str
) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name=LIBRARY)
    api.create_repo(name.hub_id, private=private or None, exist_ok=True)
    if private and not api.model_info(name.hub_id).private:
        problem = "is there already and public, so that --private does not make it private"
        hint = "change it on its page, or choose another name"
        raise MrlError(problem, where=name.hub_id, hint=hint)
    if name.revision is not None:
        api.create_branch(name.hub_id, branch=name.revision, exist_ok=True)
    there = api.list_repo_files(name.hub_id, revision=name.revision)
    stale = [file for file in there if _OURS.fullmatch(file) and file not in files]
    operations = [
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationAdd(file, str(path)) for file, path in files.items()),
        *(CommitOperationDelete(file) for file in stale),
    ]
    commit = api.create_commit(
        name.hub_id, operations, commit_message=message, revision=name.revision
    )
    return commit.oid


def _upload_problem(error: Exception) -> tuple[str, str]:
    """What went wrong with an upload, and what helps; nothing was committed."""
    from huggingface_hub import errors

    cause, status = refusal_of(error), status_of(error)
    first = first_line(cause)
    if isinstance(error, errors.HFValidationError):
        return f"is no name of a repository ({first})", "write it as owner/name"
    if status == 401:
        return f"the hub refused the token ({first})", LOG_IN
    if status == 403:
        return f"the token may not write there ({first})", "use a token that may write to it"
    if status is not None:
        return f"the hub refused the upload ({first})", "nothing was changed; correct it, and push"
    kind = type(cause).__name__
    problem = f"the hub could not be reached, and nothing was changed ({kind}: {first})"
    return problem, "check the network, and push again"
