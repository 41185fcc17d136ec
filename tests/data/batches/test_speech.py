"""Batches as a pure function of (seed, step): plans, rows, and Grain."""

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mrl_jax.core.batch import Batch
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.plan import GRID, BatchPlan, read_batches
from mrl_jax.data.batches.speech import BatchConfig, BatchSource
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.models.inputs import normalize_clip

NUMBER = 53


class FakeTokenizer(TextTokenizer):
    """Letters for tokens; 99 ends a text."""

    def __init__(self):
        pass

    def encode(self, texts):
        return [[*map(ord, text), 99] for text in texts]

    encode_documents = encode

    def encode_prompts(self, prompts):
        return [[*map(ord, prompt)] for prompt in prompts]


class FakeExamples:
    """Lists are a valid source; a clip's first sample says whose it is."""

    weights: np.ndarray | None = None

    def __init__(self, number=NUMBER, seed=0):
        rng = np.random.default_rng(seed)
        self.ids = [f"e{i}" for i in range(number)]
        self.num_samples = rng.integers(800, 9000, number)
        self.texts = ["x" * int(rng.integers(1, 20)) for _ in range(number)]
        self.tasks = ["digits" if i % 3 else "words" for i in range(number)]
        self.transcripts = [f"said {i % 7}" if i % 2 else None for i in range(number)]
        self.document_ids = [f"doc {i % 11}" for i in range(number)]

    def __len__(self):
        return len(self.ids)

    def clip(self, index):
        clip = np.random.default_rng(index).normal(size=self.num_samples[index])
        clip[0] = 1000 + index
        return clip.astype(np.float32)


def jitter(clip, rng):
    """Augments after the first sample: other length, other sound."""
    changed = clip[: len(clip) - int(rng.integers(0, 50))].copy()
    changed[1:] += rng.normal(size=len(changed) - 1).astype(np.float32)
    return changed


def source(config=None, **options):
    """Batches of the fake examples; options are those of `BatchSource` or `ClipTransform`."""
    names = [field.name for field in dataclasses.fields(ClipTransform)]
    changes = {name: options.pop(name) for name in names if name in options}
    options = {"seed": 3, **options}
    examples = options.pop("examples", None) or FakeExamples()
    config = config or BatchConfig(batch_size=8, num_buckets=3)
    transform = ClipTransform(**{"min_samples": 720, **changes})
    return BatchSource(examples, FakeTokenizer(), config, transform=transform, **options)


def members(batch):
    return (batch.samples[:, 0] - 1000).astype(int)


def same(first, second):
    for field in dataclasses.fields(Batch):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))


@settings(max_examples=40, deadline=None)
@given(
    number=st.integers(1, 80),
    batch_size=st.integers(1, 9),
    buckets=st.integers(1, 6),
    groups=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_a_plan(number, batch_size, buckets, groups, seed):
    rng = np.random.default_rng(number)
    lengths, group = rng.integers(1, 30_000, number), rng.integers(0, groups, number)

    def plan(seed):
        return BatchPlan(lengths, group, batch_size=batch_size, num_buckets=buckets, seed=seed)

    expected = sum(int(count) // batch_size for count in np.bincount(group))
    if not expected:
        with pytest.raises(MrlError, match=f"there are {number} examples"):
            plan(seed)
        return
    made = plan(seed)
    assert made.batches_per_epoch == expected
    assert len(made.sizes) <= buckets
    assert (made.sizes % GRID == 0).all()
    for epoch in range(2):
        used = []
        for step in range(epoch * expected, (epoch + 1) * expected):
            bucket, rows = made(step)
            assert len(rows) == batch_size
            assert (lengths[rows] <= made.sizes[bucket]).all()
            assert len(set(group[rows])) == 1
            used.extend(rows)
        assert len(used) == len(set(used))
    # From a fresh plan, in any order.
    for step in rng.permutation(2 * expected)[:5]:
        bucket, rows = plan(seed)(int(step))
        assert bucket == made(int(step))[0]
        np.testing.assert_array_equal(rows, made(int(step))[1])


def test_seeds_and_epochs_differ_and_all_examples_have_their_turn():
    lengths = FakeExamples().num_samples
    zeros = np.zeros(NUMBER, np.int64)
    plans = [BatchPlan(lengths, zeros, batch_size=8, num_buckets=3, seed=seed) for seed in range(2)]
    whole = plans[0].batches_per_epoch
    orders = [
        np.concatenate([plan(first + step)[1] for step in range(whole)])
        for plan, first in ((plans[0], 0), (plans[1], 0), (plans[0], whole))
    ]
    assert (orders[0] != orders[1]).any()
    assert (orders[0] != orders[2]).any()
    seen = {int(i) for step in range(whole * 40) for i in plans[0](step)[1]}
    assert seen == set(range(NUMBER))


def test_those_left_over_move_to_a_longer_bucket():
    lengths = np.asarray([1000] * 6 + [5000] * 4)
    plan = BatchPlan(lengths, np.zeros(10, np.int64), batch_size=4, num_buckets=2, seed=0)
    assert plan.sizes.tolist() == [1600, 6400]
    assert plan.batches_per_epoch == 2
    by_bucket = dict(plan(step) for step in range(2))
    assert (lengths[by_bucket[0]] == 1000).all()
    assert sorted(lengths[by_bucket[1]]) == [1000, 1000, 5000, 5000]


def test_rows_are_what_the_examples_say():
    examples = FakeExamples()
    prompts = {"digits": "Count", "words": "W"}
    config = BatchConfig(batch_size=8, num_buckets=3, prompts=prompts)
    made = source(config, examples=examples)
    assert 1 < len(made.shapes) <= 3
    for step in range(made.plan.batches_per_epoch):
        batch = made[step]
        assert (batch.samples.shape[1], batch.document.shape[1]) in made.shapes
        assert batch.rows.all()
        for row, index in enumerate(members(batch)):
            size = batch.lengths[row]
            np.testing.assert_array_equal(batch.samples[row, :size], examples.clip(index))
            assert not batch.samples[row, size:].any()
            text = batch.document[row][batch.document_mask[row]]
            assert "".join(map(chr, text[:-1])) == examples.texts[index]
            assert text[-1] == 99
            prompt = "".join(map(chr, batch.prompt[row][batch.prompt_mask[row]]))
            assert prompt == f"{prompts[examples.tasks[index]]}\nQuery:"
    assert source()[0].prompt.shape == (8, 0)


def test_duplicates_are_known_by_id():
    examples, made = FakeExamples(), source()
    for step in range(6):
        batch = made[step]
        chosen = members(batch)
        documents = np.asarray([examples.document_ids[i] for i in chosen])
        queries = np.asarray([examples.transcripts[i] or examples.ids[i] for i in chosen])
        for ids, names in ((batch.document_ids, documents), (batch.query_ids, queries)):
            np.testing.assert_array_equal(ids[:, None] == ids, names[:, None] == names)


def test_batches_of_one_task():
    examples = FakeExamples()
    for homogeneous in (True, False):
        config = BatchConfig(batch_size=8, num_buckets=2, task_homogeneous=homogeneous)
        made = source(config, examples=examples)
        tasks = [
            len({examples.tasks[i] for i in members(made[step])})
            for step in range(made.plan.batches_per_epoch)
        ]
        assert (max(tasks) == 1) == homogeneous


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_a_batch_out(hosts):
    whole = source(augment=jitter)
    parts = [source(augment=jitter, shard=(host, hosts)) for host in range(hosts)]
    for step in (0, 3, 11):
        shares = [part[step] for part in parts]
        joined: dict[str, Any] = {
            field.name: np.concatenate([getattr(share, field.name) for share in shares])
            for field in dataclasses.fields(Batch)
            if field.name not in ("document_vectors", "speech")
        }
        same(Batch(**joined), whole[step])
    assert all(part.shapes == whole.shapes for part in parts)


def test_augmentation_is_a_function_of_seed_step_and_row():
    made, again, other = (source(augment=jitter, seed=seed) for seed in (3, 3, 4))
    same(made[2], again[2])
    assert (
        made[2].samples.shape != other[2].samples.shape
        or (made[2].samples != other[2].samples).any()
    )
    plain = source()
    np.testing.assert_array_equal(members(plain[2]), members(made[2]))
    assert (plain[2].samples != made[2].samples).any()


def test_augmented_clips_keep_within_their_bounds():
    def shorten(clip, rng):
        return clip[:100]

    def lengthen(clip, rng):
        return np.concatenate((clip, clip))

    assert (source(augment=shorten)[0].lengths == 720).all()
    made = source(augment=lengthen)
    assert (made[0].lengths <= made[0].samples.shape[1]).all()
    stretched = source(augment=lengthen, stretch=2.0)
    batch, examples = stretched[0], FakeExamples()
    np.testing.assert_array_equal(batch.lengths, 2 * examples.num_samples[members(batch)])


def test_clips_are_prepared_last():
    batch = source(prepare=normalize_clip, augment=jitter)[0]
    for row, size in zip(batch.samples, batch.lengths, strict=True):
        assert abs(row[:size].mean()) < 1e-3
        assert row[:size].std() == pytest.approx(1.0, abs=1e-3)


def test_threads_at_the_turn_of_an_epoch():
    made = source(BatchConfig(batch_size=4, num_buckets=2))
    steps = range(60)
    turn = made.plan.batches_per_epoch
    expected = [source(BatchConfig(batch_size=4, num_buckets=2)).plan(step) for step in steps]
    mixed = sorted(steps, key=lambda step: step % turn)
    with ThreadPoolExecutor(8) as pool:
        results = dict(zip(mixed, pool.map(made.plan, mixed), strict=True))
    for step in steps:
        assert results[step][0] == expected[step][0]
        np.testing.assert_array_equal(results[step][1], expected[step][1])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_resumed_reading_equals_uninterrupted_reading(workers):
    pytest.importorskip("grain")
    config = BatchConfig(batch_size=8, num_buckets=3, workers=workers)
    made = source(config, augment=jitter)
    start = made.plan.batches_per_epoch - 2  # Over the turn of an epoch.
    stream = read_batches(made, start=start, config=config)
    for step in range(start, start + 5):
        same(next(stream), made[step])
    with pytest.raises(AssertionError):
        same(made[start], made[start + 1])


@pytest.mark.parametrize(
    ("options", "config", "words"),
    [
        ({"min_samples": 1000}, {}, r"clips are shorter than the 1000 samples of one speech"),
        ({"shard": (0, 3)}, {}, "batch_size is 8, expected a multiple of the 3 hosts"),
        ({}, {"prompts": {"digit": "x"}}, "the task 'digits' has no prompt"),
        ({}, {"batch_size": 54}, "there are 53 examples, expected at least the 54 of one batch"),
        ({}, {"batch_size": 50, "task_homogeneous": True}, "of one batch in one task"),
        ({}, {"batch_size": 0}, "batch_size is 0, expected 1 or more"),
        ({}, {"num_buckets": 0}, "num_buckets is 0, expected 1 or more"),
    ],
)
def test_data_that_does_not_fit(options, config, words):
    with pytest.raises(MrlError, match=words):
        source(BatchConfig(**{"batch_size": 8, "num_buckets": 3, **config}), **options)


def test_nothing_to_train_on():
    with pytest.raises(MrlError, match="there is no example to train on"):
        source(examples=FakeExamplesOfNone())


class FakeExamplesOfNone(FakeExamples):
    def __init__(self):
        super().__init__(0)

    def __bool__(self):
        return True
