"""Arrays in an Orbax checkpoint: without copies on the way, and with one error a failure."""

import logging
import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError, as_os_error
from mrl_jax.core.text import check_path_text
from mrl_jax.nn import param_tree

if TYPE_CHECKING:
    import orbax.checkpoint as ocp


Result = TypeVar("Result")
UTF8_PATH = "copy or rename the folder: checkpoints take paths in UTF-8 only"


def save_arrays(folder: Path, arrays: Mapping[str, HostArray]) -> None:
    """Write arrays, by dotted path, as one checkpoint.

    Raises:
        OSError: the write failed.
    """
    import orbax.checkpoint as ocp

    check_path_text(folder, hint=UTF8_PATH)

    def save() -> None:
        with _checkpointer() as checkpointer:
            args = ocp.args.PyTreeSave(param_tree.nest(arrays))
            checkpointer.save(folder.absolute(), args=args)

    # In a thread, which an interrupt does not tear: it waits until the write has ended,
    # where Orbax's own threads would write on into a folder that is being removed.
    with ThreadPoolExecutor(1) as pool:
        try:
            quietly(lambda: pool.submit(save).result())
        except OSError:
            await_stillness(folder.parent)
            raise


def await_stillness(folder: Path, *, seconds: float = 0.3, at_most: float = 30.0) -> None:
    """Wait for the writes that were under way when one failed.

    There is no other sign of their end, and until then they create their folders again after
    the caller removed them.
    """
    end = time.monotonic() + at_most
    before, since = None, time.monotonic()
    while time.monotonic() < min(end, since + seconds):
        now = [(root, sorted(files)) for root, _, files in os.walk(folder)]
        if now != before:
            before, since = now, time.monotonic()
        time.sleep(0.02)


def check_there(folder: Path, what: str, hint: str) -> None:
    """Raises an `MrlError` where a checkpoint, `what`, has no folder."""
    if not folder.is_dir():
        verb = "are" if what.endswith("s") else "is"
        raise MrlError(f"{what} {verb} missing", where=folder, hint=hint)


def stored_paths(folder: Path, *, what: str = "the array", hint: str = "") -> list[str]:
    """The dotted paths of all arrays in a checkpoint.

    Raises:
        MrlError: the checkpoint is missing, or cannot be read.
    """
    check_there(folder, what, hint)

    def names() -> list[str]:
        with _checkpointer() as checkpointer:
            return list(
                param_tree.flatten(checkpointer.metadata(folder.absolute()).item_metadata.tree)
            )

    try:
        return quietly(names)
    except OSError as error:
        problem = f"{what} cannot be read ({error.strerror or error})"
        raise MrlError(problem, where=folder, hint=hint) from error


def _checkpointer() -> "ocp.Checkpointer":
    """One that waits for no other process: each reads alone, and only one writes."""
    import orbax.checkpoint as ocp
    from orbax.checkpoint import type_handlers

    mine = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process {mine}"
    )
    options = alone if jax.process_count() > 1 else ocp.options.MultiprocessingOptions()
    # Orbax copies host arrays before it writes and compresses blocks side by side,
    # which together take 3x the weights' memory; trained weights hardly compress.
    registry = type_handlers.create_type_handler_registry(
        (np.ndarray, type_handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, type_handlers.ArrayHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(
        save_concurrent_gb=1,
        use_compression=False,
        type_handler_registry=registry,
        multiprocessing_options=options,
    )
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def quietly(action: Callable[[], Result]) -> Result:
    """Run Orbax so that its failure is one `OSError`, with nothing printed beside it.

    Reads and writes that were under way when one failed print errors later, from their own
    threads or when they are collected. The filters that keep those off stderr therefore stay
    in place after a failure.
    """
    threads, tasks = logging.getLogger("absl"), logging.getLogger("asyncio")
    usual, disabled = sys.unraisablehook, threads.disabled

    def hook(unraisable: Any) -> None:
        code = getattr(unraisable.object, "cr_code", None)
        of_orbax = code is not None and "orbax" in code.co_filename
        if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
            usual(unraisable)

    threads.disabled = True
    tasks.addFilter(_not_of_orbax)
    sys.unraisablehook = hook
    try:
        result = action()
    except Exception as error:  # Orbax and TensorStore raise whatever their storage raised.
        raise as_os_error(error) from None
    finally:
        threads.disabled = disabled
    tasks.removeFilter(_not_of_orbax)
    sys.unraisablehook = usual
    return result


def _not_of_orbax(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "orbax" not in text and "OCDBT" not in text
