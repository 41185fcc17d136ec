"""Bounds of what was measured."""

import numpy as np
import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.curation.config import CurationConfig, override_curation
from mrl_jax.curation.filter import Filter, FilterConfig
from mrl_jax.curation.pipeline import make_stages
from mrl_jax.curation.rows import Row
from mrl_jax.curation.score import ScoreConfig
from mrl_jax.curation.sources import RecordingsSource

VALUES = np.random.default_rng(0).permutation(100) / 10
ROWS = [
    *(Row(id=str(i), measured={"score.snr_db": float(v)}) for i, v in enumerate(VALUES)),
    Row(id="text", text="no sound"),
]


def kept(**bounds) -> set[str]:
    rows = Filter(FilterConfig(**bounds)).apply(ROWS)
    assert [row.id for row in rows] == [row.id for row in ROWS]
    return {row.id for row in rows if row.dropped is None}


def test_bounds_are_part_of_what_is_kept_and_texts_pass():
    bounds = {"minimum": {"score.snr_db": 2.0}, "maximum": {"score.snr_db": 7.0}}
    expected = {str(i) for i, v in enumerate(VALUES) if 2.0 <= v <= 7.0}
    assert kept(**bounds) == expected | {"text"}


def test_quantiles_are_shares_of_the_rows():
    assert len(kept(minimum_quantile={"score.snr_db": 0.2})) == 80 + 1
    assert len(kept(maximum_quantile={"score.snr_db": 0.7})) == 70 + 1
    both = {"minimum_quantile": {"score.snr_db": 0.2}, "minimum": {"score.snr_db": 5.0}}
    assert kept(**both) == kept(minimum={"score.snr_db": 5.0})


def test_the_reason_names_key_value_and_bound():
    [row] = Filter(FilterConfig(minimum={"score.snr_db": 5.0})).apply(
        [Row(id="a", measured={"score.snr_db": 3.14159})]
    )
    assert row.dropped == "filter: score.snr_db is 3.142, expected 5 or more"


def test_the_length_of_a_clip_can_be_bounded():
    rows = [Row(id="a", audio="x", end=2.0), Row(id="b", audio="x", start=1.0, end=9.0)]
    after = Filter(FilterConfig(maximum={"seconds": 5.0})).apply(rows)
    assert [row.dropped for row in after] == [None, "filter: seconds is 8, expected 5 or less"]


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "has no bound"),
        ({"minimum": {"a.b": float("inf")}}, r"minimum.a.b is inf, expected a finite number"),
        ({"minimum_quantile": {"a.b": 1.5}}, r"a.b is 1.5, expected between 0 and 1"),
        ({"minimum": {"a.b": 5.0}, "maximum": {"a.b": 2.0}}, r"a.b is 5, above its maximum, 2"),
    ],
)
def test_thresholds_without_sense_are_refused(bounds, message):
    with pytest.raises(MrlError, match=message):
        FilterConfig(**bounds)


def test_a_key_that_no_stage_measures_is_refused_with_the_nearest():
    stages = (ScoreConfig(), FilterConfig(minimum={"score.snr": 5.0}))
    with pytest.raises(MrlError, match=r"'score.snr', which no stage.*Did you mean score.snr_db"):
        make_stages(stages, 0)
    make_stages((ScoreConfig(), FilterConfig(minimum={"score.snr_db": 5.0})), 0)


def test_a_bound_of_a_text_is_refused():
    rows = [Row(id="a", measured={"language.speech": "wo"})]
    with pytest.raises(MrlError, match=r"language.speech is text, 'wo', expected a number"):
        Filter(FilterConfig(minimum={"language.speech": 1.0})).apply(rows)


def test_stages_are_changed_by_their_names():
    source = RecordingsSource(name="radio", path="data")
    config = CurationConfig(
        sources=(source,), stages=(ScoreConfig(), FilterConfig(minimum={"seconds": 1.0}))
    )
    words = ["stages.filter.minimum.score.snr_db=4", "sources.radio.path=other", "seed=7"]
    changed = override_curation(config, words)
    assert changed.stages[1] == FilterConfig(minimum={"seconds": 1.0, "score.snr_db": 4.0})
    assert (changed.sources[0].path, changed.seed) == ("other", 7)
    with pytest.raises(MrlError, match=r"there is no stage 'fliter'. Did you mean filter"):
        override_curation(config, ["stages.fliter.minimum.x=1"])
    with pytest.raises(MrlError, match=r"stages.filter: the config has no field 'maximun"):
        override_curation(config, ["stages.filter.maximun.x=1"])


def test_names_are_there_once_and_a_source_is_there():
    source = RecordingsSource(name="radio", path="data")
    with pytest.raises(MrlError, match="2 stages have the name 'score'"):
        CurationConfig(sources=(source,), stages=(ScoreConfig(), ScoreConfig()))
    with pytest.raises(MrlError, match="sources is empty"):
        CurationConfig()


def test_the_order_of_bounds_in_a_config_decides_nothing():
    row = Row(id="a", measured={"x.a": 0.0, "x.b": 0.0})
    for keys in (("x.a", "x.b"), ("x.b", "x.a")):
        [after] = Filter(FilterConfig(minimum=dict.fromkeys(keys, 1.0))).apply([row])
        assert after.dropped == "filter: x.a is 0, expected 1 or more"
