"""The fixed factors of a new head: fitted to the first clips, and read back by a resumed run."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.core.distributed import is_primary
from mrl_jax.core.files import write_json
from mrl_jax.core.records import read_object, readable_as
from mrl_jax.data.batches.speech import BatchSource
from mrl_jax.models.two_towers import TwoTowers

CALIBRATION_FILE = "calibration.json"
CLIPS = 16
"""At most so many clips are fitted to."""


def calibrate(model: TwoTowers, source: BatchSource, workdir: Path, *, resuming: bool) -> None:
    """Fit the head's fixed factors to the first clips, in place, and write calibration.json.

    A resumed run reads that file instead, if it is there.

    Raises:
        MrlError: the file cannot be read.
    """
    path, head = workdir / CALIBRATION_FILE, model.head
    if resuming and path.is_file():
        hint = "begin the run anew in another --workdir"
        with readable_as("the factors of the head", path, hint=hint):
            stored = read_object(path)
            for name, factor in head.factors().items():
                factor[...] = jnp.asarray(stored[name], jnp.float32)
        return
    batch = source.rows(0, 0, min(CLIPS, source.plan.batch_size))
    graphdef, arrays = nnx.split(model)

    @jax.jit
    def fit(arrays: Any, samples: Any, lengths: Any) -> dict[str, Any]:
        fitted = nnx.merge(graphdef, arrays)
        fitted.calibrate(samples, lengths)
        return {name: factor[...] for name, factor in fitted.head.factors().items()}

    for name, value in fit(arrays, batch.samples, batch.lengths).items():
        head.factors()[name][...] = value
    if is_primary():
        write_json(path, factors_of(model))


def factors_of(model: TwoTowers) -> dict[str, Any]:
    """The head's fixed factors as JSON values."""
    return {name: np.asarray(f[...]).tolist() for name, f in model.head.factors().items()}
