"""Models to a hub on this machine and back: by name, by revision, and what is refused."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from damage import damaged
from loopback_hub import closed_port, environment, running
from loopback_push import READER, TOKEN, PushHandler, PushHub
from push_cases import check_refused, make_models, run_steps

from mrl_jax.core.checksums import seal

MODEL_FILES = {"README.md", ".gitattributes", "model.json", "head.safetensors"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def hub() -> Iterator[PushHub]:
    with running(PushHub(PushHandler)) as server:
        yield server


def settings(hub: PushHub, home: Path, **changes: str) -> dict[str, str]:
    return environment(home, hub.url, HF_TOKEN=TOKEN, **changes)


@pytest.fixture(scope="module")
def pushed(models, tmp_path_factory) -> Iterator[tuple[PushHub, list[str], Path]]:
    """A hub with both models as commits of me/tiny, one after the other, and their vectors here."""
    root = tmp_path_factory.mktemp("pushed")
    with running(PushHub(PushHandler)) as hub:
        first, second = map(str, models)
        results = run_steps(
            settings(hub, root / "pushing"),
            ["push", first, "me/tiny", "--license", "apache-2.0"],
            ["push", second, "me/tiny", "--private", "--message", "another"],
            ["push", second, "me/tiny", "--message", "the second head"],
            ["push", second, "me/tiny"],
            [first, None, str(root / "first.npz")],
            [second, None, str(root / "second.npz")],
        )
        assert [status for status, *_ in results] == [0, 2, 0, 0, 0, 0], results
        check_refused(results[1], "me/tiny: is there already and public")
        commits = list(hub.repositories["me/tiny"].commits)
        assert f"commit {commits[1]}" in results[0][1]
        yield hub, commits, root


def test_a_push_is_one_commit_and_an_equal_one_is_none(pushed):
    hub, commits, _ = pushed
    assert len(commits) == 3  # The empty repository's, and one a model; not of the last push.
    repository = hub.repositories["me/tiny"]
    assert not repository.private
    first, second = (repository.commits[oid] for oid in commits[1:])
    assert set(first) == set(second)
    others = {name for name in first if not name.startswith(("speech/", "text/"))}
    assert others == MODEL_FILES
    assert "head.safetensors" in repository.large
    assert first["head.safetensors"] != second["head.safetensors"]
    assert b"license: apache-2.0" in first["README.md"]
    # The towers are those that were there, and were not sent again.
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"README.md", "model.json", "head.safetensors"}


def test_a_pushed_model_gives_the_same_vectors_by_name_and_by_revision(pushed, tmp_path):
    hub, commits, root = pushed
    hub.requests.clear()
    older = commits[1]
    results = run_steps(
        settings(hub, tmp_path / "empty"),
        ["me/tiny", None, str(tmp_path / "newest.npz")],
        ["me/tiny", older, str(tmp_path / "older.npz")],
        [f"me/tiny@{older}", None, str(tmp_path / "named.npz")],
    )
    assert [status for status, *_ in results] == [0, 0, 0], results
    first, second = (np.load(root / f"{name}.npz") for name in ("first", "second"))
    for name, local in (("newest", second), ("older", first), ("named", first)):
        from_hub = np.load(tmp_path / f"{name}.npz")
        for side in ("speech", "text"):
            assert from_hub[side].tobytes() == local[side].tobytes(), (name, side)
    assert first["speech"].tobytes() != second["speech"].tobytes()
    fetched = {path for _, path in hub.requests if "/resolve/" in path}
    assert not [path for path in fetched if path.endswith("README.md")]
    # From then on no hub is needed.
    offline = settings(hub, tmp_path / "empty", HF_HUB_OFFLINE="1")
    (again,) = run_steps(offline, [f"me/tiny@{older}", None, str(tmp_path / "offline.npz")])
    assert again[0] == 0, again
    assert np.load(tmp_path / "offline.npz")["speech"].tobytes() == first["speech"].tobytes()


def resealed(data: bytes, **changes: object) -> bytes:
    return json.dumps(seal({**json.loads(data), **changes})).encode()


def test_what_is_damaged_or_no_model_is_refused_and_code_is_never_fetched(pushed, tmp_path):
    hub, commits, _ = pushed
    files = hub.repositories["me/tiny"].commits[commits[1]]
    code = {"evil.py": b"raise SystemExit(99)", "pytorch_model.bin": b"pickle", "x.pkl": b"pickle"}
    weights = max((name for name in files if name.startswith("text/weights/")), key=len)
    description = json.loads(files["model.json"])
    named = {**description["files"], "evil.py": "0" * 64}
    outside = {**description["text"], "path": "../../../text"}
    fetched = {**description["text"], "path": "s3://bucket/text"}
    cases = {
        "good": files | code,
        "head": files | {"head.safetensors": damaged(files["head.safetensors"])},
        "tower": files | {weights: damaged(files[weights])},
        "named": files | code | {"model.json": resealed(files["model.json"], files=named)},
        "outside": files | {"model.json": resealed(files["model.json"], text=outside)},
        "address": files | {"model.json": resealed(files["model.json"], text=fetched)},
        "edited": files | {"model.json": files["model.json"].replace(b'"step": 7', b'"step": 8')},
        "undigested": files | {"model.json": resealed(files["model.json"], files={})},
        "missing": {name: data for name, data in files.items() if name != "head.safetensors"},
        "towerless": {name: data for name, data in files.items() if not name.startswith("text/")},
        "other": {"config.json": b"{}", **code},
    }
    for name, contents in cases.items():
        hub.add(f"bad/{name}", contents)
    hub.requests.clear()
    steps = [[f"bad/{name}", None, str(tmp_path / f"{name}.npz")] for name in cases]
    results = dict(zip(cases, run_steps(settings(hub, tmp_path / "home"), *steps), strict=True))
    assert results["good"][0] == 0, results["good"]
    check_refused(results["head"], "head.safetensors: is not the file that was written")
    check_refused(results["tower"], "is not the file that was written")
    check_refused(results["named"], "bad/named: ", "evil.py", "Code and pickles are never fetched")
    check_refused(results["outside"], "bad/outside: ", "a tower outside of the model's folder")
    check_refused(results["address"], "bad/address: ", "a tower outside of the model's folder")
    check_refused(results["edited"], "is not the description that was written")
    check_refused(results["undigested"], "has no digests of the head's files")
    check_refused(results["missing"], "has no head.safetensors")
    check_refused(results["towerless"], "was uploaded without its text tower")
    check_refused(results["other"], "is no model of this library")
    asked = {path for _, path in hub.requests if "/resolve/" in path}
    assert asked
    assert not [path for path in asked if path.endswith((".py", ".bin", ".pkl"))]


def test_what_the_hub_refuses_of_a_load_is_one_line(pushed, tmp_path):
    hub, _, _ = pushed
    out = str(tmp_path / "out.npz")
    ends = ["--data", str(tmp_path), "--out", str(tmp_path / "report")]
    results = run_steps(
        settings(hub, tmp_path / "home"),
        ["me/none", None, out],
        ["org/secret", None, out],
        ["org/gated", None, out],
        ["org/broken", None, out],
        ["me/tiny", "v9", out],
        ["me/tiny@v9", None, out],
        ["me/tiny@main", "main", out],
        [str(tmp_path), "main", out],
        ["neither a folder", None, out],
        ["eval", "retrieval", "--model", "me/tiny", "--data", str(tmp_path)],
        ["eval", "tradeoff", "--model", "me/tiny", "--budget", "bytes=9", *ends],
    )
    unknown = "neither a local folder nor a model on the hub. Check the spelling"
    check_refused(results[0], "error: me/none: ", unknown)
    check_refused(results[1], "error: org/secret: ", "401", "hf auth login")
    check_refused(results[2], "error: org/gated: ", "wants an agreement")
    check_refused(results[3], "error: org/broken: ", "the hub could not be reached", "500")
    check_refused(results[4], "error: me/tiny: ", "no revision 'v9'")
    check_refused(results[5], "error: me/tiny: ", "no revision 'v9'")
    check_refused(results[6], "names a revision, and another is given")
    check_refused(results[7], "is a folder, which has no revision 'main'")
    check_refused(results[8], "neither a folder/model.json: no such file")
    check_refused(results[9], "has no folder for the report", "Pass --out")
    check_refused(results[10], "is the cached copy of a model on the hub", "hf download me/tiny")
    refused = environment(tmp_path / "away", f"http://127.0.0.1:{closed_port()}")
    (gone,) = run_steps(refused, ["me/tiny", None, out])
    check_refused(gone, "no such folder, and the hub could not be reached", "Check the network")


def test_a_folder_of_that_name_wins_and_an_index_names_the_commit(pushed, tmp_path):
    hub, commits, root = pushed
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"id": "a", "text": "ba ce"}\n{"id": "b", "text": "di"}\n')
    index = tmp_path / "index"
    for name, data in hub.repositories["me/tiny"].commits[commits[1]].items():
        place = tmp_path / "me" / "here" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    hub.add("me/here", {"config.json": b"{}"})
    out = tmp_path / "here.npz"
    ends = ["--data", str(tmp_path), "--out", str(tmp_path / "report")]
    results = run_steps(
        settings(hub, tmp_path / "home"),
        ["index", "build", "--model", "me/tiny", "--corpus", str(texts), "--out", str(index)],
        ["search", str(index), "ba ce", "-k", "1", "--json"],
        ["search", str(index), "ba ce", "--model", f"me/tiny@{commits[1]}"],
        ["me/here", None, str(out)],
        ["eval", "compare", "--models", "me/tiny", "tiny=me/tiny", *ends],
        folder=tmp_path,
    )
    assert [status for status, *_ in results] == [0, 0, 2, 0, 2], results
    assert (
        json.loads((index / "index.json").read_text())["model"]["path"] == f"me/tiny@{commits[2]}"
    )
    assert json.loads(results[1][1])["id"] == "a"
    check_refused(results[2], "is the index of another model")
    assert np.load(out)["text"].tobytes() == np.load(root / "first.npz")["text"].tobytes()
    check_refused(results[4], "two systems are called 'tiny'")


def test_what_the_hub_refuses_of_a_push_is_one_line_and_nothing_is_committed(hub, models, tmp_path):
    model = str(models[0])
    untouched = hub.add("me/there", {".gitattributes": b"", "LICENSE": b"mine"})
    foreign = hub.add("me/bert", {"README.md": b"# Theirs", "text/bert.bin": b""})
    before = dict(untouched.commits)
    push = ["push", model, "me/there"]
    no_token = environment(tmp_path / "a", hub.url)
    wrong = environment(tmp_path / "b", hub.url, HF_TOKEN="hf_wrong")
    reader = environment(tmp_path / "c", hub.url, HF_TOKEN=READER)
    away = environment(tmp_path / "d", f"http://127.0.0.1:{closed_port()}", HF_TOKEN=TOKEN)
    (result,) = run_steps(no_token, push)
    check_refused(result, "there is no token of the hub", "hf auth login")
    (result,) = run_steps(wrong, push)
    check_refused(result, "me/there: the hub refused the token", "401", "hf auth login")
    (result,) = run_steps(reader, push)
    check_refused(result, "the token may not write there", "403")
    (result,) = run_steps(away, push)
    check_refused(result, "the hub could not be reached, and nothing was changed")
    hub.lfs_status = 403
    results = run_steps(
        settings(hub, tmp_path / "e"),
        push,
        ["push", model, "no name"],
        ["push", model, "me/there@main"],
        ["push", model, "me/there.git"],
        ["push", str(tmp_path), "me/there"],
        ["push", model, "me/there", "--report", str(tmp_path)],
        ["push", model, "me/there", "--without-towers"],
        ["push", model, "me/bert"],
    )
    check_refused(results[0], "403")
    check_refused(results[1], "'no name' is no name of a repository", "owner/name")
    check_refused(results[2], "names a revision", "--revision main")
    check_refused(results[3], "is no name of a repository", ".git")
    check_refused(results[4], "model.json: no such file")
    check_refused(results[5], "results.jsonl: no such file")
    check_refused(results[6], "its speech tower was not converted from a checkpoint of the hub")
    check_refused(results[7], "me/bert: is there already, and holds something else (text/bert.bin)")
    hub.lfs_status, hub.card_errors = 200, ['"license" must be one of [apache-2.0, ...]']
    (result,) = run_steps(settings(hub, tmp_path / "f"), [*push, "--license", "mine"])
    check_refused(result, "the hub refuses the card", '"license" must be one of', "--license")
    assert "reached" not in result[2]
    assert untouched.commits == before
    assert len(foreign.commits) == 1


def test_a_commit_of_somebody_else_meanwhile_is_not_built_on(hub, models, tmp_path):
    repository = hub.add("me/tiny", {".gitattributes": b""})
    hub.commits_meanwhile = 1
    push = ["push", str(models[0]), "me/tiny"]
    (result,) = run_steps(settings(hub, tmp_path), push)
    check_refused(result, "was changed by somebody else meanwhile", "push again")
    assert set(repository.files) == {".gitattributes", "theirs.txt"}


def test_what_a_gitignore_leaves_out_is_not_said_to_be_there(hub, models, tmp_path):
    ignored = "text/tokenizer_config.json"
    hub.add("me/tiny", {"model.json": b"", ".gitignore": ignored.encode()})
    (result,) = run_steps(settings(hub, tmp_path), ["push", str(models[0]), "me/tiny"])
    check_refused(result, f"has no {ignored} after the upload", ".gitignore")


def test_an_interrupted_push_commits_nothing(hub, models, tmp_path):
    hub.upload_may_end.clear()
    argv = [sys.executable, "-m", "mrl_jax.core.commands", "push", str(models[0]), "me/slow"]
    process = subprocess.Popen(argv, env=settings(hub, tmp_path), stderr=subprocess.PIPE, text=True)
    assert hub.upload_begun.wait(300)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    hub.upload_may_end.set()
    _, message = process.communicate(timeout=300)
    assert process.returncode == 143, message
    assert "Traceback" not in message
    (files,) = hub.repositories["me/slow"].commits.values()
    assert set(files) == {".gitattributes"}


def test_a_model_without_towers_is_not_said_to_be_loaded_by_name(hub, models, tmp_path):
    copy = shutil.copytree(models[0].parent, tmp_path / "copy")
    for side in ("speech", "text"):
        report = {"source": f"org/{side}", "revision": "ab" * 20}
        (copy / "towers" / side / "report.json").write_text(json.dumps(report))
    push = ["push", str(copy / models[0].name), "me/head", "--without-towers"]
    (result,) = run_steps(settings(hub, tmp_path / "home"), push)
    assert result[0] == 0, result
    assert set(hub.repositories["me/head"].files) == MODEL_FILES
    assert "Embedder.load" not in result[1]
    assert "its towers are put beside it" in result[1]


def test_a_branch_and_what_a_model_has_no_more(hub, models, tmp_path):
    old = {"speech/weights/encoder/d/old": b"", "search-00000000.npy": b"", "notes.txt": b"mine"}
    repository = hub.add("me/tiny", {".gitattributes": b"", **old}, private=True)
    env = settings(hub, tmp_path / "home")
    push = ["push", str(models[0]), "me/tiny", "--private", "--revision", "trial"]
    load = ["me/tiny@trial", None, str(tmp_path / "out.npz")]
    pushed, loaded = run_steps(env, push, load)
    assert pushed[0] == 0, pushed
    assert f'"me/tiny@{repository.branches["trial"]}"' in pushed[1]
    assert loaded[0] == 0, loaded
    assert set(repository.files) == {".gitattributes", *old}
    trial = repository.commits[repository.branches["trial"]]
    assert set(trial) & set(old) == {"notes.txt"}
    assert {"model.json", "head.safetensors"} <= set(trial)
