"""Checkpoints of a run: trained weights, optimiser and step; never the frozen towers.

Each holds an identity beside the arrays, so that a run is only resumed by the model that it
belongs to. Orbax writes a checkpoint under a temporary name and renames it; then the digests of
its files are put beside them.
"""

import contextlib
import dataclasses
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrl_jax.checkpoints.arrays import await_stillness, quietly
from mrl_jax.core.addresses import address_of
from mrl_jax.core.arguments import checked
from mrl_jax.core.checksums import folder_digests, verify_files
from mrl_jax.core.distributed import is_primary
from mrl_jax.core.errors import MrlError, as_os_error, describe_os_error, first_line, write_hint
from mrl_jax.core.records import read_record, write_description

STATE, IDENTITY = "state", "identity"
FORMAT = 1
FILES_FILE = "files.json"
REMOVE = "remove the folder of that step: an older one will serve"


@dataclasses.dataclass(frozen=True)
class StepFiles:
    """The contents of files.json in the folder of a step: SHA-256 of its other files by name."""

    files: Mapping[str, str]


class RunCheckpoints:
    """The checkpoints of one run, in one folder, made if it is not there; a context manager.

    It keeps the newest `keep_last`, and the `keep_best` with the highest scores.

    Args:
        folder: of the checkpoints.
        keep_last, keep_best: see above.
        verify: compare files with their digests: scores and identities now, a state when it is
            restored.

    Raises:
        MrlError: a file is missing, or is another than the one that was written.
    """

    def __init__(
        self, folder: Path, *, keep_last: int = 1, keep_best: int = 1, verify: bool = True
    ):
        import orbax.checkpoint as ocp
        from orbax.checkpoint.checkpoint_managers import preservation_policy

        self.folder, self._verify = folder.absolute(), verify
        _remove_half_uploaded(self.folder)
        if verify and self.folder.is_dir():
            for step in sorted(self.folder.iterdir()):
                if step.name.isdigit():
                    verify_step(step, state=False)
        policy = preservation_policy.AnyPreservationPolicy(
            [
                preservation_policy.LatestN(max(keep_last, 1)),
                preservation_policy.BestN(
                    get_metric_fn=lambda metrics: metrics["score"],
                    n=keep_best,
                    keep_checkpoints_without_metrics=False,
                ),
            ]
        )
        with _readable_errors(self.folder, "opened"):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(
                self.folder,
                options=ocp.CheckpointManagerOptions(
                    best_fn=lambda metrics: metrics["score"],
                    best_mode="max",
                    preservation_policy=policy,
                    enable_async_checkpointing=False,
                    cleanup_tmp_directories=True,  # What a killed run left.
                ),
            )

    def __enter__(self) -> "RunCheckpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    @property
    def latest_step(self) -> int | None:
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step with the highest score; the latest where none has one."""
        best = self._manager.best_step()
        return self.latest_step if best is None else best

    @property
    def best_score(self) -> float | None:
        step = self._manager.best_step()
        metrics = None if step is None else self._manager.metrics(step)
        return None if metrics is None else float(metrics["score"])

    def save(
        self, step: int, state: Any, identity: Mapping[str, Any], score: float | None = None
    ) -> None:
        """Write a checkpoint; a step that is there already is left alone.

        Args:
            step: its number.
            state: pytree of arrays.
            identity: what must be equal in a resumed run; JSON values.
            score: by which the best is chosen.
        """
        import orbax.checkpoint as ocp

        if step in self._manager.all_steps():
            return
        if jax.process_count() > 1:
            # Each process has all of it; Orbax refuses arrays that are local to a process.
            state = jax.tree.map(np.asarray, state)
        kinds = {STATE: ocp.args.StandardSave(state), IDENTITY: ocp.args.JsonSave(dict(identity))}
        args = ocp.args.Composite(**kinds)
        metrics = None if score is None else {"score": score}
        logger = logging.getLogger("absl")
        level = logger.level
        with _readable_errors(self.folder / str(step), "written"):
            logger.setLevel(logging.ERROR)  # Orbax warns of checkpoints without a score.
            try:
                quietly(lambda: self._save(step, args=args, metrics=metrics))
            finally:
                logger.setLevel(level)
            if is_primary():
                describe_step(self.folder / str(step))

    def _save(self, step: int, **kwargs: Any) -> None:
        """Write a step, and remove what there is of it where that fails."""
        try:
            self._manager.save(step, force=True, **kwargs)
        except BaseException:  # Whatever their storage raised, or a signal.
            await_stillness(self.folder)
            for unfinished in self.folder.glob(f"{step}.orbax-checkpoint-tmp*"):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def restore(self, step: int, like: Any, identity: Mapping[str, Any]) -> Any:
        """The state at `step`, placed as the arrays of `like` are.

        Raises:
            MrlError: the checkpoint belongs to another model, or cannot be read.
        """
        import orbax.checkpoint as ocp

        where = self.folder / str(step)
        if self._verify:
            verify_step(where)
        with _readable_errors(where, "read"):
            stored = self._manager.restore(
                step, args=ocp.args.Composite(**{IDENTITY: ocp.args.JsonRestore()})
            )[IDENTITY]
        _check_identity(stored, json.loads(json.dumps(dict(identity))), where)
        several = jax.process_count() > 1

        def target_of(x: Any) -> Any:
            if several:
                return np.zeros(x.shape, x.dtype)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

        target = jax.tree.map(target_of, like)
        args = ocp.args.Composite(**{STATE: ocp.args.StandardRestore(target)})
        with _readable_errors(where, "read"):
            state = self._manager.restore(step, args=args)[STATE]
        if several:
            state = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, like)
        return state


def _remove_half_uploaded(folder: Path) -> None:
    """Remove steps that were fetched without their digests, which are uploaded last."""
    if address_of(folder) is not None:
        for step in folder.glob("[0-9]*"):
            if step.name.isdigit() and not (step / FILES_FILE).is_file():
                shutil.rmtree(step)


@checked
def describe_step(folder: Path) -> None:
    """Write the digests of a step's files beside them."""
    files = folder_digests(folder, lambda name: name != FILES_FILE)
    write_description(folder / FILES_FILE, {"files": files}, version=FORMAT)


@checked
def verify_step(folder: Path, *, state: bool = True) -> None:
    """Compare the files of a step with their digests, those of the `state` if it is asked for.

    A step that was killed before its digests were written, or an older one, has none.

    Raises:
        MrlError: a file is missing, or is another than the one that was written.
    """
    path, files = folder / FILES_FILE, StepFiles({})
    if path.exists():
        what = "the digests of a checkpoint"
        files = read_record(path, StepFiles, version=FORMAT, what=what, hint=REMOVE)
    verify_files(
        folder,
        files.files,
        lambda name: state or not name.startswith(f"{STATE}/"),
        named_by=FILES_FILE,
        hint=REMOVE,
    )


def _check_identity(stored: Mapping[str, Any], expected: Mapping[str, Any], where: Path) -> None:
    """Name the first difference, both sides of it."""
    for key, value in expected.items():
        if stored.get(key) == value:
            continue
        ours, theirs = value, stored.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            inner = next(k for k in {**theirs, **ours} if theirs.get(k) != ours.get(k))
            key, ours, theirs = f"{key} {inner}", ours.get(inner), theirs.get(inner)
        raise MrlError(
            f"the checkpoint is of another model: its {key} is {theirs}, expected {ours}",
            where=where,
            hint="resume with the config and the towers it was trained with, or choose another "
            "--workdir",
        )


@contextlib.contextmanager
def _readable_errors(where: Path, what: str) -> Iterator[None]:
    try:
        yield
    except MrlError:
        raise
    except Exception as error:  # Orbax and TensorStore raise whatever their storage raised.
        cause = as_os_error(error)
        if cause.errno and (what != "read" or isinstance(error, OSError)):
            problem = f"could not be {what}: {describe_os_error(cause)}"
            raise MrlError(problem, where=where, hint=write_hint(cause)) from error
        detail = describe_os_error(cause) if cause.errno else first_line(error)
        raise MrlError(
            f"the checkpoint could not be {what} ({detail})",
            where=where,
            hint="if it is damaged, remove its folder: an older one will serve",
        ) from error
