"""A recogniser's run through train.py's own code, from a manifest to a tower that transcribes."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from flax import nnx
from tiny_ctc import TINY, make_config
from tiny_run import losses

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import load_hubert_ctc, read_checked_weights, read_info
from mrl_jax.core.errors import MrlError
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.ctc import CtcSource, MaskConfig, mask_clip
from mrl_jax.data.batches.plan import BatchPlan
from mrl_jax.inference.asr import unspelled
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.init import initial_recogniser
from mrl_jax.nn import param_tree
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.ctc.run import train_recogniser
from mrl_jax.training.ctc.step import make_ctc_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.optim import OptimConfig, decay_mask, make_optimizer
from mrl_jax.training.state import init_state

SPOKEN = "badiceofgu "


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ctc")
    manifest = tiny_run.make_manifest(folder / "data", examples=24)
    towers = tiny_run.make_towers(folder / "towers")
    config = make_config(folder, towers[0], manifest)
    return tiny_run.World(folder, CtcExperiment, config, *towers, manifest, folder / "none")


@pytest.fixture(scope="module")
def finished(world, one_device):
    lines: list[str] = []
    workdir = world.folder / "finished"
    run = train_recogniser(world.load(), workdir, devices=one_device, log=lines.append)
    return workdir, run, lines


def stored(folder: Path) -> dict[str, np.ndarray]:
    groups = read_checked_weights(folder, read_info(folder))
    return {f"{group}.{path}": a for group, of in groups.items() for path, a in of.items()}


def test_a_run_leaves_metrics_and_a_tower(world, finished):
    workdir, run, lines = finished
    assert run.finished
    assert len(losses(workdir)) == 6
    assert run.folder == workdir / "tower"
    # The characters of the data, after the blank and the delimiter.
    assert run.info.vocabulary.tokens == ("<pad>", "|", *sorted(set(SPOKEN) - {" "}))
    assert any("24 clips, 12 tokens, 6 steps of 8" in line for line in lines)
    model = load_hubert_ctc(run.folder)
    assert model.lm_head.kernel.shape[-1] == 12
    before, after = stored(world.speech), stored(run.folder)
    moved = {
        path
        for path in after
        if path not in before or not np.array_equal(after[path], before[path])
    }
    frozen = {path for path in after if ".feature_encoder." in path}
    assert frozen
    assert moved == set(after) - frozen


def test_stopped_by_sigterm_it_goes_on_to_the_same(world, finished, one_device):
    workdir = world.folder / "stopped"
    with tiny_run.sigterm_after(2):
        run = train_recogniser(world.load(), workdir, devices=one_device, log=lambda _: None)
    assert not run.finished
    assert run.folder is None
    lines: list[str] = []
    again = train_recogniser(world.load(), workdir, devices=one_device, log=lines.append)
    assert again.finished
    assert again.info is not None
    assert any("resumed from step" in line for line in lines)
    assert losses(workdir) == losses(finished[0])
    assert again.info.digest == finished[1].info.digest
    changed = world.load("data.plain=false", "data.train=" + str(capitals(world)))
    with pytest.raises(MrlError, match="of another model: its vocabulary"):
        train_recogniser(changed, workdir, devices=one_device, log=lambda _: None)


def capitals(world: tiny_run.World[CtcExperiment]) -> Path:
    path = world.manifest.with_name("capitals.jsonl")
    lines = [json.loads(line) for line in world.manifest.read_text().splitlines()]
    path.write_text("".join(json.dumps({**x, "text": x["text"].upper()}) + "\n" for x in lines))
    return path


def changed_manifest(world: tiny_run.World[CtcExperiment], name: str, **fields: str) -> Path:
    """The manifest with its first line changed."""
    path = world.manifest.with_name(f"{name}.jsonl")
    first, *rest = [json.loads(line) for line in world.manifest.read_text().splitlines()]
    lines = [{**first, **fields}, *rest]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.slow
def test_it_learns_from_random_weights(world, one_device, tmp_path):
    config = world.load("train.steps=60", "optim.learning_rate=5e-3")
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model,
            speech_tower="",
            sizes=read_info(world.speech).config,
            freeze_convolutions=False,
        ),
    )
    train_recogniser(config, tmp_path / "run", devices=one_device, log=lambda _: None)
    values = losses(tmp_path / "run")
    assert np.mean(values[-8:]) < 0.7 * np.mean(values[:8])


@pytest.mark.slow
def test_the_towers_own_characters_are_kept(world, finished, one_device, tmp_path):
    changes = [
        "model.vocabulary=tower",
        f"model.speech_tower={finished[1].folder}",
        "train.steps=1",
    ]
    run = train_recogniser(
        world.load(*changes, "train.steps=1", "optim.learning_rate=1e-9"),
        tmp_path / "run",
        devices=one_device,
        log=lambda _: None,
    )
    assert run.info is not None
    assert run.folder is not None
    assert run.info.vocabulary == finished[1].info.vocabulary
    before, after = stored(finished[1].folder), stored(run.folder)
    np.testing.assert_allclose(after["lm_head.kernel"], before["lm_head.kernel"], atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.vocabulary=tower"], "the vocabulary has no 'b', 'c', 'd', 'e'"),
        (["train.fsdp=2"], "train.fsdp is 2, which shards frozen weights"),
        (["train.text_lora.rank=4"], "train.text_lora.rank is 4, and this kind of training"),
        (["data.transcripts=transcript"], "24 of 24 recordings have no transcript"),
        (["data.train={empty}"], "24 recordings have an empty text, the first is 'e0'"),
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["model.speech_tower=nowhere"], "nowhere/tower.json: no such file"),
        (["model.speech_tower={text}"], "is a qwen3 tower"),
        (["model.speech_tower="], "take a tower, and model.speech_tower is empty"),
        (["model.vocabulary=words"], "expected characters or tower or text_tower"),
        (["data.batch.batch_size=7"], "expected a multiple of 2"),
        (["data.batch.batch_size=4096"], "there are 24 examples"),
        (["masks.frequency_share=1"], "masks.frequency_share 1, expected"),
        (["data.build.sample_rate=8000"], "the data set is at 8000 Hz"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(world, changes, message, tmp_path):
    empty = changed_manifest(world, "empty", text="?!")  # Nothing, once it is plain.
    places = {"empty": empty, "text": world.speech.with_name("text")}
    changes = [change.format(**places) for change in changes]
    tiny_run.assert_refused(world.config, tmp_path / "run", changes, message)
    assert not (tmp_path / "run" / "tower").exists()


# --- The parts --------------------------------------------------------------------------


VOCABULARY = CtcVocabulary(("<pad>", "|", "a", "b"))


@functools.cache
def tiny_step(parts: int, axis: str | None = None):
    """(state, frozen, step) of a small recogniser."""
    model = initial_recogniser(TINY, VOCABULARY, 0)
    split = param_tree.split(model)
    optimizer = make_optimizer(OptimConfig(), 4)
    step = make_ctc_step(
        split.rebuild, optimizer, blank=0, accumulation_steps=parts, axis_name=axis
    )
    return init_state(split.trained, optimizer), split.frozen, step


def some_batch():
    rng = np.random.default_rng(5)
    num = np.asarray([700, 650, 400, 700, 620, 500, 700, 690])
    labels = rng.integers(1, 4, (8, 5)).astype(np.int32)
    counts = np.asarray([5, 1, 2, 3, 4, 2, 5, 1], np.int32)
    labels[np.arange(5)[None, :] >= counts[:, None]] = 0
    source = CtcSource(
        lambda row: np.sin(np.arange(num[row]) * (0.1 + 0.1 * row)).astype(np.float32),
        labels,
        counts,
        BatchPlan(num, np.zeros(8, np.int64), batch_size=8, num_buckets=1, seed=0),
        transform=ClipTransform(),
    )
    return source[0]


@pytest.mark.slow
def test_parts_and_devices_give_the_gradient_of_the_whole_batch():
    batch = some_batch()
    results, steps = {}, {}
    for parts in (1, 4):
        state, frozen, step = tiny_step(parts)
        steps[parts] = jax.jit(step)
        results[parts] = steps[parts](state, frozen, batch)
    devices = Devices("pmap", jax.devices()[:2])
    state, frozen, step = tiny_step(1, devices.axis_name)
    state, frozen = devices.replicate(state), devices.replicate(frozen)
    results["devices"] = devices.compile(step)(state, frozen, devices.put_batch(batch))
    whole = results.pop(1)[1]
    for new, metrics in results.values():
        for name in ("loss", "gradient_norm"):
            np.testing.assert_allclose(metrics[name], whole[name], rtol=1e-5)
        assert int(np.asarray(new.step)) == 1
    # Must differ: half of the rows, twice, which has the shapes that are compiled already.
    half = jax.tree.map(lambda x: np.concatenate((x[:4], x[:4])), batch)
    state, frozen, _ = tiny_step(1)
    loss = steps[1](state, frozen, half)[1]["loss"]
    assert abs(float(loss) - float(whole["loss"])) > 1e-3


def test_decay_is_for_kernels():
    state, _, _ = tiny_step(1)
    chosen = param_tree.flatten(decay_mask(state.trained))
    assert chosen["lm_head.kernel"]
    assert not chosen["lm_head.bias"]
    assert not any(chosen[path] for path in chosen if path.endswith(("bias", "scale")))


def test_batches_are_a_function_of_seed_and_step():
    one, other = some_batch(), some_batch()
    assert jax.tree.all(jax.tree.map(np.array_equal, one, other))
    assert one.samples.shape == (8, 1600)
    assert one.labels.shape == (8, 8)  # Eights.
    assert (one.labels != 0).sum(axis=1).tolist() == one.counts.tolist()


def test_masks_silence_stretches_and_bands():
    rate = 16_000
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(rate).astype(np.float32)
    time = MaskConfig(time_masks=3, time_seconds=0.1, frequency_masks=0)
    masked = mask_clip(noise, np.random.default_rng(1), time, rate)
    silent = masked == 0
    assert 0 < silent.mean() < 0.3
    assert np.array_equal(masked[~silent], noise[~silent])
    bands = MaskConfig(time_masks=0, frequency_masks=2, frequency_share=0.2)
    masked = mask_clip(noise, np.random.default_rng(1), bands, rate)
    assert masked.shape == noise.shape
    share = np.abs(np.fft.rfft(masked)) / np.abs(np.fft.rfft(noise))
    assert 0.01 < np.mean(share < 0.2) < 0.6
    assert np.mean(np.abs(share - 1) < 0.1) > 0.3
    nothing = MaskConfig(time_masks=0, frequency_masks=0)
    assert np.array_equal(mask_clip(noise, rng, nothing, rate), noise)


def test_what_a_vocabulary_cannot_spell():
    assert unspelled(["ab ba", "abé-"], VOCABULARY) == ["-", "é"]
    assert unspelled(["ab ba"], dataclasses.replace(VOCABULARY, word_delimiter=None)) == [" "]


@pytest.mark.slow
def test_a_tower_of_capitals_is_spelled_in_capitals(world, one_device, tmp_path):
    config = read_info(world.speech).config
    tokens = ("<pad>", "|", *sorted(set(SPOKEN.upper()) - {" "}))
    save_speech_tower(tmp_path / "tower", initial_recogniser(config, CtcVocabulary(tokens), 0))
    changes = ["model.vocabulary=tower", f"model.speech_tower={tmp_path / 'tower'}"]
    run = train_recogniser(
        world.load(*changes, "train.steps=1"),
        tmp_path / "run",
        devices=one_device,
        log=lambda _: None,
    )
    assert run.info is not None
    assert run.info.vocabulary is not None
    assert run.folder is not None
    assert run.info.vocabulary.tokens == tokens
    assert isinstance(load_hubert_ctc(run.folder), nnx.Module)
    assert jnp.isfinite(jnp.asarray(losses(tmp_path / "run"))).all()
