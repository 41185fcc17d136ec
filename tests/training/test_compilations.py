"""Epochs that mix tasks, with prompts of any length: nothing is compiled after the first one."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_run
from compilations import compilations
from flax import nnx
from tiers import mostly_slow

from mrl_jax.checkpoints.towers import load_hubert, load_qwen3
from mrl_jax.core.array_types import HostArray
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.packing import PackedPairSource
from mrl_jax.data.batches.speech import BatchConfig, BatchSource
from mrl_jax.data.batches.text import TextBatchConfig, TextPairSource
from mrl_jax.data.sets.text_pairs import TextPair
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import OptimConfig, make_optimizer
from mrl_jax.training.state import init_state
from mrl_jax.training.text_tower.step import make_text_step, tower_rebuilder

LENGTHS = (0, 1, 3, 6, 11)
PROMPTS = {f"t{words}": " ".join(["ba"] * words) for words in LENGTHS}
"""Sentences of five lengths."""
LOSS = LossConfig(dims=(32, 16))
EXAMPLES, BATCH = 40, 4


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    return tiny_run.make_towers(tmp_path_factory.mktemp("towers"))


class Tones:
    """Clips of two words each, every task in turn."""

    def __init__(self):
        words = [(i % 5, (i // 5) % 5) for i in range(EXAMPLES)]
        self.clips = [tiny_run.clip_of(pair, i) for i, pair in enumerate(words)]
        self.num_samples = np.asarray([len(clip) for clip in self.clips])
        self.texts = [
            " ".join([tiny_run.text_of(pair)] * (1 + i % 3)) for i, pair in enumerate(words)
        ]
        self.ids = [str(i) for i in range(EXAMPLES)]
        self.document_ids = self.ids
        self.tasks = [list(PROMPTS)[i % len(PROMPTS)] for i in range(EXAMPLES)]
        self.transcripts: list[str | None] = [None] * EXAMPLES
        self.weights: HostArray | None = None

    def __len__(self):
        return EXAMPLES

    def clip(self, index):
        return self.clips[index]


def run_epochs(make_step, rebuild, trained, frozen, batches, steps):
    """A function that runs the next epoch, and the programs that it compiled."""
    place = Devices("pmap", jax.devices()[:1])
    optimizer = make_optimizer(OptimConfig(), 4 * steps)
    step = place.compile(make_step(rebuild, optimizer, LOSS, axis_name=place.axis_name))
    state = place.replicate(init_state(trained, optimizer))
    frozen = place.replicate(frozen)
    done = 0

    def epoch(change=lambda batch: batch):
        nonlocal state, done
        with compilations() as names:
            for number in range(done, done + steps):
                state, _ = step(state, frozen, place.put_batch(change(batches(number))))
            jax.block_until_ready(state)
        done += steps
        return len([name for name in names if "step" in name or "_fun" in name])

    return epoch


def wider(batch, *names):
    """A batch with one more place of padding."""
    changes = {}
    for name in names:
        values = getattr(batch, name)
        changes[name] = np.pad(values, [*[(0, 0)] * (values.ndim - 1), (0, 1)])
    return dataclasses.replace(batch, **changes)


def test_spoken_queries(towers):
    speech, text = load_hubert(towers[0]), load_qwen3(towers[1])
    model = LateFusion(speech, text, config=LateFusionConfig(), rngs=nnx.Rngs(0))
    source = BatchSource(
        Tones(),
        TextTokenizer(towers[1], max_tokens=64),
        BatchConfig(batch_size=BATCH, num_buckets=2, prompts=PROMPTS, task_homogeneous=True),
        seed=0,
        transform=ClipTransform(prepare=normalize_clip, min_samples=model.min_samples),
    )
    split, steps = param_tree.split(model), source.plan.batches_per_epoch
    arrays = split.rebuild, split.trained, split.frozen
    epoch = run_epochs(make_train_step, *arrays, source.__getitem__, steps)
    lengths = {int(source[n].prompt_mask.sum(axis=1).max()) for n in range(steps)}
    assert len(lengths) == len(LENGTHS)
    assert 1 <= epoch() <= len(source.shapes)
    assert epoch() == 0
    assert epoch(lambda batch: wider(batch, "prompt", "prompt_mask")) > 0


@pytest.mark.parametrize("pack", mostly_slow([False, True]))
def test_written_queries(towers, pack):
    rng = np.random.default_rng(0)

    def words(most):
        return " ".join(rng.choice(tiny_run.WORDS, rng.integers(1, most)))

    pairs = [
        TextPair(query=words(4), document=words(4), task=list(PROMPTS)[i % len(PROMPTS)])
        for i in range(EXAMPLES)
    ]
    config = TextBatchConfig(batch_size=BATCH, prompts=PROMPTS, task_homogeneous=True)
    source = TextPairSource(pairs, TextTokenizer(towers[1]), config, seed=0)
    tower = load_qwen3(towers[1], dtype="float32", trainable=True)
    rebuild = tower_rebuilder(tower.config, np.float32, remat=False)
    trained, steps = param_tree.split(tower).trained, source.batches_per_epoch
    batches = PackedPairSource(source, (1, 1)) if pack else source
    names = ("tokens", "texts") if pack else ("query", "query_mask")
    epoch = run_epochs(make_text_step, rebuild, trained, {}, batches, steps)
    assert (1 if pack else 2) <= epoch() <= len(batches.shapes)
    assert epoch() == 0
    assert epoch(lambda batch: wider(batch, *names)) > 0
