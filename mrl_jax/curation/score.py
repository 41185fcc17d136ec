"""`score`: measures of the sound of each clip, for `filter` to bound."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from mrl_jax.core.arguments import PositiveInt, checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.paths import PathText, expand_paths, user_path
from mrl_jax.curation import sound
from mrl_jax.curation.audio import load_audio
from mrl_jax.curation.rows import Row
from mrl_jax.curation.stage import BrokenRow, RowStage, StageConfig

OF_SOUND = ("snr_db", "clipped", "bandwidth_hz", "silence", "loudness_lufs")
OF_TEXT, OF_RECOGNISER = "characters_per_second", "confidence"


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoreConfig(StageConfig):
    """What clips are scored with.

    Attributes:
        recogniser: folder of a recogniser, whose confidence in its own transcript is a score;
            none if empty.
        most_rate: samples a second at which sound is measured at most; the recording's own below.
    """

    name: str = "score"
    recogniser: PathText = ""
    most_rate: PositiveInt = 48_000

    def __post_init__(self) -> None:
        expand_paths(self, f"stages.{self.name}")


class Score(RowStage):
    """Measures each clip by itself and drops none."""

    packages = ("pyloudnorm",)

    def __init__(self, config: ScoreConfig):
        require("pyloudnorm", by="measuring loudness")
        self.name, self.config = config.name, config
        names = (*OF_SOUND, OF_TEXT, *((OF_RECOGNISER,) if config.recogniser else ()))
        self.measures = tuple(f"{self.name}.{name}" for name in names)
        if config.recogniser:
            from mrl_jax.checkpoints.towers import TOWER_FILE, read_info
            from mrl_jax.models.towers import RECOGNISERS

            folder = user_path(config.recogniser)
            read_info(folder, expected=RECOGNISERS)
            self.extra_inputs = (str(folder / TOWER_FILE),)

    @functools.cached_property
    def _recogniser(self) -> Any:
        from mrl_jax.checkpoints.towers import load_hubert_ctc
        from mrl_jax.inference.asr import Recogniser

        return Recogniser(load_hubert_ctc(self.config.recogniser), batch_size=1, max_seconds=None)

    def apply(self, row: Row) -> Sequence[Row]:
        if row.audio is None:
            return [row]
        own = row.measured.get("source.rate", 16_000)
        rate = min(int(own), self.config.most_rate)
        clip = load_audio(row, rate)
        scored = row.with_measured(
            self.name,
            snr_db=sound.snr_db(clip, rate),
            clipped=sound.clipped_share(clip),
            bandwidth_hz=sound.bandwidth_hz(clip, rate),
            silence=sound.silent_share(clip, rate),
            loudness_lufs=sound.loudness_lufs(clip, rate),
        )
        if row.transcript is not None:
            letters = sum(not letter.isspace() for letter in row.transcript)
            speed = letters / (clip.size / rate)
            scored = scored.with_measured(self.name, **{OF_TEXT: speed})
        if self.config.recogniser:
            scored = scored.with_measured(self.name, **{OF_RECOGNISER: self._confidence(row)})
        return [scored]

    def _confidence(self, row: Row) -> float:
        recogniser = self._recogniser
        rate = recogniser.config.sample_rate
        clip = load_audio(row, rate)
        try:
            [(_, sure)] = recogniser.transcribe_scored([clip], names=[row.id])
        except MrlError as error:  # Shorter than a frame.
            raise BrokenRow(error.problem, where=error.where) from error
        return float(sure)
