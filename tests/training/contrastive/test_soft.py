"""Soft tokens from a config to a model folder: untrained, trained, resumed, refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_run
from descriptions import unsealed
from tiers import mostly_slow
from tiny_run import losses

import mrl_jax
from mrl_jax.checkpoints.models import MODEL_FILE, read_model_info
from mrl_jax.checkpoints.towers import TOWER_FILE
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.evaluation.retrieval.report import run_retrieval
from mrl_jax.models.inputs import pad_clips
from mrl_jax.models.soft_ctc import SoftCtc
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive import run as run_module
from mrl_jax.training.contrastive.config import (
    SOFT_FIELDS,
    ExperimentConfig,
    ModelConfig,
    build_model,
)
from mrl_jax.training.contrastive.run import train
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import SCORE
from mrl_jax.training.metrics_log import read_metrics
from mrl_jax.training.optim import averaged_weights

CLIPS = [tiny_run.clip_of((i, (i + 2) % 5), i) for i in range(4)]
TRAINED = (
    "model.residual=logits",
    "model.lora_rank=2",
    "optim.rates.head.lora=0.1",
    "optim.average_decay=0.5",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soft")
    speech, text = tiny_run.make_towers(folder / "towers")
    manifest = tiny_run.make_manifest(folder / "data", examples=24)
    validation = tiny_run.make_retrieval_set(folder / "validation", queries=6)
    config = tiny_run.make_config(folder, speech, text, manifest, validation)
    return tiny_run.World(folder, ExperimentConfig, config, speech, text, manifest, validation)


def soft(world: tiny_run.World, *changes: str) -> ExperimentConfig:
    return world.load("model.head=soft_ctc", "train.steps=4", "train.validate_every=2", *changes)


def run(config: ExperimentConfig, workdir: Path, devices: Devices) -> tuple[Any, list[str]]:
    lines: list[str] = []
    return train(config, workdir, devices=devices, log=lines.append), lines


def trained_leaves(model: Any) -> dict[str, HostArray]:
    flat = param_tree.flatten(param_tree.split(model).trained)
    return {path: np.asarray(leaf) for path, leaf in flat.items()}


def vectors_of(model: SoftCtc) -> HostArray:
    parts = param_tree.split(model)
    program = jax.jit(lambda t, f, *clips: parts.rebuild(t, f).embed_speech(*clips))
    return np.asarray(program(parts.trained, parts.frozen, *pad_clips(CLIPS, model.speech.config)))


def in_memory(config: ExperimentConfig) -> SoftCtc:
    model = build_model(config, TextTokenizer(config.model.text_tower))
    assert isinstance(model, SoftCtc)
    return model


def exported_vectors(workdir: Path) -> HostArray:
    clips = [(clip, tiny_run.RATE) for clip in CLIPS]
    return mrl_jax.Embedder.load(workdir).embed_speech(clips)


@pytest.mark.parametrize("validation", mostly_slow([False, True]))
def test_an_untrained_head_is_exported_and_not_run_again(validation, world, one_device, tmp_path):
    config = soft(world, "train.steps=0", *[] if validation else ["data.validation="])
    result, _ = run(config, tmp_path, one_device)
    assert result.finished
    assert (result.info.kind, result.info.step) == ("soft_ctc", 0)
    assert losses(tmp_path) == []
    np.testing.assert_allclose(exported_vectors(tmp_path), vectors_of(in_memory(config)), atol=1e-6)
    if validation:
        measured = run_retrieval(
            mrl_jax.Embedder.load(tmp_path), read_retrieval_set(world.validation)
        )
        assert measured.results[0].means[SCORE] == result.info.scores[SCORE]
    else:
        assert result.info.scores == {}
    before = read_metrics(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in before] == [0] * validation
    again, lines = run(config, tmp_path, one_device)
    assert again.info == result.info
    assert read_metrics(tmp_path / "metrics.jsonl") == before
    assert any("resumed from step 0" in line for line in lines)


def test_an_untrained_head_that_stays_the_best_is_the_one_exported(
    world, one_device, tmp_path, monkeypatch
):
    scores = iter([0.9, 0.2, 0.1])
    monkeypatch.setattr(run_module, "scores_of", lambda results: {SCORE: next(scores)})
    run(soft(world, "train.steps=0"), tmp_path, one_device)
    result, _ = run(soft(world), tmp_path, one_device)
    assert result.summary.step == 4
    assert (result.info.step, result.info.scores[SCORE]) == (0, 0.9)
    leaves = trained_leaves(mrl_jax.Embedder.load(tmp_path).model)
    np.testing.assert_array_equal(leaves["head.logit_bias"], 0)
    assert np.abs(result.summary.state.trained["head"]["logit_bias"]).max() > 0


@pytest.fixture(scope="module")
def finished(world, one_device):
    """An uninterrupted run of all that can be trained."""
    workdir = world.folder / "finished"
    result, _ = run(soft(world, *TRAINED, "train.validate_every=0"), workdir, one_device)
    return workdir, result


@pytest.mark.slow
def test_the_exported_model_is_the_average_of_the_trained_one(world, finished):
    workdir, result = finished
    state = result.summary.state
    model = in_memory(soft(world, *TRAINED))
    factors = json.loads((workdir / "calibration.json").read_text())
    model.head.layer_scale[...] = jnp.asarray(factors["layer_scale"], jnp.float32)
    assert np.abs(np.asarray(factors["layer_scale"]) - 1).max() > 1e-3
    weights, ours = param_tree.split(model), exported_vectors(workdir)
    untrained = vectors_of(model)
    average = weights.rebuild(averaged_weights(state.optimizer), weights.frozen)
    np.testing.assert_allclose(ours, vectors_of(average), atol=1e-6)
    assert np.abs(ours - untrained).max() > 1e-5
    last = vectors_of(weights.rebuild(state.trained, weights.frozen))
    assert np.abs(ours - last).max() > 1e-6
    # Scored as exported, its fixed factors multiplied in: to rounding only.
    measured = run_retrieval(mrl_jax.Embedder.load(workdir), read_retrieval_set(world.validation))
    expected = result.info.scores[SCORE]
    assert measured.results[0].means[SCORE] == pytest.approx(expected, abs=1e-6)
    info = read_model_info(workdir)
    assert (info.fusion.residual, info.fusion.lora_rank) == ("logits", 2)


def test_a_stopped_run_goes_on_to_the_bit(world, finished, one_device, tmp_path):
    config = soft(world, *TRAINED, "train.validate_every=0")
    with tiny_run.sigterm_after(2):
        stopped, _ = run(config, tmp_path, one_device)
    assert not stopped.finished
    result, _ = run(config, tmp_path, one_device)
    assert result.finished
    assert losses(tmp_path) == losses(finished[0])
    ours, theirs = (
        trained_leaves(mrl_jax.Embedder.load(folder).model) for folder in (tmp_path, finished[0])
    )
    assert ours.keys() == theirs.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, theirs[path], err_msg=path)


@pytest.mark.parametrize("parallel", mostly_slow(["pmap", "mesh"]))
def test_two_devices_train_as_one(parallel, world, finished, tmp_path):
    config = soft(world, *TRAINED, "data.validation=")
    run(config, tmp_path, Devices(parallel, jax.devices()[:2]))
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0]), rtol=1e-4)


def test_a_run_of_other_tokens_is_refused(world, finished, one_device, tmp_path):
    shutil.copytree(finished[0], tmp_path / "copy")
    for change, words in (
        ("model.compress_blank=0.5", "its compress_blank is 0.6, expected 0.5"),
        ("model.blank_weight=0.2", "its blank_weight is 0.1, expected 0.2"),
        ("model.lora_rank=3", "another model: its trained leaves"),
    ):
        with pytest.raises(MrlError, match=words):
            run(soft(world, *TRAINED, change), tmp_path / "copy", one_device)


def test_a_description_from_before_there_were_soft_tokens(tmp_path):
    folder = tiny_run.make_model(tmp_path)
    before = mrl_jax.Embedder.load(folder).embed_text(["ba ce"])
    path = folder / MODEL_FILE
    raw = json.loads(unsealed(path))
    raw["fusion"] = {"end_token": 0, "learn_temperature": False, "initial_temperature": 0.05}
    del raw["dtype"]
    path.write_text(json.dumps(raw))
    np.testing.assert_array_equal(mrl_jax.Embedder.load(folder).embed_text(["ba ce"]), before)


def test_a_bound_that_cuts_is_told_where_a_clip_is_embedded(world, one_device, tmp_path):
    # Pairs of frames: a random recogniser may have one run a clip.
    changes = ("train.steps=0", "data.validation=", "model.compress_blank=none")
    run(soft(world, *changes), tmp_path, one_device)
    path = tmp_path / MODEL_FILE
    raw = json.loads(unsealed(path))
    raw["fusion"]["max_tokens_per_second"] = 3.0
    path.write_text(json.dumps(raw))
    with pytest.raises(
        MrlError, match=r"clip \d: the clip has \d+ speech tokens more than"
    ) as error:
        exported_vectors(tmp_path)
    assert "model.max_tokens_per_second" in str(error.value)


def test_names_of_leaves_that_are_not_there(world, tmp_path):
    changes = ("model.head=soft_ctc", "model.lora_rank=1", "optim.rates.head.lorra=0.1")
    line = tiny_run.assert_refused(world.config, tmp_path / "run", changes, "'head.lorra'")
    assert "did you mean head.lora?" in line.lower()


BAD_FIELDS = [
    (["model.compress_blank=0"], "model.compress_blank is 0.0, expected above 0 up to 1, or none"),
    (["model.compress_blank=1.5"], "model.compress_blank is 1.5, expected above 0"),
    (["model.blank_weight=-1"], "model.blank_weight is -1.0, expected 0 to 1"),
    (["model.blank_weight=2"], "model.blank_weight is 2.0, expected 0 to 1"),
    (["model.max_tokens_per_second=0"], "model.max_tokens_per_second is 0.0, expected above 0"),
    (["model.logit_temperature=0"], "model.logit_temperature is 0.0, expected above 0"),
    (["model.residual=logit"], "'logit', expected one of none, logits, frames. Did you mean"),
    (["model.lora_rank=-1"], "model.lora_rank is -1, expected 0 or more"),
    (["model.lora_rank=1.5"], "model.lora_rank is '1.5', expected a whole number"),
    (["model.end_token=false"], "model.head=soft_ctc pools at the end token"),
    (["model.kind=dual_encoder"], "model.head=soft_ctc is for late fusion, and model.kind is a"),
    (["model.head_init=ctc"], "a soft head reads the CTC layer itself. Set model.head_init=random"),
    (["model.nested=true"], "model.nested is for dual encoders"),
    (["optim.rates.head=-1"], "optim.rates.head is -1.0, expected 0 or more"),
    (["optim.rates.head=fast"], "optim.rates.head is 'fast', expected a number"),
    (["optim.average_decay=1"], "optim.average_decay is 1.0, expected 0 up to 1"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_FIELDS)
def test_bad_fields(changes, message, world, tmp_path):
    changes = ["model.head=soft_ctc", *changes]
    tiny_run.assert_refused(world.config, tmp_path / "run", changes, message)


def test_numbers_that_no_command_line_gives():
    for field in ("max_tokens_per_second", "logit_temperature", "compress_blank", "blank_weight"):
        changes: Any = {field: float("nan")}
        with pytest.raises(MrlError, match=rf"{field} is NaN"):
            ModelConfig(head="soft_ctc", **changes)


OTHER_VALUES = {
    "compress_blank": None,
    "blank_weight": 0.5,
    "max_tokens_per_second": 12.0,
    "logit_temperature": 2.0,
    "residual": "frames",
    "lora_rank": 4,
}


@pytest.mark.parametrize("field", SOFT_FIELDS)
@pytest.mark.parametrize("kind", ["late_fusion", "dual_encoder"])
def test_fields_of_a_soft_head_are_refused_with_any_other(kind, field):
    options: dict[str, Any] = {field: OTHER_VALUES[field]}
    with pytest.raises(MrlError, match=rf"model\.{field} is for a soft head, and .* Set model"):
        ModelConfig(kind=kind, **options)
    if kind == "late_fusion":
        assert getattr(ModelConfig(head="soft_ctc", **options), field) == OTHER_VALUES[field]


def plain(raw: dict[str, Any]) -> None:
    raw["kind"] = "hubert"


def nameless(raw: dict[str, Any]) -> None:
    raw["vocabulary"] = None


def foreign(raw: dict[str, Any]) -> None:
    raw["vocabulary"]["tokens"] = ["<pad>", "ŋ", "ɛ"]


def of_another_tower(raw: dict[str, Any]) -> None:
    raw["vocabulary"] |= {
        "tokens": ["<pad>", "zu", "a"],
        "text_ids": [-1, 4, 5],
        "tokenizer_digest": "0" * 64,
        "word_delimiter": None,
    }


TOWERS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "no CTC layer": (plain, "the speech tower has no CTC layer, and model.head=soft_ctc reads one"),
    "no vocabulary": (nameless, "the recogniser has no vocabulary, and model.head=soft_ctc needs"),
    "characters": (foreign, "the text tower has no token for 'ŋ', 'ɛ', which the recogniser"),
    "another tower": (of_another_tower, "'zu' in the text tower whose tokens the recogniser write"),
}


@pytest.mark.parametrize(("change", "message"), TOWERS.values(), ids=TOWERS)
def test_towers_that_do_not_fit(change, message, world, tmp_path):
    speech = shutil.copytree(world.speech, tmp_path / "speech")
    raw = json.loads(unsealed(speech / TOWER_FILE))
    raw.pop("weights_digest")  # As before a digest covered more than the weights.
    change(raw)
    (speech / TOWER_FILE).write_text(json.dumps(raw))
    changes = ["model.head=soft_ctc", f"model.speech_tower={speech}"]
    line = tiny_run.assert_refused(world.config, tmp_path / "run", changes, message)
    assert str(speech) in line or str(world.text) in line
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_bound_that_cuts_is_told_before_a_run(world, tmp_path):
    changes = ["model.head=soft_ctc", "model.max_tokens_per_second=3"]
    line = tiny_run.assert_refused(
        world.config, tmp_path / "run", changes, "speech tokens more than there is room for"
    )
    assert "of the first 8 clips have up to" in line
    assert "raise model.max_tokens_per_second" in line.lower()
