"""Runs from a manifest to a model: through train.py's own code, on real files."""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_run
from flax import nnx
from repository import ROOT
from tiny_run import losses

import mrl_jax
from mrl_jax.checkpoints.towers import TOWER_FILE, read_checked_weights, read_info
from mrl_jax.checkpoints.train_state import RunCheckpoints
from mrl_jax.core.cli import run_command
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.curation.config import CurationConfig
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.evaluation.retrieval.report import run_retrieval
from mrl_jax.inference.cascade_config import CascadeConfig
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train
from mrl_jax.training.ctc.config import CtcExperiment
from mrl_jax.training.devices import Devices
from mrl_jax.training.metrics_log import read_metrics
from mrl_jax.training.text_tower.config import TextStageExperiment


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    speech, text = tiny_run.make_towers(folder / "towers")
    manifest = tiny_run.make_manifest(folder / "data")
    validation = tiny_run.make_retrieval_set(folder / "validation")
    config = tiny_run.make_config(folder, speech, text, manifest, validation)
    return tiny_run.World(folder, ExperimentConfig, config, speech, text, manifest, validation)


@pytest.fixture(scope="module")
def finished(world, one_device):
    """An uninterrupted run, and the lines of its log."""
    lines: list[str] = []
    workdir = world.folder / "finished"
    run = train(world.load(), workdir, devices=one_device, log=lines.append)
    return workdir, run, lines


def test_a_run_leaves_metrics_checkpoints_and_a_model(world, finished):
    workdir, run, lines = finished
    assert run.summary.finished
    assert len(losses(workdir)) == 12
    validations = [
        row for row in read_metrics(workdir / "metrics.jsonl") if row["kind"] == "validation"
    ]
    assert [row["step"] for row in validations] == [6, 12]
    assert {"ndcg@10", "ndcg@10/32", "ndcg@10/16", "ndcg@10/8"} <= set(validations[0])
    train_row = read_metrics(workdir / "metrics.jsonl")[0]
    assert {"loss/32", "gradient_norm", "learning_rate", "pairs_per_second"} <= set(train_row)
    best = max(validations, key=lambda row: row["ndcg@10"])
    assert run.info.scores["ndcg@10"] == best["ndcg@10"]
    assert "trained of" in lines[0]
    assert "12 steps of 8" in lines[0]
    with RunCheckpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step == 12
    config = json.loads((workdir / "experiment.json").read_text())
    assert config["optim"]["learning_rate"] == 3e-3


@pytest.mark.slow
def test_the_loss_falls(world, one_device):
    run = train(
        world.load("train.steps=40", "train.validate_every=0", "train.checkpoint_every=0"),
        world.folder / "longer",
        devices=one_device,
        log=lambda _: None,
    )
    values = losses(world.folder / "longer")
    assert np.mean(values[-8:]) < 0.8 * np.mean(values[:8])
    assert run.summary.step == 40


def test_only_the_head_moves(world, finished):
    workdir, run, _ = finished
    assert set(param_tree.flatten(run.summary.state.trained)) == {
        "head.frame_downsample.bias",
        "head.frame_downsample.kernel",
        "head.frame_projection.kernel",
    }
    # The towers on disk are checked against their digests, those in memory against the disk.
    model = mrl_jax.Embedder.load(workdir).model
    for folder, tower in ((world.speech, model.speech), (world.text, model.text)):
        assert isinstance(tower, nnx.Module)
        stored = read_checked_weights(folder, read_info(folder))["encoder"]
        for path, leaf in param_tree.flat_weights(tower).items():
            assert np.array_equal(np.asarray(leaf.get_value()), stored[path]), path
    # And the head did move: an unmoved bias is zero.
    assert np.abs(tiny_run.exported_head(workdir)["head.frame_downsample.bias"]).max() > 0


def test_the_exported_model_scores_as_the_trained_state(world, finished):
    workdir, run, _ = finished
    measured = run_retrieval(mrl_jax.Embedder.load(workdir), read_retrieval_set(world.validation))
    widest = measured.results[0]
    assert widest.dim == 32
    # Its weights have the head's fixed factors multiplied in, so to rounding only.
    assert widest.means["ndcg@10"] == pytest.approx(run.info.scores["ndcg@10"], abs=1e-6)
    factors = json.loads((workdir / "calibration.json").read_text())
    assert abs(factors["token_scale"] - 1) > 1e-3


def test_a_finished_run_is_not_run_again(world, finished, one_device):
    workdir, run, _ = finished
    before, lines = losses(workdir), []
    again = train(world.load(), workdir, devices=one_device, log=lines.append)
    assert again.summary.step == 12
    assert losses(workdir) == before
    assert again.info == run.info
    assert any("resumed from step 12" in line for line in lines)


def test_what_has_changed_since_the_run_began_is_logged(world, finished, one_device, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(finished[0], workdir)
    path = workdir / "experiment.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "data_digest": "of other recordings"}))
    lines: list[str] = []
    config = world.load("train.checkpoint_every=5")
    train(config, workdir, devices=one_device, log=lines.append)
    [note] = [line for line in lines if "changed since the run began" in line]
    assert f"data_digest of other recordings → {record['data_digest']}" in note
    assert "train.checkpoint_every" in note
    assert "learning_rate" not in note


def test_two_runs_are_the_same_to_the_bit_and_another_seed_is_not(world, finished, one_device):
    workdir, _, _ = finished
    quick = ["train.validate_every=0", "train.checkpoint_every=0", "train.steps=12"]
    for name, change in (("same", "seed=0"), ("other", "seed=1")):
        train(
            world.load(*quick, change),
            world.folder / name,
            devices=one_device,
            log=lambda _: None,
        )
    assert losses(world.folder / "same") == losses(workdir)
    assert losses(world.folder / "other") != losses(workdir)


def test_steps_compile_once_a_bucket(world, one_device):
    compiled: list[str] = []

    def listen(event: str, duration_secs: float, **details: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(str(details.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    run = train(
        world.load("data.validation=", "train.steps=12", "data.batch.num_buckets=3"),
        world.folder / "compiles",
        devices=one_device,
        log=lambda _: None,
    )
    steps = [name for name in compiled if "step" in name or "_fun" in name]
    assert 0 < run.summary.compiled_shapes <= 3
    assert len(steps) == run.summary.compiled_shapes, compiled


@pytest.mark.slow
def test_another_device_count_resumes(world, finished):
    workdir = world.folder / "devices"
    changes = ["train.validate_every=0", "train.checkpoint_every=6"]
    half = world.load(*changes, "train.steps=12")
    run_until(half, workdir, 6)
    two = Devices("pmap", jax.devices()[:2])
    train(half, workdir, devices=two, log=lambda _: None)
    ours, theirs = losses(workdir), losses(finished[0])
    np.testing.assert_allclose(ours, theirs, rtol=2e-4)
    assert len(ours) == 12


def run_until(config: ExperimentConfig, workdir: Path, step: int) -> None:
    """Train, and be stopped by SIGTERM right after `step`."""
    lines: list[str] = []
    with tiny_run.sigterm_after(step):
        one = Devices("pmap", jax.devices()[:1])
        run = train(config, workdir, devices=one, log=lines.append)
    assert not run.summary.finished
    assert run.info is None
    assert (workdir / "metrics.jsonl").is_file()
    assert "stopped by SIGTERM" in lines[-1]


def test_sigterm_saves_and_the_same_command_goes_on(world, finished, one_device):
    workdir = world.folder / "stopped"
    config = world.load("train.checkpoint_every=0")
    run_until(config, workdir, 4)
    with RunCheckpoints(workdir / "checkpoints") as checkpoints:
        assert checkpoints.latest_step is not None
        assert 4 <= checkpoints.latest_step < 12
    assert not (workdir / "model.json").exists()
    run = train(config, workdir, devices=one_device, log=lambda _: None)
    assert run.summary.finished
    assert losses(workdir) == losses(finished[0])
    for path, array in tiny_run.exported_head(workdir).items():
        assert np.array_equal(array, tiny_run.exported_head(finished[0])[path])


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
from mrl_jax.core.config import load_config, override
from mrl_jax.core.cli import run_command
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train
import grain, orbax.checkpoint, tensorflow_datasets, tokenizers, optax  # Before the forks.

config = override(
    load_config(Path(sys.argv[1]), ExperimentConfig),
    ["train.steps=60", "train.checkpoint_every=2", "train.validate_every=20"],
)
rng = random.Random(0)

def run(workdir, kills):
    metrics = workdir / "metrics.jsonl"

    def lines():
        return metrics.read_bytes().count(b"\\n") if metrics.exists() else 0

    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            sys.stdout = sys.stderr = open(os.devnull, "w")
            os._exit(run_command(lambda _: train(config, workdir) and 0, []))
        if attempt < kills:
            start, wanted = lines(), rng.randint(1, 5)
            while lines() < start + wanted:
                done, status = os.waitpid(child, os.WNOHANG)
                assert not done, f"attempt {attempt} ended by itself: {status}"
                time.sleep(0.001)
            time.sleep(rng.random() * 0.1)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        print(attempt, lines(), status, flush=True)
    assert status == 0

run(Path(sys.argv[2]), 0)
run(Path(sys.argv[3]), 10)
"""


@pytest.mark.slow
def test_killed_ten_times_the_run_is_the_same_to_the_bit(world, tmp_path):
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONWARNINGS": "ignore",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLER, str(world.config), str(whole), str(killed)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _, *statuses = [int(line.split()[2]) for line in done.stdout.splitlines()]
    assert statuses == [signal.SIGKILL] * 10 + [0]
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 60
    expected = tiny_run.exported_head(whole)
    for path, array in tiny_run.exported_head(killed).items():
        assert np.array_equal(array, expected[path]), path


def test_what_is_not_finite_stops_the_run_and_is_never_saved(world, one_device):
    workdir = world.folder / "diverged"
    sane = world.load("train.checkpoint_every=1", "train.validate_every=0")
    run_until(sane, workdir, 2)
    with RunCheckpoints(workdir / "checkpoints") as checkpoints:
        good = checkpoints.latest_step
    assert good is not None
    wild = override(sane, ["optim.learning_rate=1e30", "optim.warmup_fraction=0"])
    with pytest.raises(MrlError, match=rf"not finite.*The checkpoint of step {good} is whole"):
        train(wild, workdir, devices=one_device, log=lambda _: None)
    assert not (workdir / "model.json").exists()
    assert train(sane, workdir, devices=one_device, log=lambda _: None).summary.finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["data.train=nowhere.jsonl"], "nowhere.jsonl"),
        (["loss.dims=[64,32]"], "loss.dims has 64, expected 1 to 32"),
        (["data.batch.batch_size=7"], "data.batch.batch_size is 7, expected a multiple of 2"),
        (["data.batch.batch_size=4096"], "there are 48 examples, expected at least"),
        (["model.speech_tower=nowhere"], "nowhere/tower.json: no such file"),
        (["model.text_tower=nowhere"], "nowhere/tower.json: no such file. Make a tower folder"),
        (["model.text_tower={speech}"], "tokenizer"),
        (["data.validation=nowhere"], "nowhere"),
        (["train.stpes=3"], "Did you mean steps?"),
        (["optim.learning_rate=fast"], "optim.learning_rate is 'fast', expected a number"),
        (["train.parallel=tpu"], "expected one of pmap, mesh"),
        (["train.text_lora.rank=4"], "train.text_lora.rank is 4, and this kind of training"),
        (["train.text_lora.alpha=4"], "train.text_lora.alpha is 4.0, and this kind of training"),
        (["loss.dims=[32,32]"], "loss.dims is (32, 32), expected different widths"),
        (["loss.weights=[1,2]"], "loss.weights has 2 weights, expected 3"),
        (["seed=-1"], "seed is -1, expected"),
        (["optim.clip_norm=-1"], "optim.clip_norm is -1.0, expected above 0"),
        (["data.batch.prefetch=0"], "data.batch.prefetch is 0"),
        (["steps"], "'steps' is no option and no assignment"),
        (["data.build.sample_rate=8000"], "the data set is at 8000 Hz"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(world, changes, message, tmp_path):
    changes = [change.format(speech=world.speech) for change in changes]
    tiny_run.assert_refused(world.config, tmp_path / "run", changes, message)
    assert not (tmp_path / "run" / "model.json").exists()


def test_a_misspelt_config_gets_the_nearest_name(capsys):
    main = importlib.import_module("train").main
    assert run_command(main, ["--config", str(ROOT / "configs" / "dmeo.py")]) == 2
    assert "demo.py?" in capsys.readouterr().err


def test_a_run_of_another_model_is_refused(world, finished, one_device, tmp_path):
    speech, text = tiny_run.make_towers(tmp_path / "towers", seed=5)
    ours, theirs = (read_info(folder).digest for folder in (speech, world.speech))
    with pytest.raises(MrlError, match="another model: its speech tower is") as error:
        train(
            world.load(f"model.speech_tower={speech}"),
            finished[0],
            devices=one_device,
            log=lambda _: None,
        )
    assert ours in str(error.value)
    assert theirs in str(error.value)
    with pytest.raises(MrlError, match="another model: its trained leaves log_temperature is"):
        train(
            world.load("loss.learn_temperature=true"),
            finished[0],
            devices=one_device,
            log=lambda _: None,
        )
    for change, message in (
        ("model.end_token=false", "its end token is 0, expected None"),
        ("model.calibrate=false", "its calibration layer_scale is"),
    ):
        with pytest.raises(MrlError, match=message):
            train(world.load(change), finished[0], devices=one_device, log=lambda _: None)
    assert text.is_dir()


@pytest.mark.slow
def test_a_head_that_starts_at_the_transcript(world, tmp_path, one_device):
    changes = ("model.head_init=ctc", "train.steps=1", "optim.learning_rate=1e-12")
    train(world.load(*changes), tmp_path / "run", devices=one_device, log=lambda _: None)
    kernel = tiny_run.exported_head(tmp_path / "run")["head.frame_downsample.kernel"]
    np.testing.assert_allclose(kernel, np.broadcast_to(np.eye(32), (2, 32, 32)), atol=1e-5)
    with pytest.raises(MrlError, match=r"model\.head_init is 'ctx', expected one of random, ctc"):
        world.load("model.head_init=ctx")


def test_every_config_builds():
    configs = sorted((ROOT / "configs").glob("*.py"))
    assert len(configs) >= 3
    for path in configs:
        kinds = (ExperimentConfig, TextStageExperiment, CtcExperiment, CascadeConfig)
        kinds = (*kinds, CurationConfig)
        config = load_config(path, *kinds)
        assert config.name == path.stem
        header = path.read_text(encoding="utf-8")
        for word in ("Command:", "Hardware:", "Duration:", "Expected:"):
            assert word in header, f"{path.name} lacks {word}"


def test_the_command_itself(world, tmp_path):
    """One real process, for what an in-process call does not show: status, output, files."""
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "train.py"),
            "--config",
            str(world.config),
            "--workdir",
            str(tmp_path / "run"),
            "train.steps=2",
            "data.validation=",
            "train.tensorboard=true",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "model of step 2" in done.stdout
    assert "Traceback" not in done.stderr
    assert list((tmp_path / "run" / "tensorboard").iterdir())
    assert (tmp_path / "run" / "model.json").is_file()
    assert not list((tmp_path / "run").glob(".*partial*"))
    assert (world.speech / TOWER_FILE).is_file()


def test_a_dual_encoder_trains_resumes_and_is_exported(world, one_device, tmp_path):
    lines: list[str] = []
    config = world.load(
        "model.kind=dual_encoder", "optim.learning_rate=0.01", "loss.name=l1_cosine"
    )
    run_until(config, tmp_path, 7)
    run = train(config, tmp_path, devices=one_device, log=lines.append)
    assert any("resumed from step" in line for line in lines)
    assert run.info is not None
    assert run.info.kind == "dual_encoder"
    values = losses(tmp_path)
    assert np.mean(values[-4:]) < np.mean(values[:4])
    embedder = mrl_jax.Embedder.load(tmp_path)
    assert embedder.model.separate_dims == (32, 16, 8)
    measured = run_retrieval(embedder, read_retrieval_set(world.validation))
    # Its weights have the head's fixed factors multiplied in, so to rounding only.
    score = run.info.scores["ndcg@10"]
    assert measured.results[0].means["ndcg@10"] == pytest.approx(score, abs=1e-6)
    factors = json.loads((tmp_path / "calibration.json").read_text())
    assert list(factors) == ["layer_scale"]
    assert np.abs(np.asarray(factors["layer_scale"]) - 1).max() > 1e-3
