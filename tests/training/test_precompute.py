"""Outputs of frozen towers computed once: the run is the one without; other caches are refused."""

import json
import sys

import numpy as np
import pytest
import tiny_run
from tiers import mostly_slow
from tiny_run import four_steps

from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.inference.encoder import Encoder
from mrl_jax.models.hubert import HubertEncoder
from mrl_jax.training import precompute_speech
from mrl_jax.training.contrastive.config import ExperimentConfig


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("world"), examples=30)


@pytest.fixture(scope="module")
def plain(root):
    """Losses of a run without caches."""
    return four_steps(root, "plain")[0]


@pytest.fixture(scope="module")
def exact(root):
    return f"data.speech_cache={root / 'exact'}", "data.speech_cache_dtype=float32"


@pytest.fixture(scope="module")
def documents(root):
    return f"data.document_cache={root / 'documents'}"


@pytest.fixture(scope="module")
def both(root, exact, documents):
    """Losses and log of a run that makes both caches, and the texts that it computed."""
    texts = []
    inner = Encoder.text

    def counted(self, items, **options):
        texts.append(list(items))
        return inner(self, items, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoder, "text", counted)
        return *four_steps(root, "both first", *exact, documents), texts


def test_a_run_with_caches_is_the_run_without(root, plain, both):
    first, log, texts = both
    np.testing.assert_allclose(first, plain, rtol=1e-5)
    # Each text once, however many examples have it.
    assert len(texts) == 1
    assert len(set(texts[0])) == len(texts[0]) < 30
    assert any("vectors computed once" in line for line in log)
    assert any("hours computed once" in line and "GB of float32" in line for line in log)
    assert json.loads((root / "exact" / "cache.json").read_text())["sizes"]["clips"] == 30


@pytest.mark.slow
def test_each_cache_serves_runs_of_other_kinds(root, plain, both, exact, documents, monkeypatch):
    def never(*_: object, **__: object):
        raise AssertionError("the text tower ran")

    monkeypatch.setattr(Encoder, "text", never)
    # In parts: the exact cached step reads them as well.
    parts = (*exact, documents, "optim.accumulation_steps=2")
    for name, changes, near in (
        ("documents alone", (documents,), 1e-5),
        ("speech alone", exact, 1e-5),
        ("in parts", parts, 1e-4),
    ):
        losses, log = four_steps(root, name, *changes, "data.validation=")
        np.testing.assert_allclose(losses, plain, rtol=near)
        assert not any("computed once" in line for line in log)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "array"), [("documents", "vectors.npy"), ("exact", "shard-00000-of-00002/states.npy")]
)
def test_what_is_in_a_cache_is_what_is_read(root, plain, both, request, kind, array):
    """Other vectors or states, another loss; and they are refused unless a run trusts them."""
    path, changes = root / kind / array, request.getfixturevalue(kind)
    changes = (changes,) if isinstance(changes, str) else changes
    values = np.load(path)
    np.save(path, values[::-1].copy())
    with pytest.raises(MrlError, match=r"SHA-256|not those that were written"):
        four_steps(root, f"told {kind}", *changes)
    wrong, _ = four_steps(root, f"wrong {kind}", *changes, "train.verify=false")
    assert abs(wrong[0] - plain[0]) > 1e-3
    np.save(path, values)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    mostly_slow(
        [
            (
                "documents",
                ("data.batch.max_text_tokens=8",),
                "with another max_text_tokens.*data.document_cache",
            ),
            ("documents", ("model.dtype=bfloat16",), "with another dtype.*data.document_cache"),
            (
                "exact",
                ("data.speech_cache_dtype=bfloat16",),
                r"exact: was made with another speech_cache_dtype \(float32",
            ),
            ("exact", ("data.build.max_seconds=0.3",), "made with another data"),
        ]
    ),
)
def test_a_cache_of_something_else_is_refused(root, both, request, kind, changes, message):
    cache = request.getfixturevalue(kind)
    cache = (cache,) if isinstance(cache, str) else cache
    with pytest.raises(MrlError, match=message):
        four_steps(root, "none", *cache, *changes)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "near"), [("bfloat16", 0.02), ("int8", 0.02)])
def test_states_of_fewer_bits_give_a_loss_near_the_exact_one(root, plain, dtype, near):
    place = f"data.speech_cache={root / f'in {dtype}'}"
    losses, _ = four_steps(root, dtype, place, f"data.speech_cache_dtype={dtype}")
    np.testing.assert_allclose(losses, plain, rtol=near)
    assert np.abs(np.subtract(losses, plain)).max() > 1e-6


@pytest.mark.slow
def test_training_from_a_cache_runs_no_speech_tower(root, both, exact, monkeypatch):
    # Calibration runs the tower as well.
    changes = *exact, "data.validation=", "model.calibrate=false"

    def never(*_: object):
        raise AssertionError("the speech tower ran")

    monkeypatch.setattr(HubertEncoder, "__call__", never)
    losses, _ = four_steps(root, "quiet run", *changes)
    assert len(losses) == 4
    with pytest.raises(AssertionError, match="the speech tower ran"):
        four_steps(root, "without", *changes[2:])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("model.padding=reference",), "data.speech_cache keeps each clip by itself"),
        (("data.speech_cache_dtype=int4",), "expected one of float32, bfloat16, int8"),
    ],
)
def test_what_a_cache_cannot_serve_is_refused(root, changes, message):
    with pytest.raises(MrlError, match=message):
        four_steps(root, "none", "data.speech_cache=anywhere", *changes)


def test_a_cache_and_changed_clips_are_refused(root, monkeypatch):
    path = root / "changed.py"
    path.write_text(
        "import dataclasses\nimport tiny\n\n\ndef get_config():\n"
        "    return dataclasses.replace(tiny.get_config(), augment=lambda clip, rng: clip)\n"
    )
    monkeypatch.setattr(sys, "path", [str(root), *sys.path])
    config = load_config(path, ExperimentConfig)
    with pytest.raises(MrlError, match="augment changes them"):
        override(config, ["data.speech_cache=anywhere"])
    with pytest.raises(MrlError, match="augment changes them"):
        override(config, ["data.speech_cache=anywhere", "augment=channel"])


@pytest.mark.slow
def test_a_cache_that_another_run_made_meanwhile_serves(root, monkeypatch):
    """Two runs of a sweep begin together: the second one reads what the first has written."""
    place = f"data.speech_cache={root / 'raced'}"
    inner = precompute_speech.write_speech_shard

    def raced(*arguments):
        monkeypatch.setattr(precompute_speech, "write_speech_shard", inner)
        first, _ = four_steps(root, "first of two", place)
        inner(*arguments)
        assert first

    monkeypatch.setattr(precompute_speech, "write_speech_shard", raced)
    losses, _ = four_steps(root, "second of two", place)
    assert len(losses) == 4
    # Of something else it does not: the error stands.

    def spoiled(*arguments):
        (root / "other").mkdir(exist_ok=True)
        (root / "other" / "cache.json").write_text(json.dumps({"format": 1, "made_of": {}}))
        inner(*arguments)

    monkeypatch.setattr(precompute_speech, "write_speech_shard", spoiled)
    with pytest.raises(MrlError, match="made with another data"):
        four_steps(root, "third", f"data.speech_cache={root / 'other'}")
