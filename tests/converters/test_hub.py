"""Hub ids, through a small hub on this machine: what is fetched, and what failures say."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from loopback_hub import COMMIT, Handler, Hub, closed_port, environment, serving
from tiny_adapter import save_adapter
from tiny_checkpoints import CONFIGS, make_checkpoint

from converters.convert import convert

OTHERS = {
    "tokenizer.json": b'{"version": "1.0"}',
    "merges.txt": b"a b\n",
    "1_Pooling/config.json": b"{}",
    "modeling.py": b"raise SystemExit(99)",
    "training_args.bin": b"pickle",
    "tf_model.h5": b"hdf5",
    "README.md": b"# Tiny",
    ".gitattributes": b"",
    "onnx/model.onnx": b"onnx",
    "onnx/model.safetensors": b"not ours",
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Handler) as server:
        yield server


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("checkpoint")
    return make_checkpoint("qwen3", root / "made")


def published(checkpoint: Path) -> dict[str, bytes]:
    return OTHERS | {path.name: path.read_bytes() for path in checkpoint.iterdir()}


SCRIPT = """
import contextlib, io, json, sys
from converters.__main__ import main
from mrl_jax.core.cli import run_command
for argv in json.loads(sys.argv[1]):
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr):
        status = run_command(main, argv)
    print(json.dumps([status, stderr.getvalue()]))
"""


def run(env: dict[str, str], *commands: list[str], prelude: str = "") -> list[tuple[int, str]]:
    """Status and stderr of each command line, all in one fresh process."""
    argv = [sys.executable, "-c", prelude + SCRIPT, json.dumps(commands)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(lines) == len(commands)
    assert "Traceback" not in done.stderr
    return [(status, message) for status, message in lines]


def check(result: tuple[int, str], *parts: str) -> None:
    status, line = result
    assert status == 2, line
    assert line.startswith("error: ")
    assert line.count("\n") == 1, line
    for part in parts:
        assert part in line


def test_a_hub_id_converts_and_its_commit_is_recorded(hub, checkpoint, tmp_path):
    hub.models["org/tiny"] = published(checkpoint)
    done = subprocess.run(
        [sys.executable, "-m", "converters", "qwen3", "org/tiny", str(tmp_path / "out")],
        env=environment(tmp_path / "home", hub.url),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["source"], report["revision"]) == ("org/tiny", COMMIT)
    local = convert(str(checkpoint), tmp_path / "local", family="qwen3")
    assert report["digest"] == local["digest"]
    assert (local["source"], local["revision"]) == (str(checkpoint), None)
    assert hub.fetched == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "merges.txt",
        "1_Pooling/config.json",
        "README.md",  # Names the model that another was made from.
    }
    others = {"model.safetensors", "README.md"}
    assert sorted(report["files"]) == sorted(hub.fetched - others)
    # From then on the cache has it, with its commit, and no hub is needed.
    hub.requests.clear()
    env = environment(tmp_path / "home", hub.url, HF_HUB_OFFLINE="1")
    assert run(env, ["qwen3", "org/tiny", str(tmp_path / "offline")]) == [(0, "")]
    assert hub.requests == []
    again = json.loads((tmp_path / "offline" / "report.json").read_text())
    assert (again["digest"], again["revision"]) == (report["digest"], COMMIT)


def test_a_dense_layer_is_fetched_with_its_weights(hub, checkpoint, tmp_path):
    from safetensors.numpy import save

    layer = {"linear.weight": np.ones((8, 32), np.float32), "linear.bias": np.ones(8, np.float32)}
    kinds = ("Transformer", "Pooling", "Dense")
    modules = [
        {"path": f"{n}_{kind}" if n else "", "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    hub.models["org/dense"] = published(checkpoint) | {
        "tokenizer.json": b"{}",
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": b'{"pooling_mode": "lasttoken"}',
        "2_Dense/config.json": b'{"in_features": 32, "out_features": 8, "bias": true}',
        "2_Dense/model.safetensors": save(layer),
        "checkpoint-7/2_Dense/model.safetensors": b"not ours",
    }
    env = environment(tmp_path / "home", hub.url)
    assert run(env, ["qwen3", "org/dense", str(tmp_path / "out")]) == [(0, "")]
    assert {"2_Dense/config.json", "2_Dense/model.safetensors"} <= hub.fetched
    assert not {"onnx/model.safetensors", "checkpoint-7/2_Dense/model.safetensors"} & hub.fetched
    config = json.loads((tmp_path / "out" / "tower.json").read_text())["config"]
    assert config["dense"] == [{"width": 8, "bias": True, "activation": "tanh"}]


def test_a_pickle_is_fetched_only_where_there_is_nothing_better(hub, checkpoint, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    files = published(checkpoint)
    del files["model.safetensors"], files["onnx/model.safetensors"]
    torch.save(load_file(checkpoint / "model.safetensors"), tmp_path / "pytorch_model.bin")
    files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    hub.models["org/old"] = files
    hub.models["org/both"] = published(checkpoint) | {"pytorch_model.bin": b"not fetched"}
    commands = [
        ["qwen3", f"org/{name}", str(tmp_path / name), "--revision", COMMIT]
        for name in ("both", "old")
    ]
    env = environment(tmp_path / "home", hub.url)
    results = run(env, *commands)
    assert [status for status, _ in results] == [0, 0], results
    pickles = {path for method, path in hub.requests if method == "GET" and path.endswith(".bin")}
    assert pickles == {f"/org/old/resolve/{COMMIT}/pytorch_model.bin"}
    assert not {"training_args.bin", "modeling.py"} & hub.fetched
    both, old = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("both", "old")
    )
    assert both["digest"] == old["digest"]
    assert (both["revision"], old["revision"]) == (COMMIT, COMMIT)


def test_a_tower_in_a_folder_of_its_own_is_fetched(hub, checkpoint, tmp_path):
    whole = published(checkpoint)
    inner = {f"0_Transformer/{name}": data for name, data in whole.items() if "/" not in name}
    modules = [
        {"idx": i, "path": f"{i}_{name}", "type": f"sentence_transformers.models.{name}"}
        for i, name in enumerate(("Transformer", "Pooling"))
    ]
    width = json.loads((checkpoint / "config.json").read_text())["hidden_size"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_lasttoken": True}
    hub.models["org/old"] = inner | {
        "modules.json": json.dumps(modules).encode(),
        "1_Pooling/config.json": json.dumps(pooling).encode(),
    }
    hub.models["org/both"] = inner | whole
    results = run(
        environment(tmp_path / "home", hub.url),
        ["qwen3", "org/old", str(tmp_path / "old")],
        ["qwen3", "org/both", str(tmp_path / "inner"), "--subfolder", "0_Transformer"],
        ["qwen3", "org/both", str(tmp_path / "none"), "--subfolder", "text"],
    )
    assert results[:2] == [(0, ""), (0, "")]
    check(results[2], "has no folder 'text'", "0_Transformer")
    reports = [json.loads((tmp_path / n / "report.json").read_text()) for n in ("old", "inner")]
    local = convert(str(checkpoint), tmp_path / "local", family="qwen3")
    assert [one["digest"] for one in reports] == [local["digest"]] * 2
    assert [one["revision"] for one in reports] == [COMMIT] * 2
    assert "0_Transformer/tf_model.h5" not in hub.fetched


def test_a_speech_model_of_two_folders_is_fetched_whole(hub, tmp_path):
    source = Path(__file__).parents[3] / "shared" / "data" / "oolel_published" / "clip"
    if not source.is_dir():
        pytest.skip("needs the published folders")
    paths = [path for path in source.rglob("*") if path.is_file()]
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in paths}
    hub.models["org/whole"] = files
    for name in ("hubert_mrl", "oolel_mrl"):
        inner = {k.removeprefix(f"{name}/"): v for k, v in files.items() if k.startswith(name)}
        hub.models[f"org/{name}"] = inner
    results = run(
        environment(tmp_path / "home", hub.url),
        ["oolel-embed", "org/whole", str(tmp_path / "whole")],
        ["oolel-embed", "org/oolel_mrl", "org/hubert_mrl", str(tmp_path / "pair")],
        ["oolel-embed", "org/oolel_mrl", str(tmp_path / "half")],
    )
    assert results[:2] == [(0, ""), (0, "")]
    check(results[2], "is the text tower's folder alone")
    whole, pair = (
        json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "pair")
    )
    assert whole["head_digest"] == pair["head_digest"]
    assert (whole["revision"], pair["revision"]) == (COMMIT, COMMIT)


def test_a_format_that_is_not_read_is_named_before_it_is_fetched(hub, checkpoint, tmp_path):
    config = (checkpoint / "config.json").read_bytes()
    adapter = b'{"peft_type": "LORA", "base_model_name_or_path": "org/tiny"}'
    readme = b"---\nbase_model: org/tiny\n---\n"
    hub.models["org/gguf"] = {"tiny-Q8_0.gguf": b"GGUF", "README.md": readme}
    hub.models["org/onnx"] = {"config.json": config, "onnx/model.onnx": b"onnx"}
    lora = {"adapter_config.json": adapter, "adapter_model.safetensors": b"not fetched"}
    hub.models["org/lora"] = lora
    out = str(tmp_path / "out")
    results = run(
        environment(tmp_path / "home", hub.url),
        *(["qwen3", f"org/{name}", out] for name in ("gguf", "onnx", "lora")),
    )
    part = "error: org/gguf: holds GGUF weights of llama.cpp (tiny-Q8_0.gguf)"
    check(results[0], part, "made from, org/tiny")
    check(results[1], "error: org/onnx: holds an ONNX graph (onnx/model.onnx)")
    helps = "convert qwen3 org/tiny OUT --adapter org/lora"
    check(results[2], "is a LoRA adapter without its base model, org/tiny", helps)
    assert hub.fetched == {"README.md", "config.json", "adapter_config.json"}


def test_an_adapter_and_its_base_may_both_be_on_the_hub(hub, checkpoint, tmp_path):
    adapter = save_adapter(tmp_path / "adapter")
    hub.models["org/tiny"] = published(checkpoint)
    hub.models["org/other"] = published(checkpoint)
    hub.models["org/lora"] = {path.name: path.read_bytes() for path in adapter.iterdir()}
    results = run(
        environment(tmp_path / "home", hub.url),
        ["qwen3", "org/tiny", str(tmp_path / "merged"), "--adapter", "org/lora"],
        ["qwen3", "org/other", str(tmp_path / "other"), "--adapter", "org/lora"],
        ["qwen3", "org/tiny", str(tmp_path / "gone"), "--adapter", "org/gone"],
    )
    assert results[0] == (0, "")
    check(results[1], "was made for the base org/tiny", "the base passed is org/other")
    check(results[2], "error: org/gone: ", "neither a local folder nor a model on the hub")
    merged = json.loads((tmp_path / "merged" / "report.json").read_text())
    local = convert(str(checkpoint), tmp_path / "here", family="qwen3", adapter=str(adapter))
    assert merged["digest"] == local["digest"]


def test_what_the_hub_refuses_is_one_line(hub, checkpoint, tmp_path):
    hub.models["org/tiny"] = published(checkpoint)
    hub.models["org/bare"] = {"config.json": json.dumps(CONFIGS["qwen3"]).encode()}
    out = str(tmp_path / "out")
    results = run(
        environment(tmp_path / "home", hub.url),
        ["qwen3", "org/missing", out],
        ["hubert", "org/secret", out],
        ["qwen3", "org/gated", out],
        ["qwen3", "org/tiny", out, "--revision", "v9"],
        ["qwen3", "org/broken", out],
        ["qwen3", "org/bare", out],
        ["qwen3", "org/tiny.git", out],
        ["qwen3", str(checkpoint), str(tmp_path / "local")],
    )
    unknown = "neither a local folder nor a model on the hub. Check the spelling"
    check(results[0], "error: org/missing: ", unknown)
    check(results[1], "error: org/secret: ", "401 Unauthorized")
    check(results[2], "error: org/gated: ", "wants an agreement", "hf auth login")
    check(results[3], "error: org/tiny: ", "no revision 'v9'", "branch, tag or commit")
    check(results[4], "error: org/broken: ", "the hub could not be reached", "500", "network")
    check(results[5], "has no weights: expected model.safetensors")
    check(results[6], "error: org/tiny.git: ", "hub id", ".git")
    # A folder that is here is no question to the hub.
    assert results[7] == (0, "")
    assert all("/org/" in path for _, path in hub.requests)
    assert not (tmp_path / "out").exists()
    assert not [name for name in os.listdir(tmp_path) if "partial" in name]


@pytest.mark.parametrize("case", ["refused", "proxy", "offline"])
def test_a_hub_out_of_reach_is_one_line_and_soon(case, hub, tmp_path):
    home = tmp_path / "home"
    env = {
        "refused": environment(home, f"http://127.0.0.1:{closed_port()}"),
        # A proxy that will not have it: how many an institute's network looks.
        "proxy": environment(home, "https://hub.invalid", HTTPS_PROXY=hub.url),
        "offline": environment(home, hub.url, HF_HUB_OFFLINE="1"),
    }[case]
    begun = time.monotonic()
    (result,) = run(env, ["qwen3", "org/tiny", str(tmp_path / "out")])
    assert time.monotonic() - begun < 30
    parts = ("no such folder, and the hub could not be reached", "Check the network")
    check(result, "error: org/tiny: ", *parts)
    assert not (tmp_path / "out").exists()
    if case == "offline":
        assert hub.requests == []
