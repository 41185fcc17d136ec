"""Hours of recordings, a folder of them, to clips that can be trained on.

Command:   pip install '.[curate]'
           mrl-jax curate --config curate sources.radio.path=YOUR-FOLDER
Hardware:  any; a process a core.
Duration:  see docs/curation.md: hours of audio an hour, stage by stage.
Expected:  runs/curate/card.html says what was kept, and what was dropped and why.
Others:    a stage less or more, or another source: copy this file and change it;
           mrl-jax curate --config YOUR-FILE.py stages.filter.minimum.score.snr_db=10
"""

import os

from mrl_jax.curation.config import CurationConfig
from mrl_jax.curation.filter import FilterConfig
from mrl_jax.curation.score import ScoreConfig
from mrl_jax.curation.segment import SegmentConfig
from mrl_jax.curation.sources import RecordingsSource
from mrl_jax.curation.split import SplitConfig


def get_config() -> CurationConfig:
    return CurationConfig(
        name="curate",
        sources=(RecordingsSource(name="radio", path="data/radio"),),
        stages=(
            SegmentConfig(shortest=1.0, longest=12.0),
            ScoreConfig(),
            FilterConfig(
                minimum={"score.snr_db": 5.0, "score.bandwidth_hz": 3000.0},
                maximum={"score.clipped": 0.001},
            ),
            SplitConfig(parts={"train": 0.9, "dev": 0.05, "test": 0.05}),
        ),
        workers=os.cpu_count() or 1,
    )
