"""HuBERT as a speech encoder, equal to the published base, large and xlarge models.

wav2vec 2.0, XLSR-53, XLS-R, MMS and UniSpeech-SAT are the same encoder, trained in other ways.

Sources: Hsu et al., 2021 (arXiv 2106.07447); wav2vec 2.0 (arXiv 2006.11477) for the
convolutions; XLS-R (arXiv 2111.09296); MMS (arXiv 2305.13516); UniSpeech-SAT
(arXiv 2110.05752); and the published checkpoints in Hugging Face format, whose
`config.json` and tensors decide in doubt.

Padding never matters: masks follow lengths, the group norm's statistics run over a
clip's own frames, and padded frames are zero wherever a valid one could see them.
`padding="reference"` reads padding as if it were speech, for parity with heads that
were trained that way.

Long clips are computed in blocks of frames (`models.long_audio`): memory grows with their length.
"""

import dataclasses
from typing import Any, ClassVar, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import AnyArray
from mrl_jax.core.errors import ArgumentError
from mrl_jax.models import long_audio
from mrl_jax.models.hubert_config import HubertConfig
from mrl_jax.models.language_adapter import LanguageAdapter
from mrl_jax.models.position_conv import GroupedConv, WeightNormConv
from mrl_jax.models.speech_tower import Padding
from mrl_jax.nn.activations import gelu
from mrl_jax.nn.attention import attend
from mrl_jax.nn.block_attention import BLOCK, blocks_pay, zero_beyond
from mrl_jax.nn.layer_stack import Dtypes, run_layers, stack_layers
from mrl_jax.nn.linear import Conv, Linear
from mrl_jax.nn.masking import length_mask
from mrl_jax.nn.norms import FixedBatchNorm, LayerNorm, TimeGroupNorm


class ConvBlock(nnx.Module):
    """One feature convolution: convolve, norm where the variant has one, exact GELU."""

    def __init__(
        self, config: HubertConfig, index: int, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]
    ):
        channels = config.conv_channels[index]
        self.conv = Conv(
            1 if index == 0 else config.conv_channels[index - 1],
            channels,
            kernel_size=config.conv_kernels[index],
            strides=config.conv_strides[index],
            padding="VALID",
            use_bias=config.conv_bias,
            rngs=rngs,
            **dtypes,
        )
        # The published models keep torch's default epsilon here, whatever `norm_epsilon` is.
        options: dict[str, Any] = {"epsilon": 1e-5, "param_dtype": dtypes["param_dtype"]}
        if config.feature_norm == "layer":
            self.norm = LayerNorm(channels, **options)
        else:
            self.norm = TimeGroupNorm(channels, **options) if index == 0 else None

    def __call__(
        self,
        x: Float[Array, "B S C"],
        mask: Bool[Array, "B T"] | None,
        statistics: tuple[Float32[Array, "B 1 C2"], Float32[Array, "B 1 C2"]] | None = None,
    ) -> Float[Array, "B T C2"]:
        """`statistics` are the mean and variance of the whole clip, where `x` is a part of it."""
        x = self.conv(x)
        if isinstance(self.norm, TimeGroupNorm):
            x = (
                self.norm(x, mask)
                if statistics is None
                else self.norm.by_statistics(x, *statistics)
            )
        elif self.norm is not None:
            x = self.norm(x)
        return gelu(x)


class FeatureEncoder(nnx.Module):
    """Seven strided convolutions from samples to frames of one 20 ms hop."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        self.config = config
        self.blocks = nnx.List(
            ConvBlock(config, index, rngs=rngs, **dtypes)
            for index in range(len(config.conv_channels))
        )

    def __call__(
        self, samples: Float[Array, "B S"], lengths: Int[Array, " B"] | None
    ) -> Float[Array, "B T C"]:
        x = samples[:, :, None]
        for index, block in enumerate(self.blocks):
            mask = None
            if lengths is not None and index == 0:
                # Later convolutions have no padding and no norm over time, so a
                # valid frame only ever sees valid ones.
                first = self.config.conv_kernels[0], self.config.conv_strides[0]
                frames = (samples.shape[1] - first[0]) // first[1] + 1
                mask = length_mask((lengths - first[0]) // first[1] + 1, frames)
            x = block(x, mask)
        return x


def _layer_norm(config: HubertConfig, width: int, dtypes: Dtypes) -> LayerNorm:
    return LayerNorm(width, epsilon=config.norm_epsilon, param_dtype=dtypes["param_dtype"])


class SelfAttention(nnx.Module):
    """Bidirectional multi-head attention with biases."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        def linear() -> Linear:
            return Linear(config.width, config.width, rngs=rngs, **dtypes)

        self.num_heads = config.num_heads
        self.q_proj = linear()
        self.k_proj = linear()
        self.v_proj = linear()
        self.out_proj = linear()

    def __call__(
        self,
        x: Float[Array, "B T D"],
        lengths: Int[Array, " B"] | None,
        bias: Float[Array, "B N T T"] | None = None,
    ) -> Float[Array, "B T D"]:
        heads = (*x.shape[:2], self.num_heads, -1)
        query, key, value = (
            projection(x).reshape(heads) for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = attend(query, key, value, lengths=lengths, bias=bias)
        return self.out_proj(mixed.reshape(x.shape))

    def gates(self, x: Float[Array, "B T D"]) -> Float32[Array, "B N T 1"] | None:
        """How much of a bias by distance each frame takes; None where there is no such bias."""
        return None


class FeedForward(nnx.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        self.up = Linear(config.width, config.mlp_width, rngs=rngs, **dtypes)
        self.down = Linear(config.mlp_width, config.width, rngs=rngs, **dtypes)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        return self.down(gelu(self.up(x)))


class HubertLayer(nnx.Module):
    """One layer; `pre_norm` says where its two norms stand."""

    attention_type: ClassVar[type[SelfAttention]] = SelfAttention

    def __init__(self, config: HubertConfig, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        self.pre_norm = config.pre_norm
        self.attention = self.attention_type(config, rngs=rngs, **dtypes)
        self.attention_norm = _layer_norm(config, config.width, dtypes)
        self.feed_forward = FeedForward(config, rngs=rngs, **dtypes)
        self.feed_forward_norm = _layer_norm(config, config.width, dtypes)
        width, inner = config.width, config.adapter_width
        self.adapter = LanguageAdapter(width, inner, rngs=rngs, **dtypes) if inner else None

    def __call__(
        self, x: Float[Array, "B T D"], lengths: Int[Array, " B"] | None, *context: Array
    ) -> Float[Array, "B T D"]:
        """`context` is what the layer's kind of attention takes besides."""
        mixed = self.attention(self.before_attention(x), lengths, *context)
        return self.after_attention(x, mixed)

    def before_attention(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """What attention reads."""
        return self.attention_norm(x) if self.pre_norm else x

    def after_attention(
        self, x: Float[Array, "B T D"], mixed: Float[Array, "B T D"]
    ) -> Float[Array, "B T D"]:
        """The layer's output from its input and what attention gives; frames are on their own."""
        if self.pre_norm:
            x = x + mixed
            x = x + self.feed_forward(self.feed_forward_norm(x))
            return x if self.adapter is None else x + self.adapter(x)
        x = self.attention_norm(x + mixed)
        return self.feed_forward_norm(x + self.feed_forward(x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HubertOutput:
    """The states of a forward pass. Under "masked" padding, padded frames are zero everywhere.

    Attributes:
        last_hidden: [B, T, D], the encoder's output: after the final norm in pre-norm
            variants.
        layer_states: [Y, B, T, D], the output of every layer as it is, so that in pre-norm
            variants the last one is *before* the final norm (as in transformers 5,
            and unlike transformers 4).
        layer_input: [B, T, D], what the first layer reads.
        frame_mask: [B, T], True at frames of speech; all True under "reference" padding.
    """

    last_hidden: Float[Array, "B T D"]
    layer_states: Float[Array, "Y B T D"]
    layer_input: Float[Array, "B T D"]
    frame_mask: Bool[Array, "B T"]

    @property
    def hidden_states(self) -> Float[Array, "states B T D"]:
        """The first layer's input and every layer's output, Y + 1 states in order."""
        return jnp.concatenate((self.layer_input[None], self.layer_states))


@checked
class HubertEncoder(nnx.Module):
    """Convolutions, a convolutional position embedding, and a transformer over frames.

    Args:
        config: sizes and variants.
        padding: see `speech_tower.Padding`.
        dtype: of the computation; norms and softmax run in float32 anyway.
        param_dtype: in which the weights are held.
        remat, unroll: see `run_layers`.
        rngs: source of the initial weights; the stream `params` is read.
    """

    layer_type: ClassVar[type[HubertLayer]] = HubertLayer

    def __init__(
        self,
        config: HubertConfig,
        *,
        padding: Padding = "masked",
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        if padding not in ("masked", "reference"):
            raise ArgumentError(f"padding is {padding!r}, expected 'masked' or 'reference'")
        self.config = config
        self.padding: Padding = padding
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.unroll = unroll
        channels, width = config.conv_channels[-1], config.width
        dtypes = Dtypes(dtype=dtype, param_dtype=param_dtype)
        self.feature_encoder = FeatureEncoder(config, rngs=rngs, **dtypes)
        self.projection_norm = (
            _layer_norm(config, channels, dtypes) if config.projection_norm else None
        )
        self.projection = Linear(channels, width, rngs=rngs, **dtypes)
        batch_norm = config.position_norm == "batch"
        self.position_norm = (
            FixedBatchNorm(width, epsilon=1e-5, param_dtype=param_dtype) if batch_norm else None
        )
        self.position_conv = (GroupedConv if batch_norm else WeightNormConv)(
            width, config.position_kernel, config.position_groups, rngs=rngs, **dtypes
        )
        # Before the layers (post-norm variants) or after them (pre-norm variants).
        self.encoder_norm = _layer_norm(config, width, dtypes)
        self.layers = stack_layers(
            lambda layer_rngs: self.layer_type(config, rngs=layer_rngs, **dtypes),
            config.num_layers,
            rngs,
        )

    @checked
    def __call__(
        self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]
    ) -> HubertOutput:
        """All hidden states of a padded batch.

        Args:
            samples: clips as `pad_clips` makes them: normalised alone, then padded.
            lengths: samples of each clip; from 0 to S.

        Raises:
            ArgumentError: S is too short for a single frame.
        """
        frames = self.config.frame_count(samples.shape[1])
        if frames == 0:
            raise ArgumentError(
                f"the batch is {samples.shape[1]} samples long, expected at least "
                f"{self.config.min_samples}: one frame"
            )
        masked = self.padding == "masked"
        samples, lengths = jnp.asarray(samples, self.dtype), jnp.asarray(lengths)
        if blocks_pay(frames):
            return self.in_blocks(samples, lengths)
        x = self.feature_encoder(samples, lengths if masked else None)
        if self.projection_norm is not None:
            x = self.projection_norm(x)
        x = self.projection(x)

        frame_lengths = self.config.frame_count(lengths) if masked else None
        if frame_lengths is not None:
            frame_mask = length_mask(frame_lengths, frames)
        else:
            frame_mask = jnp.ones(x.shape[:2], jnp.bool_)

        def zero_padding(states: Float[Array, "... D"]) -> Float[Array, "... D"]:
            if not masked:
                return states
            mask = frame_mask.reshape((1,) * (states.ndim - 3) + (*frame_mask.shape, 1))
            return jnp.where(mask, states, jnp.zeros((), states.dtype))

        x = zero_padding(x)
        # Batch norm shifts zeros; the convolution is to see them, as at a clip's own ends.
        placed = x if self.position_norm is None else zero_padding(self.position_norm(x))
        x = x + gelu(self.position_conv(placed))
        if not self.config.pre_norm:
            x = self.encoder_norm(x)
        layer_input = x
        options: dict[str, Any] = {"remat": self.remat, "unroll": self.unroll, "keep_states": True}
        context = (frame_lengths, *self.layer_context(frames))
        x, layer_states = run_layers(self.layers, x, *context, **options)
        assert layer_states is not None
        return HubertOutput(
            last_hidden=zero_padding(self.finish(x)),
            layer_states=zero_padding(layer_states),
            layer_input=zero_padding(layer_input),
            frame_mask=frame_mask,
        )

    def in_blocks(
        self,
        samples: Float[AnyArray, "B S"],
        lengths: Int[AnyArray, " B"],
        *,
        size: int = BLOCK,
    ) -> HubertOutput:
        """The same in blocks of `size` frames, as long clips are computed: `models.long_audio`."""
        samples, lengths = jnp.asarray(samples, self.dtype), jnp.asarray(lengths)
        frames = self.config.frame_count(samples.shape[1])
        masked = self.padding == "masked"
        all_frames = jnp.full(len(samples), frames, jnp.int32)
        frame_lengths = self.config.frame_count(lengths) if masked else all_frames
        valid = lengths if masked else None
        x = long_audio.features_in_blocks(self, samples, valid, frame_lengths, size)
        layer_input = x = long_audio.add_positions(self, x, frame_lengths)
        by_distance = self.distance_bias(x.shape[0] * size)
        x, states = run_layers(
            self.layers,
            x,
            frame_lengths,
            by_distance,
            remat=self.remat,
            unroll=self.unroll,
            keep_states=True,
            call=long_audio.layer_call(self, by_distance),
        )
        assert states is not None

        def finish(first: Int[Array, ""], states: Float[Array, "B F D"]) -> Array:
            return zero_beyond(self.finish(states), frame_lengths, first)

        if self.config.pre_norm:
            x = long_audio.map_blocks(finish, x, frame_lengths, size)

        def joined(blocks: Float[Array, "... J B F D"]) -> Float[Array, "... B T D"]:
            whole = jnp.moveaxis(blocks, -4, -3)
            whole = whole.reshape(*whole.shape[:-3], -1, whole.shape[-1])
            return whole if whole.shape[-2] == frames else whole[..., :frames, :]

        return HubertOutput(
            last_hidden=joined(x),
            layer_states=joined(states),
            layer_input=joined(layer_input),
            frame_mask=length_mask(frame_lengths, frames),
        )

    def layer_context(self, frames: int) -> tuple[Array, ...]:
        """What every layer takes besides states and lengths: nothing here."""
        return ()

    def distance_bias(self, frames: int) -> Float32[Array, "N distances"] | None:
        """What every head adds for the distance of two frames, in blocks; nothing here."""
        return None

    def finish(self, last_state: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        """The encoder's output from the last of its `layer_states`: normed in pre-norm variants."""
        return self.encoder_norm(last_state) if self.config.pre_norm else last_state


@checked
def abstract_hubert(config: HubertConfig, **options: Any) -> HubertEncoder:
    """A `HubertEncoder` with shapes in place of weights, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: HubertEncoder(config, **options, rngs=nnx.Rngs(0)))
