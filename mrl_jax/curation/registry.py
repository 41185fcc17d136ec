"""The stages that there are: one line each."""

from collections.abc import Callable
from typing import Any

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.align import Align, AlignConfig
from mrl_jax.curation.duplicates import Duplicates, DuplicatesConfig
from mrl_jax.curation.filter import Filter, FilterConfig
from mrl_jax.curation.languages import Languages, LanguagesConfig
from mrl_jax.curation.leakage import Leakage, LeakageConfig
from mrl_jax.curation.mine import Mine, MineConfig
from mrl_jax.curation.mix import Mix, MixConfig
from mrl_jax.curation.score import Score, ScoreConfig
from mrl_jax.curation.segment import Segment, SegmentConfig
from mrl_jax.curation.speakers import Speakers, SpeakersConfig
from mrl_jax.curation.split import Split, SplitConfig
from mrl_jax.curation.stage import RowStage, StageConfig, TableStage
from mrl_jax.curation.synthesize import Synthesize, SynthesizeConfig
from mrl_jax.curation.text import Text, TextConfig

STAGES: dict[str, tuple[type[StageConfig], Callable[[Any], RowStage | TableStage]]] = {
    "text": (TextConfig, Text),
    "languages": (LanguagesConfig, Languages),
    "duplicates": (DuplicatesConfig, Duplicates),
    "leakage": (LeakageConfig, Leakage),
    "segment": (SegmentConfig, Segment),
    "score": (ScoreConfig, Score),
    "align": (AlignConfig, Align),
    "filter": (FilterConfig, Filter),
    "speakers": (SpeakersConfig, Speakers),
    "mine": (MineConfig, Mine),
    "synthesize": (SynthesizeConfig, Synthesize),
    "split": (SplitConfig, Split),
    "mix": (MixConfig, Mix),
}
"""Kind: its config, and what makes the stage from it. Heavy libraries are imported when the stage
first takes them."""


def make_stage(config: StageConfig) -> RowStage | TableStage:
    """The stage of a config, by the config's class.

    Raises:
        MrlError: there is none.
    """
    for kind, make in STAGES.values():
        if type(config) is kind:
            return make(config)
    known = ", ".join(kind.__name__ for kind, _ in STAGES.values())
    raise MrlError(f"{type(config).__name__} is no stage's config", hint=f"expected one of {known}")
