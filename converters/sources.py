"""Where a checkpoint lies: a local folder or the hub, and which folder of it holds the weights."""

from collections.abc import Sequence
from pathlib import Path

from mrl_jax.core.errors import MrlError, describe_os_error
from mrl_jax.core.hub import hub_problem, is_hub_id
from mrl_jax.core.links import check_links
from mrl_jax.core.paths import user_text

from .checkpoints import SMALL_FILES, has_weights, require_torch
from .formats import refuse_format
from .sentence_folder import dense_files, transformer_folder

WEIGHT_FILES = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
BIN_FILES = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
PASS_CHECKPOINT = "pass a checkpoint folder, or a hub id such as Qwen/Qwen3-Embedding-0.6B"
README = "README.md"
"""Names the model that another was made from."""


def find_checkpoint(
    source: str,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    nested: bool = False,
    more: Sequence[str] = (),
) -> Path:
    """The local folder of `source`: itself if it is one, else the hub's snapshot.

    Where sentence-transformers put the tower into a folder of its own (`0_Transformer`), it is
    that folder.

    Args:
        source: local folder or hub id.
        revision: branch, tag or commit on the hub.
        subfolder: folder inside the source to read instead.
        nested: the folders inside the source hold weights too, and are fetched with it.
        more: files to fetch, if the hub has them, besides the usual ones.

    Raises:
        MrlError: no such folder, and the hub does not have it or cannot be reached; a link in it
            leads elsewhere.
    """
    source = user_text(source)
    folder = Path(source)
    try:
        is_folder, exists = folder.is_dir(), folder.exists()
    except OSError as error:
        raise MrlError(f"cannot be read: {describe_os_error(error)}", where=source) from error
    if is_folder:
        if revision is not None:
            problem = f"is a local folder, which has no revision {revision!r}"
            raise MrlError(problem, where=source, hint="leave --revision out")
    elif exists:
        refuse_format(folder.parent, [folder.name], where=source)
        hint = f"pass its folder, {folder.parent}" if folder.suffix == ".safetensors" else None
        raise MrlError(
            "is a file, expected a checkpoint folder or a hub id", where=source, hint=hint
        )
    elif not is_hub_id(source):
        raise MrlError("no such folder", where=source, hint=PASS_CHECKPOINT)
    else:
        folder = _download(source, revision, subfolder, nested, more)
    check_links(folder)
    return transformer_folder(folder if subfolder is None else _inside(folder, subfolder))


def find_adapter(source: str, *, revision: str | None, names: Sequence[str]) -> Path:
    """The local folder of an adapter: itself if it is one, else the hub's snapshot.

    Args:
        source: local folder or hub id.
        revision: branch, tag or commit on the hub.
        names: the files of an adapter.

    Raises:
        MrlError: no such folder, and the hub does not have it or cannot be reached.
    """
    import huggingface_hub

    source = user_text(source)
    if Path(source).is_dir():
        return check_links(Path(source))
    if Path(source).exists() or not is_hub_id(source):
        problem = "no such folder, expected that of a LoRA adapter"
        raise MrlError(problem, where=source, hint="pass a folder that PEFT saved, or a hub id")
    try:
        return Path(
            huggingface_hub.snapshot_download(source, revision=revision, allow_patterns=[*names])
        )
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem, hint = hub_problem(error, revision)
        raise MrlError(problem, where=source, hint=hint) from error


def _inside(folder: Path, subfolder: str) -> Path:
    inner = folder / subfolder
    if not inner.resolve().is_relative_to(folder.resolve()):
        raise MrlError(
            f"--subfolder is {subfolder!r}, expected a folder inside the source", where=folder
        )
    if inner.is_dir():
        return inner
    others = sorted(path.parent.relative_to(folder) for path in folder.glob("*/config.json"))
    raise MrlError(
        f"has no folder {subfolder!r}",
        where=folder,
        hint=f"pass one of those that have a config.json: {', '.join(map(str, others))}"
        if others
        else "leave --subfolder out: none of its folders has a config.json",
    )


def _download(
    hub_id: str, revision: str | None, subfolder: str | None, nested: bool, more: Sequence[str]
) -> Path:
    import huggingface_hub

    def fetch(wanted: Sequence[str], unwanted: Sequence[str] = ()) -> Path:
        return Path(
            huggingface_hub.snapshot_download(
                hub_id,
                revision=revision,
                allow_patterns=[*wanted],
                ignore_patterns=[*unwanted, "checkpoint-*/*", "onnx/*"],
            )
        )

    def snapshot(names: Sequence[str], inner: str | None) -> Path:
        places = ["" if inner is None else f"{inner}/"] + (["*/"] if nested else [])
        # On the hub, * goes into folders: a training run's own are not wanted.
        unwanted = [] if nested or inner else ["*/*.safetensors*", "*/*.bin*"]
        weights = [at + name for at in places for name in names]
        return fetch([README, *SMALL_FILES, *more, *weights], unwanted)

    def weights_in(folder: Path, inner: str | None) -> bool:
        places = [folder if inner is None else folder / inner]
        return any(map(has_weights, [*places, *(folder.glob("*/") if nested else ())]))

    try:
        folder = snapshot(WEIGHT_FILES, subfolder)
        place = folder if subfolder is None else folder / subfolder
        if not place.is_dir():
            return folder  # `find_checkpoint` says which folders there are.
        inner = transformer_folder(place).relative_to(folder).as_posix()
        inner = None if inner == "." else inner
        if inner != subfolder:
            folder = snapshot(WEIGHT_FILES, inner)
        if (place / "adapter_config.json").is_file() and not weights_in(folder, inner):
            return folder  # An adapter, which `lora.check_adapter_beside` refuses by name.
        if not weights_in(folder, inner):
            _check_hub_files(hub_id, revision, folder)
            require_torch(hub_id)  # Before gigabytes are fetched that nothing can read.
            folder = snapshot(BIN_FILES, inner)
        at = place.relative_to(folder)
        if dense := [(at / name).as_posix() for name in dense_files(place)]:
            fetch(dense)
        return folder
    except MrlError:
        raise
    except Exception as error:  # The HTTP client beneath raises kinds of its own.
        problem, hint = hub_problem(error, revision)
        raise MrlError(problem, where=hub_id, hint=hint) from error


def _check_hub_files(hub_id: str, revision: str | None, folder: Path) -> None:
    """Refuse a model that the hub has in another format, which the snapshot left out."""
    import huggingface_hub

    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return
    names = huggingface_hub.HfApi().list_repo_files(hub_id, revision=revision)
    if not any(Path(name).match(pattern) for name in names for pattern in BIN_FILES):
        refuse_format(folder, names, where=hub_id)
