"""Forced alignment against all paths, against torch's CTC loss, and on planted paths."""

import itertools
import tracemalloc

import numpy as np
import pytest

from mrl_jax.core.errors import ArgumentError, MrlError
from mrl_jax.curation.forced_alignment import align_tokens, frames_needed


def log_probs_of(rng, frames, outputs, sharpness=1.0):
    logits = sharpness * rng.standard_normal((frames, outputs))
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def written(path, blank=0):
    return [token for token, _ in itertools.groupby(path) if token != blank]


def best_of_all(log_probs, tokens, blank=0):
    """The highest score of every path that writes the tokens, and the path."""
    frames, outputs = log_probs.shape
    paths = itertools.product(range(outputs), repeat=frames)
    fitting = [path for path in paths if written(path, blank) == list(tokens)]
    scores = [sum(log_probs[t, token] for t, token in enumerate(path)) for path in fitting]
    return (max(scores), fitting[int(np.argmax(scores))]) if scores else (None, None)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_all_paths_is_found(seed):
    rng = np.random.default_rng(seed)
    log_probs = log_probs_of(rng, int(rng.integers(3, 8)), 3)
    tokens = rng.integers(1, 3, rng.integers(1, 4))
    score, path = best_of_all(log_probs, tokens)
    if score is None or path is None:
        with pytest.raises(MrlError, match="too long for the recording"):
            align_tokens(log_probs, tokens)
        return
    found = align_tokens(log_probs, tokens)
    greedy = log_probs.max(axis=1).sum()
    assert found.score + greedy == pytest.approx(score, abs=1e-9)
    starts = [t for t, x in enumerate(path) if x and (t == 0 or path[t - 1] != x)]
    np.testing.assert_array_equal(found.first, starts)
    lasts = [t for t, x in enumerate(path) if x and (t + 1 == len(path) or path[t + 1] != x)]
    np.testing.assert_array_equal(found.last, lasts)


def test_another_blank_and_logits_in_place_of_log_probabilities():
    rng = np.random.default_rng(3)
    log_probs = log_probs_of(rng, 7, 3)
    tokens = np.asarray([0, 1])
    score, _ = best_of_all(log_probs, tokens, blank=2)
    found = align_tokens(log_probs, tokens, blank=2)
    assert found.score + log_probs.max(axis=1).sum() == pytest.approx(score, abs=1e-9)
    shifted = log_probs + rng.standard_normal((7, 1))
    assert align_tokens(shifted, tokens, blank=2).score == pytest.approx(found.score)
    assert align_tokens(log_probs, np.asarray([1, 0]), blank=2).score != pytest.approx(found.score)


def test_the_best_path_is_at_most_as_likely_as_all_of_torchs_loss():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    for sharpness in (1.0, 30.0):
        log_probs = log_probs_of(rng, 60, 12, sharpness)
        tokens = rng.integers(1, 12, 20)
        loss = torch.nn.functional.ctc_loss(
            torch.tensor(log_probs)[:, None],
            torch.tensor(tokens)[None],
            torch.tensor([60]),
            torch.tensor([20]),
            reduction="sum",
        )
        path = align_tokens(log_probs, tokens).score + log_probs.max(axis=1).sum()
        assert path <= -float(loss) + 1e-6
        # There are fewer than 3 ** 60 paths, and the sharper, the more the best one counts.
        assert path >= -float(loss) - (60 * np.log(3) if sharpness == 1.0 else 6.0)


def planted(rng, frames, count, outputs=20):
    """Scores in which some tokens stand out at known frames."""
    tokens = rng.integers(1, outputs, count)
    places = np.sort(rng.choice(frames // 2, count, replace=False)) * 2
    logits = rng.standard_normal((frames, outputs)).astype(np.float32)
    logits[:, 0] += 5
    logits[places, tokens] += 12
    return logits, tokens, places


def test_a_band_finds_what_all_states_find_and_widens_where_it_has_to():
    rng = np.random.default_rng(1)
    logits, tokens, places = planted(rng, 1500, 300)
    whole = align_tokens(logits, tokens, band=10_000)
    assert whole.band == 601
    narrow = align_tokens(logits, tokens, band=100)
    assert narrow.band < 601
    np.testing.assert_array_equal(narrow.first, whole.first)
    assert np.mean(np.abs(whole.first - places) <= 1) > 0.95
    # All tokens in the second half: far from the diagonal.
    late = np.concatenate((np.eye(20, dtype=np.float32)[np.zeros(1500, int)] * 9, logits))
    moved = align_tokens(late, tokens, band=100)
    assert moved.band > 100
    np.testing.assert_array_equal(moved.first, whole.first + 1500)


def test_the_memory_of_pointers_does_not_grow_with_frames_times_states():
    rng = np.random.default_rng(2)
    logits, tokens, _ = planted(rng, 4000, 1500)
    tracemalloc.start()
    align_tokens(logits, tokens, band=5000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6
    assert 4000 * 3001 > 10e6  # A byte for each pointer.


def test_frames_before_and_after_the_text_are_free_only_where_asked():
    rng = np.random.default_rng(4)
    logits, tokens, places = planted(rng, 400, 60)
    other = rng.standard_normal((150, 20)).astype(np.float32)
    other[np.arange(150), rng.integers(1, 20, 150)] += 20  # Other speech, without a blank.
    whole = np.concatenate((other, logits, other))
    free = align_tokens(whole, tokens, free_ends=True)
    bound = align_tokens(whole, tokens)
    assert np.mean(np.abs(free.first - 150 - places) <= 1) > 0.95
    assert free.score > bound.score + 500
    # A nat for each frame outside at most.
    assert free.score >= align_tokens(logits, tokens).score - 300 - 30


def test_outputs_that_cannot_be_leave_a_path():
    log_probs = np.log(np.asarray([[1.0, 0.0, 0.0]] * 6) + 0.0, where=[[True, False, False]] * 6,
                       out=np.full((6, 3), -np.inf))  # fmt: skip
    found = align_tokens(log_probs, np.asarray([1, 2]))
    assert np.isfinite(found.score)
    assert found.score < -1e5


def test_tokens_that_cannot_be_aligned_are_refused():
    log_probs = log_probs_of(np.random.default_rng(0), 4, 3)
    assert frames_needed(np.asarray([1, 1, 2])) == 4
    assert frames_needed(np.asarray([1, 2, 1])) == 3
    align_tokens(log_probs, np.asarray([1, 1, 2]))
    with pytest.raises(MrlError, match="4 frames for 3 tokens, which take 5 or more"):
        align_tokens(log_probs, np.asarray([1, 1, 1]))
    with pytest.raises(ArgumentError, match="no tokens"):
        align_tokens(log_probs, np.asarray([], np.int64))
    for wrong in (0, 3, -1):
        with pytest.raises(ArgumentError, match=f"token {wrong} is the blank or no output"):
            align_tokens(log_probs, np.asarray([1, wrong]))
