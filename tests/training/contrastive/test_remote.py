"""Runs, reports and indices whose data, towers and folders are at addresses."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import tiny_run
from loopback_s3 import BUCKET, loopback_s3

from mrl_jax.checkpoints import checksum_command
from mrl_jax.core.cli import run_command
from mrl_jax.core.paths import user_path
from mrl_jax.data.build import __main__ as build_command
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.evaluation import command as evaluate
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.index import index_command, search_command

KILLED = """
import os, shutil, signal, sys, time
import boto3
from pathlib import Path
from mrl_jax.core.cli import run_command
from mrl_jax.core.config import load_config, override
from mrl_jax.core.paths import output_path
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train

config, whole, cache, bucket = sys.argv[1:5]
changes = ["train.steps=24", "train.validate_every=9"]
fields = {"model.speech_tower": "towers/speech", "model.text_tower": "towers/text",
          "data.train": "data/train.jsonl", "data.validation": "validation"}
remote = [f"{field}=s3://{bucket}/{key}" for field, key in fields.items()]

def started(workdir, changes):
    child = os.fork()
    if child == 0:
        run = override(load_config(Path(config), ExperimentConfig), changes)
        os._exit(run_command(lambda _: train(run, output_path(workdir)) and 0, []))
    return child

print("whole", os.waitpid(started(whole, changes), 0)[1], flush=True)
child = started(f"s3://{bucket}/runs/one", changes + remote)
client = boto3.client("s3")
while "Contents" not in client.list_objects_v2(
    Bucket=bucket, Prefix="runs/one/checkpoints/3/files.json"
):
    done, status = os.waitpid(child, os.WNOHANG)
    assert not done, f"it ended by itself: {status}"
    time.sleep(0.001)
os.kill(child, signal.SIGKILL)
print("killed", os.waitpid(child, 0)[1], flush=True)
shutil.rmtree(cache)
child = started(f"s3://{bucket}/runs/one", changes + remote)
print("resumed", os.waitpid(child, 0)[1], flush=True)
"""


@pytest.mark.slow
def test_killed_and_resumed_elsewhere_the_run_is_the_same_to_the_bit(tmp_path):
    world = tiny_run.make_world(tmp_path / "world", examples=48)
    validation = tiny_run.make_retrieval_set(tmp_path / "world" / "validation")
    config = tiny_run.make_config(
        world,
        world / "towers/speech",
        world / "towers/text",
        world / "data/train.jsonl",
        validation,
    )
    cache, whole = tmp_path / "cache", tmp_path / "whole"
    with loopback_s3(cache) as s3:
        for name in ("towers", "data", "validation"):
            s3.put_folder(name, world / name)
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(config), str(whole), str(cache), BUCKET],
            env={**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1"},
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        lines = [line.split() for line in done.stdout.splitlines()]
        statuses = {line[0]: line[1] for line in lines if line[0] in ("whole", "killed", "resumed")}
        assert statuses == {"whole": "0", "killed": str(int(signal.SIGKILL)), "resumed": "0"}
        assert "resumed from step " in done.stdout
        assert "which ended without giving it back" in done.stdout

        # What is left there: nothing of older checkpoints, no lock, no half-written file.
        names = s3.names("runs/")
        steps = {name.split("/")[3] for name in names if "/checkpoints/" in name}
        assert "24" in steps
        assert len(steps) <= 2
        assert not [name for name in names if "partial" in name or name.endswith(".lock")]
        assert {"runs/one/model.json", "runs/one/data/build.json"} <= set(names)

        # On a third machine the model loads with its towers, and is that of an undisturbed run.
        os.environ["MRL_JAX_CACHE"] = str(tmp_path / "third")  # Restored by `loopback_s3`.
        assert Embedder.load(f"s3://{BUCKET}/runs/one").info.step == Embedder.load(whole).info.step
        workdir = user_path(f"s3://{BUCKET}/runs/one")
        assert not (workdir / "checkpoints").exists()
        expected, heads = tiny_run.exported_head(whole), tiny_run.exported_head(workdir)
        assert {path: array.tobytes() for path, array in heads.items()} == {
            path: array.tobytes() for path, array in expected.items()
        }
        assert len({array.tobytes() for array in expected.values()}) > 1
        losses = tmp_path / "metrics"
        losses.mkdir()
        (losses / "metrics.jsonl").write_bytes(s3.read("runs/one/metrics.jsonl"))
        assert tiny_run.losses(losses) == tiny_run.losses(whole)
    assert Path(os.environ.get("MRL_JAX_CACHE", "/")) != tmp_path / "third"


@pytest.mark.slow
def test_reports_indices_and_data_sets_at_addresses(tmp_path, capsys):
    root, world, here = tmp_path / "world", f"s3://{BUCKET}/world", tmp_path / "cache"
    tiny_run.make_model(root)
    tiny_run.make_retrieval_set(root / "set")
    tiny_run.make_manifest(root / "data", examples=6)
    with loopback_s3(here) as s3:
        s3.put_folder("world", root)

        def said(main: Callable[[Sequence[str]], int], *words: str, status: int = 0) -> str:
            shutil.rmtree(here, ignore_errors=True)  # Each command on another machine.
            assert run_command(main, words) == status, capsys.readouterr().err
            output = capsys.readouterr()
            assert str(here) not in output.out + output.err
            return output.err.strip().splitlines()[-1] if status else output.out

        report = ("retrieval", "--model", f"{world}/model", "--data", f"{world}/set")
        assert f"report: {world}/model/eval-set/report.md" in said(evaluate.main, *report)
        assert "world/model/eval-set/results.jsonl" in s3.names()
        assert f"error: {world}/model/eval-set: the output exists already" in said(
            evaluate.main, *report, status=2
        )

        built = ("--model", f"{world}/model", "--corpus", f"{world}/set", "--out", f"{world}/index")
        assert said(index_command.main, "build", *built).startswith(f"{world}/index: 25 documents")
        assert "ba ce" in said(search_command.main, f"{world}/index", "ba ce", "-k", "3")
        said(index_command.main, "remove", f"{world}/index", "d0")
        assert (
            said(checksum_command.main, f"{world}/index")
            == f"{world}/index/index.json: as written\n"
        )

        build = (f"{world}/data/train.jsonl", f"{world}/built")
        assert ": built: train 6 clips" in said(build_command.main, *build)
        assert ": unchanged, kept: train 6 clips" in said(build_command.main, *build)
        assert len(open_dataset(f"{world}/built").clip(5))
