"""Error rates against jiwer's own and against a plain edit distance; plain texts."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.evaluation.transcribe.measure import error_columns, error_records, rate_intervals
from mrl_jax.metrics.error_rates import Errors, compare_transcripts
from mrl_jax.metrics.intervals import Clusters

REFERENCES = ["un deux trois", "quatre", "cinq six", "sept sept"]
HYPOTHESES = ["un trois", "quatre cinq six", "", "sept sept"]


def distance(one, other) -> int:
    """Edit distance by the plain table, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def clusters(number: int, speakers: int = 0) -> Clusters:
    named = [f"s{row % speakers}" for row in range(number)] if speakers else None
    return Clusters(texts=list(range(number)), speakers=named)


def test_errors_by_kind():
    comparison = compare_transcripts(REFERENCES, HYPOTHESES)
    assert comparison.words[0] == Errors(units=3, substitutions=0, deletions=1, insertions=0)
    assert comparison.words[1] == Errors(units=1, substitutions=0, deletions=0, insertions=2)
    assert comparison.words[2] == Errors(units=2, substitutions=0, deletions=2, insertions=0)
    assert comparison.wer == 5 / 8
    assert comparison.words[1].rate == 2
    assert comparison.perfect.tolist() == [0, 0, 0, 1]
    # Must differ: the mean of the utterances' own rates.
    assert abs(comparison.wer - np.mean([one.rate for one in comparison.words])) > 0.1


words = st.lists(st.sampled_from(["un", "deux", "trois", "né"]), max_size=6).map(" ".join)
pairs = st.lists(st.tuples(words.filter(bool), words), min_size=1, max_size=5)


@settings(deadline=None, max_examples=60)
@given(pairs)
def test_rates_are_jiwers_and_the_edit_distances(cases):
    jiwer = pytest.importorskip("jiwer")
    references, hypotheses = [pair[0] for pair in cases], [pair[1] for pair in cases]
    comparison = compare_transcripts(references, hypotheses)
    assert comparison.wer == pytest.approx(jiwer.wer(references, hypotheses), abs=1e-12)
    assert comparison.cer == pytest.approx(jiwer.cer(references, hypotheses), abs=1e-12)
    assert [e.total for e in comparison.words] == [distance(a.split(), b.split()) for a, b in cases]
    assert [e.total for e in comparison.characters] == [distance(a, b) for a, b in cases]
    assert [e.units for e in comparison.characters] == [len(a) for a in references]


def test_an_empty_reference_is_refused():
    with pytest.raises(MrlError, match="reference 1: is empty"):
        compare_transcripts(["un", " "], ["un", "un"])
    with pytest.raises(MrlError, match="no transcript"):
        compare_transcripts([], [])


def test_intervals_hold_the_rate_and_widen_with_clusters():
    rng = np.random.default_rng(0)
    errors = [
        Errors(
            units=int(n),
            substitutions=int(rng.binomial(n, 0.1 + 0.2 * (row % 5 == 0))),
            deletions=0,
            insertions=0,
        )
        for row, n in enumerate(rng.integers(1, 12, 200))
    ]
    rate = sum(e.total for e in errors) / sum(e.units for e in errors)
    (alone,) = rate_intervals([errors], clusters(200))
    assert alone.mean == pytest.approx(rate, abs=1e-12)
    assert 0 < alone.low < rate < alone.high
    # The bootstrap of the ratio itself, by utterance.
    totals, units = (np.array([getattr(e, k) for e in errors]) for k in ("total", "units"))
    rows = rng.integers(0, 200, (4000, 200))
    low, high = np.quantile(totals[rows].sum(1) / units[rows].sum(1), [0.025, 0.975])
    assert (alone.low, alone.high) == pytest.approx((low, high), abs=0.012)
    (crossed,) = rate_intervals([errors], clusters(200, speakers=5))
    assert crossed.high - crossed.low > 1.5 * (alone.high - alone.low)


def test_records_hold_rates_and_counts():
    comparison = compare_transcripts(REFERENCES, HYPOTHESES)
    records = {r.metric: r for r in error_records(comparison, clusters(4), {"text": "plain"})}
    assert records["wer"].value == comparison.wer
    low = records["wer"].low
    assert low is not None
    assert low >= 0
    assert records["perfect utterances"].value == 0.25
    assert (records["words"].value, records["word deletions"].value) == (8, 3)
    assert dict(records["cer"].setting) == {"text": "plain"}
    assert error_columns(comparison, 1)["insertions"] == 2
    lone = error_records(compare_transcripts(["un"], ["deux"]), clusters(1), {})
    assert lone[0].low is None
    assert lone[0].value == 1


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("L\u2019eau, c'est «bon» !", "l'eau c'est bon"),
        ("Ndox-mi  baax na.", "ndox mi baax na"),
        ("E\u0301tat", "état"),
        ("'quoted'", "quoted"),
        ("?!", ""),
    ],
)
def test_plain_texts(text, plain):
    assert plain_text(text) == plain
    assert plain_text(plain) == plain


def test_errors_are_kept_as_they_are():
    one = Errors(units=2, substitutions=1, deletions=0, insertions=0)
    assert dataclasses.replace(one, insertions=2).rate == 1.5
