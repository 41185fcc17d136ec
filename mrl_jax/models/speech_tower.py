"""What the rest of the library needs of a speech tower, whichever model it is.

A class with these attributes and one line in `models.towers.TOWERS` is a new kind of tower.
"""

from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

from jaxtyping import Array, Bool, Float, Int

from mrl_jax.core.array_types import AnyArray

Padding = Literal["masked", "reference"]
"""Whether padding is kept out of every result, or read as if it were speech."""
Count = TypeVar("Count", int, Array)


@runtime_checkable
class SpeechTowerConfig(Protocol):
    """Sizes of a speech tower; a frozen dataclass.

    Attributes:
        width: of a frame's vector, D.
        num_layers: layers whose states are kept, Y.
        sample_rate: samples a second of the audio.
        normalize_clips: whether each clip is scaled to zero mean and unit variance first.
        min_samples: the fewest samples that give a frame.
        frame_samples: samples from one frame to the next.
    """

    @property
    def width(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def sample_rate(self) -> int: ...
    @property
    def normalize_clips(self) -> bool: ...
    @property
    def min_samples(self) -> int: ...
    @property
    def frame_samples(self) -> int: ...

    def frame_count(self, samples: Count) -> Count:
        """Frames that so many samples give, of a number or elementwise of an array."""
        ...


@runtime_checkable
class SpeechOutput(Protocol):
    """What a pass of a speech tower gives; a dataclass that is a pytree.

    Attributes:
        layer_states: [Y, B, T, D], the output of every layer.
        frame_mask: [B, T], True at frames of speech.
    """

    @property
    def layer_states(self) -> Float[Array, "Y B T D"]: ...
    @property
    def frame_mask(self) -> Bool[Array, "B T"]: ...


@runtime_checkable
class SpeechTower(Protocol):
    """An `nnx.Module` from clips to the states of all its layers.

    Its constructor takes (config, *, padding, dtype, param_dtype, remat, unroll, rngs), and its
    attributes are these, as in `HubertEncoder`.
    """

    padding: Padding
    dtype: Any
    remat: bool
    unroll: bool

    @property
    def config(self) -> SpeechTowerConfig: ...

    def __call__(
        self, samples: Float[AnyArray, "B S"], lengths: Int[AnyArray, " B"]
    ) -> SpeechOutput:
        """The states of a batch that `pad_clips` made; `lengths` are in samples."""
        ...
