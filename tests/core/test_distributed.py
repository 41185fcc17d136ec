"""Several processes, one run: two processes of `train.py` against one; and what they refuse."""

import itertools
import json
import signal
import socket
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny_ctc
import tiny_run
from forked_train import ForkedTrain, ForkServer
from jax.experimental import multihost_utils
from repository import ROOT

import mrl_jax
from mrl_jax.checkpoints.towers import read_checked_weights, read_info
from mrl_jax.core.cli import run_command
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    barrier,
    common_token,
    initialize_distributed,
    run_on_all,
    should_stop,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.training.metrics_log import read_metrics

CHANGES = ("train.steps=6", "train.validate_every=6", "train.checkpoint_every=3")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("world")
    speech, text = tiny_run.make_towers(root / "towers")
    manifest = tiny_run.make_manifest(root / "data", examples=30)
    validation = tiny_run.make_retrieval_set(root / "validation", queries=4)
    tiny_run.make_config(root, speech, text, manifest, validation)
    return root


@pytest.fixture(scope="module")
def launch(world, tmp_path_factory):
    """A function that starts `train.py` of this world in a process of its own."""
    outputs = tmp_path_factory.mktemp("outputs")
    numbers = itertools.count()
    with ForkServer() as server:

        def start(
            workdir: str,
            *words: object,
            devices: int = 1,
            config: str = "tiny.py",
            cwd: Path = ROOT,
        ) -> ForkedTrain:
            command = ["--config", world / config, "--workdir", world / workdir, *CHANGES, *words]
            output = outputs / str(next(numbers))
            return server.start(list(map(str, command)), devices=devices, cwd=cwd, output=output)

        yield start


@pytest.fixture(scope="module")
def launch_pair(launch):
    """A function that starts two processes of one device each, as two hosts of one run."""

    def pair(
        workdir: str,
        *words: object,
        second: tuple[object, ...] = (),
        config: str = "tiny.py",
        cwd: tuple[Path, Path] = (ROOT, ROOT),
    ) -> list[ForkedTrain]:
        hosts = ("--coordinator", f"localhost:{free_port()}", "--processes", 2, "--process")
        return [
            launch(workdir, *hosts, 0, *words, config=config, cwd=cwd[0]),
            launch(workdir, *hosts, 1, *words, *second, config=config, cwd=cwd[1]),
        ]

    return pair


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


def test_two_hosts_are_one_run(world, launch, launch_pair):
    def caches(name: str) -> tuple[str, ...]:
        speech = f"data.speech_cache={world / f'speech {name}'}"
        return (
            f"data.document_cache={world / f'documents {name}'}",
            speech,
            "data.speech_cache_dtype=float32",
        )

    launch("one", *caches("one"), devices=2).ended()
    both = launch_pair("two", *caches("two"))
    (first, _), (second, _) = (process.ended() for process in both)
    assert "on 2 device(s)" in first
    # Gloo's own line aside, the second has nothing to say.
    assert all("Gloo" in line for line in second.splitlines())
    expected, losses = (
        [row["loss"] for row in read_metrics(world / name / "metrics.jsonl") if "loss" in row]
        for name in ("one", "two")
    )
    assert len(losses) == 6
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for name, value in tiny_run.exported_head(world / "one").items():
        np.testing.assert_allclose(tiny_run.exported_head(world / "two")[name], value, atol=1e-5)
    scores = [mrl_jax.Embedder.load(world / name).info.scores for name in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1])
    # The same command goes on with it, on another number of hosts.
    launch("two", "train.steps=8", "train.validate_every=0", devices=2).ended()
    rows = read_metrics(world / "two" / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 9))


TEXT_STAGE = """TextStageExperiment(
        name="text",
        model=TextModelConfig(
            new=NewTowerConfig(
                units="characters", width=32, num_layers=1, head_width=8, mlp_width=32
            ),
            dtype="float32",
        ),
        data=TextDataConfig(
            train=PAIRS, validation=VALIDATION, batch=TextBatchConfig(batch_size=8, max_tokens=64)
        ),
        loss=LossConfig(dims=(32, 8)),
        optim=OptimConfig(learning_rate=1e-2, accumulation_steps=2),
        train=LoopConfig(tensorboard=False),
    )"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["text", "ctc"])
def test_the_other_stages_run_on_two_hosts_too(world, launch, launch_pair, stage):
    """Rows of a batch, its loss and the exported tower are those of one process."""
    changes = ("train.steps=3", "train.validate_every=0")
    if stage == "ctc":
        manifest = world / "data" / "train.jsonl"
        config = tiny_ctc.make_config(world, world / "towers" / "speech", manifest)
    else:
        changes += ("noise.normal=0.5", "noise.mix=0.3", "noise.drop=0.1", "noise.swap=0.1")
        config = world / "text.py"
        pairs = itertools.product("bcdf", "eiou")
        rows = [{"query": a + b, "document": b + a} for a, b in pairs]
        (world / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        written = [Query(id=f"q{i}", text=row["query"]) for i, row in enumerate(rows[:4])]
        corpus = [Document(id=f"d{i}", text=row["document"]) for i, row in enumerate(rows)]
        queries = world / "written queries"
        write_retrieval_set(queries, written, corpus, {f"q{i}": {f"d{i}": 1} for i in range(4)})
        places = {"PAIRS": world / "pairs.jsonl", "VALIDATION": queries}
        text = TEXT_STAGE
        for name, place in places.items():
            text = text.replace(name, repr(str(place)))
        tiny_run.write_config(config, text)
    one = launch(f"{stage} one", *changes, devices=2, config=config.name)
    both = launch_pair(f"{stage} two", *changes, config=config.name)
    for process in (one, *both):
        process.ended()
    losses, expected = (
        [row["loss"] for row in read_metrics(world / name / "metrics.jsonl") if "loss" in row]
        for name in (f"{stage} two", f"{stage} one")
    )
    assert len(losses) == 3
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    towers = [world / f"{stage} {name}" / "tower" for name in ("one", "two")]
    weights = [read_checked_weights(tower, read_info(tower)) for tower in towers]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), *weights)


@pytest.mark.slow
def test_a_signal_to_one_host_stops_both_at_one_step(world, launch_pair):
    longer = ("train.steps=100000", "train.checkpoint_every=0", "train.validate_every=0")
    processes = launch_pair("stopped", *longer)
    metrics = world / "stopped" / "metrics.jsonl"
    for _ in range(600):
        if metrics.is_file() and len(read_metrics(metrics)) > 3:
            break
        time.sleep(0.2)
    processes[1].send_signal(signal.SIGTERM)
    (first, _), _ = (process.ended(143) for process in processes)
    assert "stopped by SIGTERM after step" in first
    steps = [int(path.name) for path in (world / "stopped" / "checkpoints").glob("[0-9]*")]
    assert steps == [read_metrics(metrics)[-1]["step"]]


@pytest.mark.slow
def test_hosts_that_disagree_are_named(world, launch_pair):
    for process in launch_pair("none", second=("optim.learning_rate=1e-2",)):
        _, err = process.ended(2)
        lines = [line for line in err.splitlines() if line.startswith("error:")]
        assert len(lines) == 1
        assert "hosts disagree on the config: process 1 of 2 differs from process 0" in lines[0]
    assert not (world / "none" / "checkpoints").exists()


@pytest.mark.slow
def test_where_the_first_host_fails_the_others_do_not_wait(launch_pair):
    for process in launch_pair("broken", "data.train=nowhere.jsonl"):
        _, err = process.ended(2)
        assert sum("nowhere.jsonl: no such" in line for line in err.splitlines()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("own", "hosts disagree on the cache in own: process 1 of 2 differs from process 0"),
        ("/dev/null/cache", "/dev/null/cache: could not be written: "),
        ("damaged", "process 1 of 2 failed: damaged/cache.json: "),
    ],
)
def test_a_cache_that_not_all_hosts_see(launch_pair, tmp_path, cache, message):
    """Each host in a folder of its own, or a place where the first cannot write: no host waits."""
    places = (tmp_path / "a", tmp_path / "b")
    for place in places:
        place.mkdir()
    (places[1] / "damaged").mkdir()
    (places[1] / "damaged" / "cache.json").write_text("{")
    both = launch_pair(f"with {len(cache)}", f"data.speech_cache={cache}", cwd=places)
    for _, err in [process.ended(2) for process in both]:
        assert sum(message in line for line in err.splitlines()) == 1, err


def test_a_coordinator_that_never_answers_is_named():
    port = free_port()
    begun = time.monotonic()
    with pytest.raises(MrlError, match=f"localhost:{port} did not answer within 1 s"):
        initialize_distributed(f"localhost:{port}", 1, 2, timeout=1)
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--process", "0"], "--coordinator and --processes missing"),
        (["--coordinator", "a:1", "--process", "2", "--processes", "2"], "2, expected 0 to 1"),
        (["--coordinator", "a", "--process", "0", "--processes", "2"], "'a', expected HOST:PORT"),
    ],
)
def test_wrong_numbers_are_refused(world, words, message, capsys):
    import importlib

    train = importlib.import_module("train")
    assert run_command(train.main, ["--config", str(world / "tiny.py"), *words]) == 2
    assert message in capsys.readouterr().err


def refuse(problem: str) -> None:
    raise MrlError(problem)


@pytest.mark.parametrize(
    ("error", "own", "message"),
    [
        (MrlError("no"), MrlError, "no"),
        (FileNotFoundError(2, "", "there"), MrlError, "there: No such file or directory"),
        (RuntimeError("out of memory"), RuntimeError, "RuntimeError: out of memory"),
    ],
)
def test_whatever_ends_one_host_is_reported_to_all(monkeypatch, error, own, message):
    """The others would wait for it: two hosts are played, and this is the second."""
    sent: list[np.ndarray] = []

    def gathered(line: np.ndarray) -> np.ndarray:
        sent.append(line)
        return np.stack([np.zeros_like(line), line])

    def fail() -> None:
        raise error

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "process_allgather", gathered)
    with pytest.raises(own):
        run_on_all(fail)
    # What the first one gets.
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda _: gathered(sent[0]))
    with pytest.raises(MrlError, match=f"^process 1 of 2 failed: {message}$"):
        run_on_all(lambda: None)


def test_one_process_needs_no_others():
    assert_equal_across_hosts({"config": json.dumps({})})
    barrier("anything")
    run_on_all(lambda: None)
    with pytest.raises(MrlError, match=r"^no$"):
        run_on_all(lambda: refuse("no"))
    assert common_token() != common_token()
    stopped = threading.Event()
    assert jax.process_count() == 1
    assert not should_stop(3, stopped)
    stopped.set()
    assert should_stop(3, stopped)
