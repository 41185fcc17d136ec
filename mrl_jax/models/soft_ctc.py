"""Late fusion by soft tokens: the text tower reads what a CTC layer is in doubt about.

The speech tower's own CTC layer (Graves et al., 2006) gives the probability of every token at every
frame, and the text tower reads the expected token embedding under them: no decision is taken, so
what was half recognised stays half there. Frames that are surely blank are dropped, and a run of
frames with one best token becomes one speech token. Nothing has to be trained. What can be is
small: scale and bias of the logits, a linear residual from all layers' states, and low-rank
changes of the text tower's attention for speech alone (LoRA, arXiv 2106.09685).
"""

import dataclasses
import functools
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import Range, checked
from mrl_jax.core.array_types import AnyArray, HostArray
from mrl_jax.core.checks import check_positive
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models.ctc import HubertCtc
from mrl_jax.models.fusion import FusionConfig, FusionModel, SpeechTokens
from mrl_jax.models.lora import ATTENTION
from mrl_jax.models.qwen3 import Qwen3Encoder
from mrl_jax.models.two_towers import Head
from mrl_jax.nn import param_tree
from mrl_jax.nn.block_attention import blocks_pay
from mrl_jax.nn.int8 import dequantize

Residual = Literal["none", "logits", "frames"]
PAIR = 2
"""Frames to a speech token where nothing is compressed, as in the published head."""
EXACT = lax.Precision.HIGHEST


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftCtcConfig(FusionConfig):
    """What a soft-token model adds to its towers.

    Attributes:
        outputs: for each output of the CTC layer the ids of the text tower's tokens that spell
            it, whose mean embedding it gets; empty for the blank.
        blank: number of the output that is the blank.
        rest: id of the token that stands for the blank; None for a vector of zeros.
        compress_blank: frames whose blank is more probable are dropped, and runs of one best
            token are averaged; None averages pairs of frames instead, and drops none.
        blank_weight: of the blank in an averaged run, relative to the tokens. At 1 the blanks
            around a sound dilute its token; at 0 a run never is silence.
        max_tokens_per_second: room for speech tokens, which the text tower's time grows with. A
            clip that has more loses its last ones (`SpeechTokens.lost`); at the default, one
            for each frame of 20 ms, none can.
        logit_temperature: what the logits are divided by at first.
        residual: what a trained linear map of all layers' states is added to: the "logits", the
            frames' vectors ("frames"), or nothing ("none").
        lora_rank: of trained changes to the text tower's attention, for speech only; 0 for none.
    """

    outputs: tuple[tuple[int, ...], ...]
    blank: int = 0
    rest: int | None = None
    compress_blank: float | None = 0.6
    blank_weight: float = 0.1
    max_tokens_per_second: float = 50.0
    logit_temperature: float = 1.0
    residual: Residual = "none"
    lora_rank: Annotated[int, Range(0.0, 2.0**16)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "max_tokens_per_second", "logit_temperature")
        if self.compress_blank is not None:
            check_positive(self, "compress_blank")
        if not 0 <= self.blank_weight <= 1:
            raise ValueError(f"blank_weight is {self.blank_weight}, expected 0 to 1")


@checked
class SoftCtc(FusionModel):
    """Speech and text in one space; the stream `params` of `rngs` gives the head's weights.

    Args:
        recogniser: the speech tower with its CTC layer.
        text: the text tower.
        config: of the head.
        rngs: see above.

    Raises:
        ArgumentError: no end token, outputs that are not those of the CTC layer, or a token that
            the text tower lacks.
    """

    config: SoftCtcConfig

    def __init__(
        self, recogniser: HubertCtc, text: Qwen3Encoder, *, config: SoftCtcConfig, rngs: nnx.Rngs
    ):
        super().__init__(recogniser.encoder, text, config)
        if config.end_token is None:
            raise ArgumentError("end_token is None, and a clip of blanks alone has no other token")
        self.ctc = recogniser.lm_head
        width, size = self.ctc.kernel.shape
        if len(config.outputs) != size:
            raise ArgumentError(
                f"tokens for {len(config.outputs)} outputs, expected {size}: the CTC layer's"
            )
        if not 0 <= config.blank < size:
            raise ArgumentError(f"blank is output {config.blank}, expected 0 to {size - 1}")
        rest = () if config.rest is None else (config.rest,)
        used = [token for tokens in (*config.outputs, rest) for token in tokens]
        if used and not 0 <= min(used) <= max(used) < text.config.vocab_size:
            raise ArgumentError(
                f"tokens {min(used)} to {max(used)}, expected 0 to {text.config.vocab_size - 1}"
            )
        layers = recogniser.encoder.config.num_layers
        self.head = SoftHead(config, layers, width, size, text, rngs=rngs)

    def place_towers(self, speech: HubertCtc, text: Qwen3Encoder) -> None:
        """As `TwoTowers`; `speech` is a recogniser."""
        super().place_towers(speech.encoder, text)
        self.ctc = speech.lm_head

    @property
    def min_samples(self) -> int:
        """The fewest samples that give a frame, or a pair of them where nothing is compressed."""
        config = self.speech.config
        frames = PAIR if self.config.compress_blank is None else 1
        return config.min_samples + (frames - 1) * config.frame_samples

    @property
    def may_lose(self) -> bool:
        """Whether a clip can have more speech tokens than there is room for."""
        most = 1.0 if self.config.compress_blank is not None else 1.0 / PAIR
        return self.tokens_per_frame < most

    @property
    def speech_reader(self) -> Qwen3Encoder:
        """The text tower, with the trained changes for speech if there are any."""
        return self.text if self.head.lora is None else self.head.lora.add_to(self.text)

    @checked
    def calibrate(self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]) -> None:
        """Fit the fixed factors of the layer states, where a residual reads them."""
        if self.head.residual is None:
            return
        output = self.speech(samples, lengths)
        self.head.fit_layer_scale(output.layer_states, output.frame_mask)

    @checked
    def speech_tokens(
        self, layer_states: Float[Array, "Y B T D"], frame_mask: Bool[Array, "B T"]
    ) -> SpeechTokens:
        config = self.config
        speech: Any = self.speech
        logits = self.ctc(speech.finish(layer_states[-1])).astype(jnp.float32)
        # Runs are those of the recogniser itself, so that training does not move their borders.
        blank, best = jax.nn.softmax(logits)[:, :, config.blank], jnp.argmax(logits, axis=-1)
        logits, residual = self.head(layer_states, logits)
        bounds = self._bounds(frame_mask)
        if config.compress_blank is None:
            groups = pairs_of(frame_mask, *bounds)
        else:
            keep = frame_mask & (blank <= config.compress_blank)
            groups = runs_of(keep, best, *bounds)
        probable = groups.average(jax.nn.softmax(logits))
        if config.compress_blank is not None:
            is_blank = jnp.arange(probable.shape[2])[None, None, :] == config.blank
            probable *= jnp.where(is_blank, config.blank_weight, 1.0)
            probable /= jnp.maximum(jnp.sum(probable, axis=2, keepdims=True), 1e-12)
        vectors = jnp.matmul(probable, self.token_table(), precision=EXACT)
        if residual is not None:
            vectors += groups.average(residual)
        return SpeechTokens(
            vectors=vectors.astype(self.text.dtype),
            counts=groups.counts,
            lost=groups.wanted - groups.counts,
        )

    def token_table(self) -> Float32[Array, "V E"]:
        """The text tower's embedding of each output, that of `rest` for the blank."""
        config = self.config
        rest = () if config.rest is None else (config.rest,)
        rows = [rest if i == config.blank else ids for i, ids in enumerate(config.outputs)]
        ids = np.zeros((len(rows), max(1, *map(len, rows))), np.int32)
        weights = np.zeros(ids.shape, np.float32)
        for row, tokens in enumerate(rows):
            ids[row, : len(tokens)] = tokens
            weights[row, : len(tokens)] = 1.0 / max(len(tokens), 1)
        taken = self.text.embed_tokens.embedding[...][jnp.asarray(ids)].astype(jnp.float32)
        return jnp.einsum("vm,vme->ve", jnp.asarray(weights), taken, precision=EXACT)

    @property
    def tokens_per_frame(self) -> float:
        """Speech tokens that there is room for, to a frame."""
        config = self.speech.config
        rate = self.config.max_tokens_per_second * config.frame_samples / config.sample_rate
        return min(rate, 1.0)

    def _bounds(self, frame_mask: Bool[Array, "B T"]) -> tuple[int, Int[Array, " B"]]:
        """The most tokens of the batch, and of each clip by its own length."""
        # For all numbers of frames at once, on the host: the same to the bit on any device.
        room = np.ceil(np.arange(frame_mask.shape[1] + 1) * self.tokens_per_frame - 1e-6)
        room = np.maximum(room, 1).astype(np.int32)
        return int(room[-1]), jnp.asarray(room)[jnp.sum(frame_mask.astype(jnp.int32), axis=1)]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FrameGroups:
    """Which frames make up which speech token. (As in `Batch`, fields carry no shapes.)

    Attributes:
        weights: [B, T, U] float32, of each frame in each token; those of a token sum to 1. For
            long clips, whose product would grow with the square of their length, two arrays
            [B, T] instead: the token of each frame, U or -1 for none, and its weight.
        counts: [B] int32, tokens of each row.
        wanted: [B] int32, tokens that there would be without a bound.
    """

    weights: Any
    counts: Any
    wanted: Any
    size: int = dataclasses.field(metadata={"static": True})

    def average(self, frames: Float32[Array, "B T C"]) -> Float32[Array, "B U C"]:
        """The mean over each token's frames; a product, as accelerators are slow at scatters."""
        if isinstance(self.weights, tuple):
            token, weight = self.weights
            token = jnp.where((token < 0) | (token >= self.size), self.size, token)
            add = functools.partial(jax.ops.segment_sum, num_segments=self.size + 1)
            return jax.vmap(add)(frames * weight[:, :, None], token)[:, : self.size]
        return jnp.einsum("btu,btc->buc", self.weights, frames, precision=EXACT)


@checked
def pairs_of(frame_mask: Bool[Array, "B T"], size: int, bound: Int[Array, " B"]) -> FrameGroups:
    """Every two frames are a token, a last single one is left out; arguments as `runs_of`."""
    frames = frame_mask.shape[1]
    size = min(size, max(frames // PAIR, 1))
    wanted = jnp.sum(frame_mask.astype(jnp.int32), axis=1) // PAIR
    if blocks_pay(frames):
        token = jnp.broadcast_to(jnp.arange(frames) // PAIR, frame_mask.shape)
        weights: Any = (token, jnp.full(token.shape, 1.0 / PAIR, jnp.float32))
    else:
        weights = jax.nn.one_hot(jnp.arange(frames) // PAIR, size, dtype=jnp.float32) / PAIR
        weights = jnp.broadcast_to(weights, (frame_mask.shape[0], *weights.shape))
    return FrameGroups(weights, jnp.minimum(wanted, bound), wanted, size)


@checked
def runs_of(
    keep: Bool[Array, "B T"], best: Int[Array, "B T"], size: int, bound: Int[Array, " B"]
) -> FrameGroups:
    """Every run of kept frames with one best token, and nothing dropped in between, is a token.

    Args:
        keep: False at frames that are dropped.
        best: the token of each frame.
        size: tokens that there is room for.
        bound: the most tokens of each row; those behind are left out.
    """
    kept_before = jnp.pad(keep[:, :-1], ((0, 0), (1, 0)))
    same = jnp.pad(best[:, 1:] == best[:, :-1], ((0, 0), (1, 0)))
    starts = (keep & ~(kept_before & same)).astype(jnp.int32)
    run = jnp.where(keep, jnp.cumsum(starts, axis=1) - 1, -1)
    wanted = jnp.sum(starts, axis=1)
    if blocks_pay(keep.shape[1]):
        count = functools.partial(jnp.bincount, length=keep.shape[1] + 1)
        frames = jax.vmap(count)(jnp.where(run < 0, keep.shape[1], run))
        weight = jnp.reciprocal(jnp.take_along_axis(frames, run, axis=1).astype(jnp.float32))
        weights: Any = (run, jnp.where(run < 0, 0.0, weight))
    else:
        member = jax.nn.one_hot(run, size, dtype=jnp.float32)
        weights = member / jnp.maximum(jnp.sum(member, axis=1, keepdims=True), 1.0)
    return FrameGroups(weights, jnp.minimum(wanted, bound), wanted, size)


class SoftHead(Head):
    """What is trained of a soft-token model; at first it changes nothing but the temperature.

    Args:
        config: says what there is.
        num_layers, width: of the speech tower.
        outputs: of its CTC layer.
        text: the text tower.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(
        self,
        config: SoftCtcConfig,
        num_layers: int,
        width: int,
        outputs: int,
        text: Qwen3Encoder,
        *,
        rngs: nnx.Rngs,
    ):
        super().__init__(num_layers)
        self.of_logits = config.residual == "logits"
        self.logit_scale = nnx.Param(jnp.float32(1.0 / config.logit_temperature))
        self.logit_bias = nnx.Param(jnp.zeros(outputs, jnp.float32))
        size = {"none": 0, "logits": outputs, "frames": text.config.width}[config.residual]
        # Assigned once: NNX takes what was None for static.
        self.residual = _zeros(num_layers * width, size, rngs) if size else None
        self.lora = TextLora(text, config.lora_rank, rngs=rngs) if config.lora_rank else None

    def __call__(
        self, layer_states: Float[Array, "Y B T D"], logits: Float32[Array, "B T V"]
    ) -> tuple[Float32[Array, "B T V"], Float32[Array, "B T E"] | None]:
        """The changed logits, and what is added to the frames' vectors."""
        logits = logits * self.logit_scale[...] + self.logit_bias[...][None, None, :]
        if self.residual is None:
            return logits, None
        scale = self.layer_scale[...][:, None, None, None]
        states = jnp.moveaxis(layer_states.astype(jnp.float32) * scale, 0, 2)
        change = self.residual(states.reshape(*states.shape[:2], -1))
        return (logits + change, None) if self.of_logits else (logits, change)

    def fold(self) -> dict[str, HostArray]:
        if self.residual is None:
            return {}
        kernel, scale = (np.asarray(x[...]) for x in (self.residual.kernel, self.layer_scale))
        return {"residual.kernel": kernel * np.repeat(scale, len(kernel) // len(scale))[:, None]}


def _zeros(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    zeros = nnx.initializers.zeros_init()
    return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=zeros, rngs=rngs)


class TextLora(nnx.Module):
    """Low-rank changes of a text tower's attention projections, zero at first (arXiv 2106.09685).

    Each is down [Y, inputs, rank] · up [Y, rank, outputs], for all layers Y.
    """

    def __init__(self, text: Qwen3Encoder, rank: int, *, rngs: nnx.Rngs):
        for name in ATTENTION:
            shape = getattr(text.layers.attention, name).kernel.shape
            layers, inputs, outputs = shape
            down = jax.random.normal(rngs.params(), (layers, inputs, rank), jnp.float32)
            setattr(self, f"{name}_down", nnx.Param(down / jnp.sqrt(jnp.float32(inputs))))
            setattr(self, f"{name}_up", nnx.Param(jnp.zeros((layers, rank, outputs), jnp.float32)))

    def add_to(self, text: Qwen3Encoder) -> Qwen3Encoder:
        """A copy of the tower with the changes added to its weights."""
        weights = {path: leaf.get_value() for path, leaf in param_tree.flat_weights(text).items()}
        for name in ATTENTION:
            down, up = (getattr(self, f"{name}_{part}")[...] for part in ("down", "up"))
            path = f"layers.attention.{name}.kernel"
            change = jnp.matmul(down, up, precision=EXACT)
            kernel = dequantize(weights[path])
            weights[path] = kernel + change.astype(kernel.dtype)
        return param_tree.fill(text, weights)
