"""Changes that make one recording into many: rate, voice, channel, room, noise.

Every function takes a clip [S] of float32 and a generator where it draws anything,
and returns a new float32 clip; the same generator state gives the same samples.
Ranges stand in `AugmentConfig`; `augment_voice` suits single words before they are
joined, `augment_channel` the whole recording. A config names one of `AUGMENTATIONS`.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean

Range = tuple[float, float]
Augment = Callable[[HostArray, np.random.Generator], HostArray]
"""A clip [S] float32 to another one, of another length perhaps."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges from which changes are drawn, uniformly; factors in the logarithm.

    Attributes:
        speed: factor of playing speed: pitch, formants and rate together.
        tempo: factor of rate alone; pitch and formants stay.
        formants: factor of the spectral envelope's frequencies alone; pitch stays.
        gain_db: level of a word among its neighbours.
        eq_db: gain of each of six points of a random equaliser.
        tilt_db: gain of the highest frequency against the lowest, linear in between.
        band_limit_probability: how often frequencies are cut off.
        low_cut_hz: range of the lower edge of the band that is left.
        high_cut: range of its upper edge, as a fraction of half the sample rate.
        reverb_probability: how often a room is added.
        reverb_seconds: range of the time in which the room decays by 60 dB.
        noise_probability: how often noise is added.
        snr_db: range of the clip's level above the noise's.
        noise_slope: range of the exponent a in the noise's spectrum 1/f^a: 0 is white.
        mask_probability: how often each of `num_masks` stretches is silenced.
        num_masks: how many stretches may be silenced.
        mask_seconds: range of their length.
    """

    speed: Range = (0.8, 1.3)
    tempo: Range = (0.8, 1.25)
    formants: Range = (0.9, 1.12)
    gain_db: Range = (-6.0, 6.0)
    eq_db: Range = (-6.0, 6.0)
    tilt_db: Range = (-12.0, 12.0)
    band_limit_probability: float = 0.3
    low_cut_hz: Range = (50.0, 350.0)
    high_cut: Range = (0.6, 0.98)
    reverb_probability: float = 0.3
    reverb_seconds: Range = (0.05, 0.4)
    noise_probability: float = 0.8
    snr_db: Range = (5.0, 40.0)
    noise_slope: Range = (0.0, 2.0)
    mask_probability: float = 0.3
    num_masks: int = 2
    mask_seconds: Range = (0.02, 0.08)

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            where = f"AugmentConfig.{name}"
            if isinstance(value, tuple) and not value[0] <= value[1]:
                problem = f"is {value}, expected the lower end first"
                raise MrlError(problem, where=where, hint="swap the two")
            if name in ("speed", "tempo", "formants") and value[0] <= 0:
                problem = f"is {value}, expected factors above 0"
                raise MrlError(problem, where=where, hint="give factors such as (0.8, 1.25)")


@checked
def augment_voice(
    clip: HostArray, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> HostArray:
    """The same words in another voice: speed, formants, tempo and level."""
    clip = change_speed(clip, draw_factor(rng, config.speed))
    tempo, formants = draw_factor(rng, config.tempo), draw_factor(rng, config.formants)
    clip = stretch_and_warp(clip, sample_rate, tempo=tempo, formants=formants)
    return clip * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))


@checked
def augment_channel(
    clip: HostArray, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> HostArray:
    """The same words through another microphone, in another room, in noise; same length."""
    clip = equalise(clip, rng, config, sample_rate)
    if rng.random() < config.reverb_probability:
        clip = reverberate(clip, rng, rng.uniform(*config.reverb_seconds), sample_rate)
    clip = mask_time(clip, rng, config, sample_rate)
    if rng.random() < config.noise_probability:
        clip = add_noise(clip, rng, rng.uniform(*config.snr_db), rng.uniform(*config.noise_slope))
    return clip


@checked
def draw_factor(rng: np.random.Generator, ends: Range) -> float:
    """A factor, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(ends[0]), np.log(ends[1]))))


@checked
def change_speed(clip: HostArray, factor: float) -> HostArray:
    """Play `factor` times as fast: pitch and formants rise by the factor.

    Returns:
        [round(S / factor)] float32, resampled in the frequency domain.
    """
    size = max(round(clip.size / factor), 1)
    spectrum = np.fft.rfft(clip)
    bins = np.zeros(size // 2 + 1, spectrum.dtype)
    shared = min(bins.size, spectrum.size)
    bins[:shared] = spectrum[:shared]
    return (np.fft.irfft(bins, size) * (size / clip.size)).astype(np.float32)


@checked
def stretch_and_warp(
    clip: HostArray, sample_rate: int, *, tempo: float = 1.0, formants: float = 1.0
) -> HostArray:
    """Change rate and formants, each alone, by a phase vocoder; pitch stays.

    Frames of 32 ms, a quarter apart in the result, are read `tempo` times as far apart.
    A frame's envelope is its smoothed log spectrum (cepstrum under 1.5 ms), moved along
    the frequency axis by `formants`.

    Returns:
        [about S / tempo] float32; the clip itself where both factors are 1.
    """
    if tempo == 1.0 and formants == 1.0:
        return clip
    size = max(int(0.032 * sample_rate) // 4 * 4, 16)
    hop = size // 4
    out_size = max(round(clip.size / tempo), 1)
    count = -(-(out_size + size) // hop)
    window = np.hanning(size + 1)[:-1].astype(np.float32)
    # Frame i stands at i · hop in a result that begins `size` before the clip does.
    starts = np.round((np.arange(count) * hop - size) * tempo).astype(int)
    before = size + hop + int(size * tempo)
    padded = np.pad(clip.astype(np.float32), (before, max(starts[-1] + size - clip.size, 0)))
    index = (starts + before)[:, None] + np.arange(size)
    now = np.fft.rfft(padded[index] * window)
    # Each bin's phase goes on from the frame before by what it turns in one hop.
    turn = np.angle(now) - np.angle(np.fft.rfft(padded[index - hop] * window))
    phase = np.cumsum(turn, axis=0)
    magnitude = np.abs(now)
    if formants != 1.0:
        magnitude = magnitude * _envelope_change(magnitude, sample_rate, formants)
    frames = np.fft.irfft(magnitude * np.exp(1j * phase), size) * window
    out = np.zeros(count * hop + size, np.float32)
    weight = np.zeros_like(out)
    for part in range(4):  # Frames four apart do not overlap.
        rows = frames[part::4]
        span = slice(part * hop, part * hop + rows.size)
        out[span] += rows.ravel()
        weight[span] += np.tile(np.square(window), len(rows))
    return (out / np.maximum(weight, 1e-3))[size : size + out_size]


def _envelope_change(magnitude: HostArray, sample_rate: int, factor: float) -> HostArray:
    """What to multiply the spectra [frames, bins] by, to move their envelopes."""
    bins = magnitude.shape[1]
    floor = 1e-4 * magnitude.max() + 1e-12
    cepstrum = np.fft.irfft(np.log(magnitude + floor))
    keep = max(int(0.0015 * sample_rate), 2)
    cepstrum[:, keep : cepstrum.shape[1] - keep + 1] = 0.0
    envelope = np.fft.rfft(cepstrum).real
    place = np.minimum(np.arange(bins) / factor, bins - 1)
    low = np.minimum(place.astype(int), bins - 2)
    share = place - low
    moved = envelope[:, low] * (1 - share) + envelope[:, low + 1] * share
    return np.exp(moved - envelope)


@checked
def equalise(
    clip: HostArray, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> HostArray:
    """A random smooth equaliser and tilt; sometimes a narrower band. Same length."""
    size = _fft_size(clip.size)
    share = np.linspace(0.0, 1.0, size // 2 + 1)
    # Hearing's own scale, nearly: points lie closer at low frequencies.
    points = np.linspace(0.0, 1.0, 6) ** 1.5
    level = np.interp(share, points, rng.uniform(*config.eq_db, size=6))
    level += rng.uniform(*config.tilt_db) * (share - 0.5)
    if rng.random() < config.band_limit_probability:
        low = rng.uniform(*config.low_cut_hz) / (sample_rate / 2)
        high = rng.uniform(*config.high_cut)
        level -= 48 * np.clip((low - share) / max(low, 1e-6), 0, 1)
        level -= 48 * np.clip((share - high) / 0.1, 0, 1)
    shaped = np.fft.rfft(clip, size) * 10 ** (level / 20)
    return np.fft.irfft(shaped, size)[: clip.size].astype(np.float32)


@checked
def reverberate(
    clip: HostArray, rng: np.random.Generator, seconds: float, sample_rate: int
) -> HostArray:
    """Add a room's echo, noise that decays by 60 dB in `seconds`; same length and level."""
    room = rng.standard_normal(max(int(seconds * sample_rate), 1))
    room *= 10 ** (-3 * np.arange(room.size) / room.size)
    room *= rng.uniform(0.2, 0.8) / np.sqrt(np.sum(np.square(room)))
    room[0] = 1.0
    size = _fft_size(clip.size + room.size)
    wet = np.fft.irfft(np.fft.rfft(clip, size) * np.fft.rfft(room, size), size)[: clip.size]
    level = np.sqrt(np.mean(np.square(clip)) / (np.mean(np.square(wet)) + 1e-20))
    return (wet * level).astype(np.float32)


@checked
def add_noise(clip: HostArray, rng: np.random.Generator, snr_db: float, slope: float) -> HostArray:
    """Add steady noise with spectrum 1/f^slope, `snr_db` under the clip's mean power."""
    size = _fft_size(clip.size)
    frequency = np.maximum(np.arange(size // 2 + 1), 1 + size // 160)
    white = np.fft.rfft(rng.standard_normal(size))
    noise = np.fft.irfft(white * frequency ** (-slope / 2), size)[: clip.size]
    power = np.mean(np.square(clip)) * 10 ** (-snr_db / 10)
    noise *= np.sqrt(power / (np.mean(np.square(noise)) + 1e-20))
    return (clip + noise).astype(np.float32)


@checked
def mask_time(
    clip: HostArray, rng: np.random.Generator, config: AugmentConfig, sample_rate: int
) -> HostArray:
    """Silence short stretches, as SpecAugment does (arXiv 1904.08779), in the samples."""
    masked = clip.copy()
    for _ in range(config.num_masks):
        if rng.random() < config.mask_probability:
            size = min(int(rng.uniform(*config.mask_seconds) * sample_rate), clip.size)
            start = rng.integers(clip.size - size + 1)
            masked[start : start + size] = 0.0
    return masked


@checked
def mask_frequency(
    clip: HostArray, rng: np.random.Generator, *, widest: float, sample_rate: int
) -> HostArray:
    """Silence one band, as SpecAugment does (arXiv 1904.08779), in the samples; same length.

    It takes up to `widest` (0 to 1) of the mel scale that ends at half the sample rate.
    """
    size = _fft_size(clip.size)
    hertz = np.linspace(0.0, sample_rate / 2, size // 2 + 1)
    share = np.log1p(hertz / 700) / np.log1p(sample_rate / 1400)
    width = rng.uniform(0.0, widest)
    low = rng.uniform(0.0, 1.0 - width)
    spectrum = np.fft.rfft(clip, size)
    spectrum[(share >= low) & (share < low + width)] = 0.0
    return np.fft.irfft(spectrum, size)[: clip.size].astype(np.float32)


def _fft_size(samples: int) -> int:
    """A little more than `samples`, with small factors: a prime length takes ten times as long."""
    block = 1 << max(samples.bit_length() - 5, 0)
    return -(-samples // block) * block


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A change of training clips that a config can name.

    Attributes:
        change: from a clip [S] float32, a generator, `config` and `sample_rate`, to a clip.
        stretch: the most that it makes a clip longer by, with the ranges of `AugmentConfig`.
    """

    change: Callable[..., HostArray]
    stretch: float = 1.0


AUGMENTATIONS: Mapping[str, Augmentation] = MappingProxyType(
    {
        "channel": Augmentation(change=augment_channel),
        "mask": Augmentation(change=mask_time),
        "voice": Augmentation(
            change=augment_voice, stretch=1 / (AugmentConfig.speed[0] * AugmentConfig.tempo[0])
        ),
    }
)
"""What `augment=NAME` means in a config or on the command line."""


@checked
def check_augment(augment: Augment | str | None) -> None:
    """Raises an `MrlError` where `augment` is a name that `AUGMENTATIONS` does not have."""
    if isinstance(augment, str) and augment not in AUGMENTATIONS:
        raise MrlError(
            f"augment is {augment!r}, expected one of {', '.join(AUGMENTATIONS)}",
            hint=did_you_mean(augment, AUGMENTATIONS, otherwise="choose one of these, or none"),
        )


def resolve_augment(
    augment: Augment | str | None, stretch: float, sample_rate: int
) -> tuple[Augment | None, float]:
    """What changes the clips of a run, and the most that it makes one longer by.

    Args:
        augment: a function, or a name of `AUGMENTATIONS`, which is an `MrlError` if unknown.
        stretch: of a function; a name brings its own.
        sample_rate: of the clips.
    """
    check_augment(augment)
    if not isinstance(augment, str):
        return augment, stretch
    named = AUGMENTATIONS[augment]
    change = functools.partial(named.change, config=AugmentConfig(), sample_rate=sample_rate)
    return change, max(stretch, named.stretch)
