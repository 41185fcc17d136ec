"""Connectionist temporal classification (Graves et al., 2006)."""

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.models.ctc import CtcOutput


@checked
def ctc_losses(
    output: CtcOutput, labels: Int[Array, "B L"], counts: Int[Array, " B"], *, blank: int
) -> Float32[Array, " B"]:
    """Negative log likelihood of each transcript, summed over all its alignments.

    A transcript that needs more frames than its clip has (one a label, and one between
    equal neighbours) has no alignment: its loss is 0, and so is its gradient.

    Args:
        output: of `HubertCtc`.
        labels: token ids, padded on the right.
        counts: ids that count in each row.
        blank: id of the blank.
    """
    place = jnp.arange(labels.shape[1])[None, :]
    padding = (place >= counts[:, None]).astype(jnp.float32)
    losses = optax.ctc_loss(
        output.logits, 1.0 - output.frame_mask.astype(jnp.float32), labels, padding, blank_id=blank
    )
    repeats = (labels[:, 1:] == labels[:, :-1]) & (place[:, 1:] < counts[:, None])
    needed = counts + jnp.sum(repeats.astype(jnp.int32), axis=1)
    possible = jnp.sum(output.frame_mask.astype(jnp.int32), axis=1) >= needed
    return jnp.where(possible, losses, 0.0)


@checked
def mean_ctc_loss(output: CtcOutput, labels: Any, counts: Any, *, blank: int) -> Float32[Array, ""]:
    """Mean over clips of the negative log likelihood of a token; arguments as in `ctc_losses`."""
    counts = jnp.asarray(counts)
    losses = ctc_losses(output, jnp.asarray(labels), counts, blank=blank)
    return jnp.mean(losses / jnp.maximum(counts, 1).astype(jnp.float32))
