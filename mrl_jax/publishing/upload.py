"""A repository to the hub: created where it is not there, and filled by one commit."""

import re
from collections.abc import Mapping, Sequence
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


_OF_NEW_ONES = (".gitattributes", CARD, "LICENSE")
"""What the hub's own page for a new repository makes."""


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
        MrlError: no token, or one that may not write there; the repository holds something else
            or changes meanwhile; the hub refuses something or cannot be reached.
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
    # The commit is made on what is listed here, or not at all: nobody's push goes between.
    parent = api.model_info(name.hub_id, revision=name.revision).sha
    there = api.list_repo_files(name.hub_id, revision=parent)
    if MODEL_FILE not in there and name.revision is None:
        _refuse_others(name, there)
    stale = [file for file in there if _OURS.fullmatch(file) and file not in files]
    operations = [
        CommitOperationAdd(CARD, card.encode()),
        *(CommitOperationAdd(file, str(path)) for file, path in files.items()),
        *(CommitOperationDelete(file) for file in stale),
    ]
    commit = api.create_commit(
        name.hub_id,
        operations,
        commit_message=message,
        revision=name.revision,
        parent_commit=parent,
    )
    left_out = set(files) - set(api.list_repo_files(name.hub_id, revision=commit.oid))
    if left_out:
        problem = f"has no {min(left_out)} after the upload: a .gitignore there leaves it out"
        raise MrlError(problem, where=name, hint="correct the .gitignore, and push again")
    return commit.oid


def _refuse_others(name: HubName, there: Sequence[str]) -> None:
    """Refuse a repository whose card and files are those of something else."""
    others = [file for file in there if file not in _OF_NEW_ONES]
    if others:
        some = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        problem = f"is there already, and holds something else ({some}), whose card would be lost"
        hint = "choose another name, or a branch: --revision NAME"
        raise MrlError(problem, where=name, hint=hint)


def _upload_problem(error: Exception) -> tuple[str, str]:
    """What went wrong with an upload, and what helps; nothing was committed."""
    from huggingface_hub import errors

    cause, status = refusal_of(error), status_of(error)
    first = first_line(cause)
    if isinstance(error, errors.HFValidationError):
        return f"is no name of a repository ({first})", "write it as owner/name"
    if isinstance(error, ValueError) and "README.md" in str(error):
        lines = [line.strip("- ") for line in str(error).splitlines()[1:]]
        problem = f"the hub refuses the card ({' '.join(lines)[:300]})"
        return problem, "correct --license and --language, and push again; nothing was changed"
    if status == 412:
        return "was changed by somebody else meanwhile", "nothing was changed; push again"
    if status == 401:
        return f"the hub refused the token ({first})", LOG_IN
    if status == 403:
        return f"the token may not write there ({first})", "use a token that may write to it"
    if status is not None:
        return f"the hub refused the upload ({first})", "nothing was changed; correct it, and push"
    while cause.__cause__ is not None:  # A thread says only which file it was about.
        cause = cause.__cause__
    kind, first = type(cause).__name__, first_line(cause)
    problem = f"the hub could not be reached, and nothing was changed ({kind}: {first})"
    return problem, "check the network, and push again"
