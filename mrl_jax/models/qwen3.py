"""Qwen3 as a text encoder, equal to the published Qwen3-Embedding models.

Sources: Qwen3 technical report (arXiv 2505.09388), Qwen3 Embedding (arXiv 2506.05176),
and the published checkpoints, whose `config.json` and tensors decide in doubt.
"""

import dataclasses
import functools
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Float32, Int

from mrl_jax.core.arguments import Size, checked
from mrl_jax.core.array_types import AnyArray
from mrl_jax.core.checks import check_positive
from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.models.text_pooling import ACTIVATIONS, POOLINGS, DenseConfig, Pooling, pool_packed
from mrl_jax.nn.attention import attend, fitting_places
from mrl_jax.nn.layer_stack import Dtypes, run_layers, stack_layers
from mrl_jax.nn.linear import Linear
from mrl_jax.nn.masking import segment_positions, take_places, valid_first
from mrl_jax.nn.norms import RMSNorm
from mrl_jax.nn.pooling import l2_normalize, mean_valid, truncate
from mrl_jax.nn.rope import apply_rope, rope_angles


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class Qwen3Config:
    """Sizes of a Qwen3 encoder. The presets are those of the published checkpoints.

    Attributes:
        vocab_size, width, num_layers, num_heads, num_kv_heads, head_width, mlp_width: sizes.
        rope_theta: base of the rotary angles.
        norm_epsilon: of all norms.
        causal: a token sees those before it only; otherwise it sees the whole text.
        pooling: what becomes of a text's token vectors, see `text_pooling.POOLINGS`.
        dense: layers behind the pooling, in order.
    """

    vocab_size: Size
    width: Size
    num_layers: Size
    num_heads: Size
    num_kv_heads: Size
    head_width: Size
    mlp_width: Size
    rope_theta: float
    norm_epsilon: float
    causal: bool = True
    pooling: Pooling = "last"
    dense: tuple[DenseConfig, ...] = ()

    def __post_init__(self) -> None:
        check_positive(self, "rope_theta", "norm_epsilon")
        if self.pooling not in POOLINGS:
            raise ArgumentError(f"pooling is {self.pooling!r}, expected {' or '.join(POOLINGS)}")
        if self.num_heads % self.num_kv_heads:
            raise ArgumentError(
                f"num_heads is {self.num_heads}, expected a multiple of num_kv_heads, "
                f"{self.num_kv_heads}"
            )
        if self.head_width % 2:
            raise ArgumentError(
                f"head_width is {self.head_width}, expected an even number: "
                "rotary embedding rotates coordinates in pairs"
            )

    @property
    def embed_width(self) -> int:
        """Width of an embedding: that of the last layer behind the pooling, if there is one."""
        return self.dense[-1].width if self.dense else self.width

    @classmethod
    def embedding_0_6b(cls) -> "Qwen3Config":
        """Qwen3-Embedding-0.6B."""
        return cls(
            vocab_size=151669,
            width=1024,
            num_layers=28,
            num_heads=16,
            num_kv_heads=8,
            head_width=128,
            mlp_width=3072,
            rope_theta=1e6,
            norm_epsilon=1e-6,
        )

    @classmethod
    def embedding_4b(cls) -> "Qwen3Config":
        """Qwen3-Embedding-4B."""
        return dataclasses.replace(
            cls.embedding_0_6b(),
            vocab_size=151665,
            width=2560,
            num_layers=36,
            num_heads=32,
            mlp_width=9728,
        )

    @classmethod
    def embedding_8b(cls) -> "Qwen3Config":
        """Qwen3-Embedding-8B."""
        return dataclasses.replace(cls.embedding_4b(), width=4096, mlp_width=12288)


def _rms_norm(config: Qwen3Config, width: int, dtypes: Dtypes) -> RMSNorm:
    return RMSNorm(width, epsilon=config.norm_epsilon, param_dtype=dtypes["param_dtype"])


class Attention(nnx.Module):
    """Self-attention with grouped keys and values; q and k normed per head, then rotated."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        linear = functools.partial(Linear, use_bias=False, rngs=rngs, **dtypes)
        self.head_width = config.head_width
        self.q_proj = linear(config.width, config.num_heads * config.head_width)
        self.k_proj = linear(config.width, config.num_kv_heads * config.head_width)
        self.v_proj = linear(config.width, config.num_kv_heads * config.head_width)
        self.o_proj = linear(config.num_heads * config.head_width, config.width)
        self.q_norm = _rms_norm(config, config.head_width, dtypes)
        self.k_norm = _rms_norm(config, config.head_width, dtypes)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        angles: Float32[Array, "#B L half"],
        lengths: Int[Array, " B"] | None = None,
        segments: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        heads = (*x.shape[:2], -1, self.head_width)
        query = apply_rope(self.q_norm(self.q_proj(x).reshape(heads)), angles)
        key = apply_rope(self.k_norm(self.k_proj(x).reshape(heads)), angles)
        value = self.v_proj(x).reshape(heads)
        seen: dict[str, Any] = {"lengths": lengths, "segments": segments}
        mixed = attend(query, key, value, causal=lengths is None, **seen)
        return self.o_proj(mixed.reshape(*x.shape[:2], -1))


class SwiGlu(nnx.Module):
    """Gated MLP: down(silu(gate(x)) · up(x)) (arXiv 2002.05202)."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        linear = functools.partial(Linear, use_bias=False, rngs=rngs, **dtypes)
        self.gate_proj = linear(config.width, config.mlp_width)
        self.up_proj = linear(config.width, config.mlp_width)
        self.down_proj = linear(config.mlp_width, config.width)

    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        return self.down_proj(nnx.silu(self.gate_proj(x)) * self.up_proj(x))


class Qwen3Layer(nnx.Module):
    """One pre-norm layer: attention, then MLP, each around a residual.

    Attention is causal, unless `lengths` are given: then every token sees the first `lengths[b]`
    places of its row. With `segments` it sees those of its own segment only.
    """

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, **dtypes: Unpack[Dtypes]):
        self.attention_norm = _rms_norm(config, config.width, dtypes)
        self.attention = Attention(config, rngs=rngs, **dtypes)
        self.mlp_norm = _rms_norm(config, config.width, dtypes)
        self.mlp = SwiGlu(config, rngs=rngs, **dtypes)

    def __call__(
        self,
        x: Float[Array, "B L D"],
        angles: Float32[Array, "#B L half"],
        lengths: Int[Array, " B"] | None = None,
        segments: Int[Array, "B L"] | None = None,
    ) -> Float[Array, "B L D"]:
        x = x + self.attention(self.attention_norm(x), angles, lengths, segments)
        return x + self.mlp(self.mlp_norm(x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Qwen3Output:
    """What a forward pass gives; vectors at padding are unspecified.

    Attributes:
        last_hidden: [B, L, D], after the final norm: what is pooled.
        layer_states: [Y, B, L, D], the output of every layer before the final norm, or
            None unless asked for.
    """

    last_hidden: Float[Array, "B L D"]
    layer_states: Float[Array, "Y B L D"] | None


@checked
class Qwen3Encoder(nnx.Module):
    """The Qwen3 decoder stack without its output layer, read as a text encoder.

    Args:
        config: sizes.
        dtype: of the computation; norms, angles and softmax run in float32 anyway.
        param_dtype: in which the weights are held.
        remat, unroll: see `run_layers`.
        rngs: source of the initial weights; the stream `params` is read.
    """

    def __init__(
        self,
        config: Qwen3Config,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        remat: bool = False,
        unroll: bool = False,
        rngs: nnx.Rngs,
    ):
        self.config = config
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.unroll = unroll
        dtypes = Dtypes(dtype=dtype, param_dtype=param_dtype)
        init = nnx.initializers.normal(0.02)
        self.embed_tokens = nnx.Embed(
            config.vocab_size, config.width, embedding_init=init, rngs=rngs, **dtypes
        )
        self.layers = stack_layers(
            lambda layer_rngs: Qwen3Layer(config, rngs=layer_rngs, **dtypes),
            config.num_layers,
            rngs,
        )
        self.final_norm = _rms_norm(config, config.width, dtypes)
        widths = (config.width, *(layer.width for layer in config.dense))
        self.dense = nnx.List(
            [
                Linear(before, layer.width, use_bias=layer.bias, rngs=rngs, **dtypes)
                for before, layer in zip(widths, config.dense, strict=False)
            ]
        )

    @checked
    def __call__(
        self,
        inputs: Int[AnyArray, "B L"] | Float[AnyArray, "B L D"],
        mask: Bool[AnyArray, "B L"] | Int[AnyArray, "B L"],
        *,
        keep_states: bool = False,
    ) -> Qwen3Output:
        """Run all layers over token ids, or over vectors that stand in for token embeddings.

        Args:
            inputs: token ids, or vectors of the tower's width (speech, a soft prompt).
            mask: True (or 1) at valid places; padding may stand on either side.
            keep_states: also return the output of every layer.

        Raises:
            ArgumentError: shapes that do not belong together.
        """
        inputs, mask = jnp.asarray(inputs), jnp.asarray(mask, jnp.bool_)
        if mask.shape != inputs.shape[:2]:
            raise ArgumentError(
                f"mask is {mask.shape}, expected {inputs.shape[:2]}: one flag for each place"
            )
        if inputs.ndim == 3 and inputs.shape[-1] != self.config.width:
            raise ArgumentError(
                f"the vectors are {inputs.shape[-1]} wide, expected {self.config.width}"
            )
        x = self.embed_tokens(inputs) if inputs.ndim == 2 else inputs.astype(self.dtype)
        order = valid_first(mask)
        back = jnp.argsort(order, axis=1)
        extra = fitting_places(mask.shape[1], self.dtype) - mask.shape[1]
        order = jnp.pad(order, ((0, 0), (0, extra)))  # Behind what is valid: any vector will do.
        positions = jnp.arange(order.shape[1])[None, :]
        angles = rope_angles(positions, self.config.head_width, self.config.rope_theta)
        lengths = None if self.config.causal else jnp.sum(mask, axis=1, dtype=jnp.int32)
        options: dict[str, Any] = {"remat": self.remat, "unroll": self.unroll}
        options["keep_states"] = keep_states
        x, layer_states = run_layers(self.layers, take_places(x, order), angles, lengths, **options)
        return Qwen3Output(
            last_hidden=take_places(self.final_norm(x), back),
            layer_states=None if layer_states is None else take_places(layer_states, back),
        )

    @checked
    def embed(
        self,
        inputs: Int[AnyArray, "B L"] | Float[AnyArray, "B L D"],
        mask: Bool[AnyArray, "B L"] | Int[AnyArray, "B L"],
        *,
        dim: int | None = None,
    ) -> Float32[Array, "B E"]:
        """Unit-length embeddings: what `pool` gives, cut to `dim` if given, normalised.

        Ids must carry what the tower's tokenizer puts around a text, such as the end token (id
        151643) that the published models pool: `TextTokenizer.encode` does that.
        """
        pooled = self.pool(inputs, mask)
        return l2_normalize(pooled) if dim is None else truncate(pooled, dim)

    @checked
    def pool(
        self,
        inputs: Int[AnyArray, "B L"] | Float[AnyArray, "B L D"],
        mask: Bool[AnyArray, "B L"] | Int[AnyArray, "B L"],
    ) -> Float[Array, "B E"]:
        """Embeddings before they are normalised: token vectors pooled, and the layers behind."""
        last_hidden = self(inputs, mask).last_hidden
        return self._pooled(last_hidden, jnp.asarray(mask, jnp.bool_))

    def _pooled(
        self, last_hidden: Float[Array, "B L D"], mask: Bool[Array, "B L"]
    ) -> Float[Array, "B E"]:
        return self._behind(POOLINGS[self.config.pooling](last_hidden, mask))

    def _behind(self, pooled: Float[Array, "*rows D"]) -> Float[Array, "*rows E"]:
        """The layers behind the pooling."""
        for layer, config in zip(self.dense, self.config.dense, strict=True):
            pooled = ACTIVATIONS[config.activation](layer(pooled))
        return pooled

    @checked
    def embed_packed(
        self,
        inputs: Int[AnyArray, "groups rows L"] | Float[AnyArray, "groups rows L D"],
        texts: Int[AnyArray, "groups rows L"],
        firsts: Int[AnyArray, "groups texts"],
        lengths: Int[AnyArray, "groups texts"],
    ) -> Float32[Array, "groups texts E"]:
        """`embed` of texts of which several share a row; a token sees its own text only.

        Args:
            inputs: token ids, or vectors in their place, in the rows of each group.
            texts: number in its group of the text that a token is of, each in one run of places of
                one row; the number of texts where there is none.
            firsts: place of each text's first token, counted over the rows of its group.
            lengths: tokens of each text, 1 or more.
        """
        inputs, texts, firsts, lengths = map(jnp.asarray, (inputs, texts, firsts, lengths))
        groups, _, L = texts.shape
        x = self.embed_tokens(inputs) if inputs.ndim == 3 else inputs.astype(self.dtype)
        x, segments = x.reshape(-1, L, x.shape[-1]), texts.reshape(-1, L)
        positions = segment_positions(segments)
        angles = rope_angles(positions, self.config.head_width, self.config.rope_theta)
        whole = None if self.config.causal else jnp.full(len(x), L, jnp.int32)
        options: dict[str, Any] = {"remat": self.remat, "unroll": self.unroll}
        options["keep_states"] = False
        x, _ = run_layers(self.layers, x, angles, whole, segments, **options)
        last_hidden = self.final_norm(x).reshape(groups, -1, x.shape[-1])
        pool = functools.partial(pool_packed, pooling=self.config.pooling)
        pooled = jax.vmap(pool)(last_hidden, texts.reshape(groups, -1), firsts, lengths)
        return l2_normalize(self._behind(pooled))

    @checked
    def features(
        self,
        inputs: Int[AnyArray, "B L"] | Float[AnyArray, "B L D"],
        mask: Bool[AnyArray, "B L"] | Int[AnyArray, "B L"],
    ) -> Float32[Array, "B 4 D"]:
        """The vector of `embed`, and beside it means over tokens, which keep more of the words.

        Returns:
            the unit vector of `embed`, then means over valid places: of the inputs (token
            embeddings, or the given vectors), of the first layer's output, and of the final
            norm's output.

        Raises:
            MrlError: embeddings are of another width than tokens.
        """
        if self.config.embed_width != self.config.width:
            raise MrlError(
                f"the text tower's embeddings are {self.config.embed_width} wide and its tokens "
                f"{self.config.width}, so means of tokens do not stand beside its embeddings",
                hint="take the pooled vectors",
            )
        inputs, mask = jnp.asarray(inputs), jnp.asarray(mask, jnp.bool_)
        x = self.embed_tokens(inputs) if inputs.ndim == 2 else inputs.astype(self.dtype)
        output = self(x, mask, keep_states=True)
        assert output.layer_states is not None
        pooled = l2_normalize(self._pooled(output.last_hidden, mask))
        states = jnp.stack([x, output.layer_states[0], output.last_hidden])
        means = jnp.moveaxis(mean_valid(states, mask[None]), 0, 1)
        return jnp.concatenate([pooled[:, None], means], axis=1)


@checked
def abstract_qwen3(config: Qwen3Config, **options: Any) -> Qwen3Encoder:
    """A `Qwen3Encoder` with shapes in place of weights, to be filled from a checkpoint."""
    return nnx.eval_shape(lambda: Qwen3Encoder(config, **options, rngs=nnx.Rngs(0)))
