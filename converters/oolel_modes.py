"""The two heads of the paper's own code: their tensor names, and our heads of the same shapes."""

import dataclasses
from collections.abc import Mapping, Sequence

from flax import nnx

from mrl_jax.core.errors import MrlError
from mrl_jax.models.dual_encoder import DualEncoderConfig, PoolingHead
from mrl_jax.models.late_fusion import FusionHead, LateFusionConfig
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.speech_tower import SpeechTowerConfig
from mrl_jax.models.two_towers import HeadConfig
from mrl_jax.nn import param_tree

from .checkpoints import Checkpoint, TensorInfo
from .rules import Layout, Plan, Rule, RuleTable, Shape, first_of, plan

LATE_FUSION = RuleTable(
    prefix="",
    rules=(
        Rule("projector.weight", "head.frame_projection.kernel", Layout.LINEAR),
        Rule("pooling_parameters.weight", "head.frame_downsample.kernel", Layout.CONV),
        Rule("pooling_parameters.bias", "head.frame_downsample.bias"),
    ),
)
DUAL_ENCODER = RuleTable(
    prefix="",
    rules=(
        Rule("pooling_parameters", "head.pool_query", Layout.ROW),
        # {block} is the width of the vector that the layer gives.
        Rule(
            "matryoshka_layers.{block}.weight",
            "head.projections.to_{block}.kernel",
            Layout.LINEAR,
        ),
        Rule("matryoshka_layers.{block}.bias", "head.projections.to_{block}.bias"),
    ),
)
TABLES = {"late_fusion": LATE_FUSION, "dual_encoder": DUAL_ENCODER}
"""Tensor names of a head by its kind; the code calls the modes "lf" and "clip"."""
NAMING = {"prefix": "", "spellings": ()}


@dataclasses.dataclass(frozen=True)
class PublishedHead:
    """What a head is, once its mode was found.

    Attributes:
        kind: one of `TABLES`.
        config: ours.
        dims: widths that it was trained for.
        plan: which tensor goes where.
    """

    kind: str
    config: HeadConfig
    dims: tuple[int, ...]
    plan: Plan


def head_keys(tensors: Mapping[str, TensorInfo]) -> dict[str, list[str]]:
    """The published names that belong to a head, by its kind."""
    keys = {kind: [k for k in tensors if table.match(k)] for kind, table in TABLES.items()}
    return {kind: names for kind, names in keys.items() if names}


def refuse_speech_half(checkpoint: Checkpoint) -> None:
    """Refuse the speech folder of a whole model where a tower alone was to be converted.

    Raises:
        MrlError: the checkpoint holds a head of `TABLES`.
    """
    for kind, names in head_keys(checkpoint.tensors).items():
        if len(names) > 1:  # Classifiers have a projector.weight too.
            raise MrlError(
                f"is the speech half of a {kind} model: it holds {first_of(names, 'more')}",
                where=checkpoint.folder,
                hint="convert it whole, with the text half: "
                "`mrl-jax convert oolel-embed SPEECH TEXT OUT`",
            )


def find_head(
    tensors: Mapping[str, TensorInfo],
    speech: SpeechTowerConfig,
    text: Qwen3Config,
    *,
    dims: Sequence[int],
    where: object,
) -> PublishedHead:
    """The head among a speech folder's tensors.

    Args:
        tensors: what the folder holds, by published name.
        speech, text: the towers' sizes.
        dims: prefixes that a late-fusion head was trained on; those wider than the text tower
            are left out.
        where: what to call the folder in an error.

    Raises:
        MrlError: there is no head, there are two, or its tensors do not fit the towers.
    """
    keys = head_keys(tensors)
    if not keys:
        raise MrlError(
            "has a speech tower and no head: expected projector.weight and pooling_parameters.*, "
            "or matryoshka_layers.* and pooling_parameters",
            where=where,
            hint="take the folder that the paper's own code saved, or convert the tower alone "
            "with `mrl-jax convert hubert`",
        )
    if len(keys) > 1:
        names = " and ".join(f"{kind} ({first_of(k, 'more')})" for kind, k in keys.items())
        raise MrlError(
            f"holds the tensors of two modes: {names}",
            where=where,
            hint="take out those of the mode that the model was not trained in",
        )
    ((kind, names),) = keys.items()
    shapes = {name: tensors[name].shape for name in names}
    if kind == "late_fusion":
        fitting = fitting_dims(dims, text)
        config: HeadConfig = LateFusionConfig(end_token=None)
    else:
        fitting = _widths(names, text, where)
        config = DualEncoderConfig(dims=fitting)
    leaves = head_leaves(config, speech, text)
    return PublishedHead(kind, config, fitting, plan(TABLES[kind], shapes, leaves, where=where))


def fitting_dims(dims: Sequence[int], text: Qwen3Config) -> tuple[int, ...]:
    """The prefixes that a text tower's vectors have; their whole width where there is none."""
    return tuple(dim for dim in dims if dim <= text.embed_width) or (text.embed_width,)


def _widths(names: Sequence[str], text: Qwen3Config, where: object) -> tuple[int, ...]:
    """Widths of a dual encoder's vectors, the widest first, as its code orders them."""
    widths = {
        numbers["block"]
        for name in names
        for _, _, numbers in DUAL_ENCODER.match(name)
        if "block" in numbers
    }
    widest = text.embed_width
    wrong = sorted(width for width in widths if not 1 <= width <= widest)
    if wrong or not widths:
        problem = "no matryoshka_layers.* beside pooling_parameters"
        if wrong:
            problem = f"matryoshka_layers.{wrong[-1]} gives {wrong[-1]} numbers"
        raise MrlError(
            f"{problem}, expected layers of 1 to {widest}, the width of the text tower's vectors",
            where=where,
            hint="pass the text folder that the model was trained with",
        )
    return tuple(sorted(widths, reverse=True))


def published_kind(config: HeadConfig) -> str | None:
    """The kind of a head that the paper's code has too; None for another."""
    if isinstance(config, LateFusionConfig) and config.end_token is None:
        return "late_fusion"
    if isinstance(config, DualEncoderConfig) and not config.nested:
        return "dual_encoder"
    return None


def head_leaves(
    config: HeadConfig, speech: SpeechTowerConfig, text: Qwen3Config
) -> dict[str, Shape]:
    """Shapes by path of the leaves of a head of `published_kind`."""
    if isinstance(config, DualEncoderConfig):
        return _pooling_leaves(speech, config.dims)
    return _fusion_leaves(speech, text)


def _fusion_leaves(speech: SpeechTowerConfig, text: Qwen3Config) -> dict[str, Shape]:
    return _leaves(
        nnx.eval_shape(
            lambda: FusionHead(speech.num_layers, speech.width, text.width, rngs=nnx.Rngs(0))
        )
    )


def _pooling_leaves(speech: SpeechTowerConfig, widths: Sequence[int]) -> dict[str, Shape]:
    return _leaves(
        nnx.eval_shape(
            lambda: PoolingHead(speech.num_layers, speech.width, widths, rngs=nnx.Rngs(0))
        )
    )


def _leaves(head: nnx.Module) -> dict[str, Shape]:
    return {f"head.{path}": leaf.shape for path, leaf in param_tree.flat_weights(head).items()}
