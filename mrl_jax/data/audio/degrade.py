"""Degraded recordings: conditions outside the recording room.

`degrade` puts a clip [S] of float32 into a `Condition`. It is a pure function of the clip,
the condition and the generator; `generator_of` makes the generator from a seed and the
clip's name alone, so neither the order of clips nor their batches change a sample. The
same seed and name give the same noise at every level, only its gain differs.

A signal-to-noise ratio is that of mean powers over the whole clip, pauses included.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.augment import change_speed, reverberate

AMOUNTS: Mapping[str, str] = MappingProxyType(
    {
        "white": "snr_db",
        "babble": "snr_db",
        "reverberation": "seconds",
        "speed": "factor",
        "length": "fraction",
    }
)
"""What the amount of a kind of condition is; `clean` and `telephone` have none."""

TITLES = {
    "white": "white noise, {:g} dB",
    "babble": "babble, {:g} dB",
    "reverberation": "reverberation, {:g} s",
    "speed": "speed, {:g} times",
    "length": "first {:.0%}",
}
TALKERS = 6
"""Clips that are mixed to babble, or as many as there are."""

TELEPHONE_RATE = 8000
TELEPHONE_BAND = (250.0, 300.0, 3400.0, 3700.0)
"""Hertz between which the telephone's gain rises to 1, and between which it falls to 0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One way in which recordings are worse.

    Attributes:
        kind: `clean`, `telephone`, or a key of `AMOUNTS`.
        amount: dB, seconds, or a factor, as `AMOUNTS` says.
    """

    kind: str
    amount: float | None = None

    def __post_init__(self) -> None:
        where = f"condition {self.kind}"
        if self.kind not in (*AMOUNTS, "clean", "telephone"):
            known = ", ".join(("clean", "telephone", *AMOUNTS))
            raise MrlError(f"expected one of {known}", where=where, hint="correct its name")
        if (self.amount is None) != (self.kind not in AMOUNTS):
            takes = AMOUNTS.get(self.kind, "no amount")
            raise MrlError(f"the amount is {self.amount}", where=where, hint=f"it takes {takes}")
        if self.amount is None or AMOUNTS[self.kind] == "snr_db":
            return
        if self.amount <= 0 or (self.kind == "length" and self.amount > 1):
            most = " and at most 1" if self.kind == "length" else ""
            problem = f"the amount is {self.amount}, expected more than 0{most}"
            raise MrlError(problem, where=where, hint="correct it")

    @property
    def parameters(self) -> dict[str, str | float]:
        """For records: the kind, and the amount under its own name."""
        amount = {} if self.amount is None else {AMOUNTS[self.kind]: self.amount}
        return {"condition": self.kind, **amount}

    @property
    def title(self) -> str:
        """A few words for tables and figures."""
        if self.amount is None:
            return {"clean": "clean", "telephone": "telephone band"}[self.kind]
        return TITLES[self.kind].format(self.amount)


def generator_of(seed: int, kind: str, name: str) -> np.random.Generator:
    """The generator for one clip under one kind of condition."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{name}".encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def degrade(
    clip: HostArray,
    condition: Condition,
    rng: np.random.Generator,
    *,
    sample_rate: int,
    others: Sequence[HostArray] = (),
) -> HostArray:
    """The clip [S] in a condition, as a new one of float32.

    Args:
        rng: see `generator_of`.
        others: clips that babble is mixed from, in an order that does not change.

    Raises:
        MrlError: babble without other clips.
    """
    amount = condition.amount
    if condition.kind == "telephone":
        return telephone_band(clip, sample_rate)
    if amount is None:
        return clip.astype(np.float32)
    if condition.kind == "white":
        return mix(clip, rng.standard_normal(clip.size), amount)
    if condition.kind == "babble":
        return mix(clip, babble(others, rng, clip.size), amount)
    if condition.kind == "reverberation":
        return reverberate(clip, rng, amount, sample_rate)
    if condition.kind == "speed":
        return change_speed(clip, amount)
    return first_part(clip, amount)


def mix(clip: HostArray, noise: HostArray, snr_db: float) -> HostArray:
    """The clip [S] with noise [S] at a mean power `snr_db` under its own; silence stays silent."""
    speech, level = _power(clip), _power(noise)
    gain = np.sqrt(speech / level * 10 ** (-snr_db / 10)) if level > 0 else 0.0
    return (clip + gain * noise.astype(np.float64)).astype(np.float32)


def babble(others: Sequence[HostArray], rng: np.random.Generator, size: int) -> HostArray:
    """Several people talking at once: some of the clips, each at the same mean power.

    Each clip is begun anywhere and repeated until `size` samples are full.

    Returns:
        [size] float64.
    """
    mixed, talkers = np.zeros(size), 0
    order = (others[place] for place in rng.permutation(len(others)))
    for clip in itertools.islice((clip for clip in order if clip.any()), TALKERS):
        talkers += 1
        talker = clip.astype(np.float64)
        start = int(rng.integers(talker.size))
        repeated = np.resize(np.roll(talker, -start), size)
        if not repeated.any():  # A pause as long as the clip.
            repeated = np.resize(np.roll(talker, -int(np.abs(talker).argmax())), size)
        mixed += repeated / np.sqrt(_power(talker))
    if not talkers:
        problem = "babble takes at least one other clip of the set that is not silent"
        raise MrlError(problem, where="babble noise", hint="measure a set with more recordings")
    return mixed


def telephone_band(clip: HostArray, sample_rate: int) -> HostArray:
    """The clip as a telephone carries it: 300 to 3400 Hz, at 8 kHz, and back again.

    Both resamplings cut or extend the spectrum. Nothing at 4 kHz or above is left.

    Returns:
        [S] float32.
    """
    step = int(np.lcm(sample_rate, TELEPHONE_RATE)) // TELEPHONE_RATE
    # Silence behind the clip, as a transform takes its end to be followed by its beginning;
    # and a size of small factors, which both rates have in whole samples.
    block = step << max(clip.size.bit_length() - 5, 0)
    size = -(-(clip.size + sample_rate // 20) // block) * block
    narrow = size * TELEPHONE_RATE // sample_rate
    spectrum = np.fft.rfft(clip.astype(np.float64), size)
    hertz = np.arange(spectrum.size) * (sample_rate / size)
    bins = min(narrow, size) // 2 + 1
    low, high = np.interp(hertz, TELEPHONE_BAND[:2], (0, 1)), TELEPHONE_BAND[2:]
    gain = np.sin(np.pi / 2 * low) ** 2 * np.cos(np.pi / 2 * np.interp(hertz, high, (0, 1))) ** 2
    carried = np.fft.irfft((spectrum * gain)[:bins], narrow) * (narrow / size)
    carried = carried.astype(np.float32)
    back = np.zeros(spectrum.size, np.complex128)
    back[:bins] = np.fft.rfft(carried.astype(np.float64))[:bins]
    return (np.fft.irfft(back, size)[: clip.size] * (size / narrow)).astype(np.float32)


def first_part(clip: HostArray, fraction: float) -> HostArray:
    """The beginning of a clip, as if the recording had been stopped early."""
    return clip[: max(int(np.ceil(clip.size * fraction)), 1)].astype(np.float32)


def _power(samples: HostArray) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64))) if samples.size else 0.0
