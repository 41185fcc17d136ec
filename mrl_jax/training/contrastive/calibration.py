"""What the first clips of a run tell: the fixed factors of a new head, and room for its tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.core.distributed import is_primary
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_json
from mrl_jax.core.records import read_object, readable_as
from mrl_jax.data.batches.speech import BatchSource
from mrl_jax.models.fusion import FusionModel
from mrl_jax.models.two_towers import TwoTowers

CALIBRATION_FILE = "calibration.json"
CLIPS = 16
"""At most so many clips are read."""


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

    def fit(fitted: Any, samples: Any, lengths: Any) -> dict[str, Any]:
        fitted.calibrate(samples, lengths)
        return {name: factor[...] for name, factor in fitted.head.factors().items()}

    for name, value in _on_first_clips(model, source, fit).items():
        head.factors()[name][...] = value
    if is_primary():
        write_json(path, factors_of(model))


def check_room(model: FusionModel, source: BatchSource) -> None:
    """Refuses a model that has too little room for the speech tokens of the first clips.

    Raises:
        MrlError: a clip would lose some.
    """

    def lost_of(model: Any, samples: Any, lengths: Any) -> Any:
        return model.tokens_of_speech(samples, lengths).lost

    lost = np.asarray(_on_first_clips(model, source, lost_of))
    if lost.any():
        raise MrlError(
            f"{np.count_nonzero(lost)} of the first {len(lost)} clips have up to {lost.max()} "
            "speech tokens more than there is room for",
            hint="raise model.max_tokens_per_second",
        )


def factors_of(model: TwoTowers) -> dict[str, Any]:
    """The head's fixed factors as JSON values."""
    return {name: np.asarray(f[...]).tolist() for name, f in model.head.factors().items()}


def _on_first_clips(model: TwoTowers, source: BatchSource, run: Callable[..., Any]) -> Any:
    """`run(model, samples, lengths)` of the first clips, compiled, on a copy of the model."""
    batch = source.rows(0, 0, min(CLIPS, source.plan.batch_size))
    graphdef, arrays = nnx.split(model)
    compiled = jax.jit(lambda arrays, *clips: run(nnx.merge(graphdef, arrays), *clips))
    return compiled(arrays, batch.samples, batch.lengths)
