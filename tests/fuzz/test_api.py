"""Wrong arguments of the public functions: refused by an `MrlError` that names the argument."""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
import tiny_run
from mutate import VALUES, counted, scaled
from tiers import mostly_slow

import mrl_jax
from mrl_jax.core.errors import MrlError
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.named_sets import load_intent_set, load_retrieval_set
from mrl_jax.data.sets.text_pairs import read_pairs
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.search import exact, funnel, quantize, rotation
from mrl_jax.inference.search.config import SearchConfig
from mrl_jax.losses import config as loss_config
from mrl_jax.losses import matryoshka
from mrl_jax.metrics import error_rates, intervals, ranking
from mrl_jax.models.ctc import CtcVocabulary

RATE = 16_000
CLIP = np.sin(np.arange(RATE // 2) / 20).astype(np.float32)
VECTORS = np.eye(4, 8, dtype=np.float32)
GRADES = np.ones((2, 3), np.int64)
SIZES: dict[str, Any] = {"width": 32, "num_layers": 2, "num_heads": 4, "mlp_width": 48}
QWEN3: dict[str, Any] = SIZES | {"vocab_size": 9, "num_kv_heads": 2, "head_width": 8}
QWEN3 |= {"rope_theta": 1e6, "norm_epsilon": 1e-6}
WRONG: tuple[Any, ...] = (
    *VALUES,
    b"x",
    object(),
    Path("nowhere"),
    np.zeros(0),
    np.zeros((2, 3, 4)),
    np.full((4, 8), np.nan, np.float32),
    np.ones((4, 8), np.float64),
    np.ones((4, 8), np.int32),
    np.array(["x"]),
    np.float32(0.5),
    ("x", 0),
    (CLIP, 0),
    [(CLIP, -1)],
    [(CLIP, float("nan"))],
    [(CLIP, "16000")],
    [None],
    ["\ud800"],
    [float("nan")],
    [{"array": CLIP}],
    [{"array": [0.5], "sampling_rate": RATE}],
    lambda: None,
)
Call = tuple[Callable[..., Any], Mapping[str, Any]]
FUNCTIONS: dict[str, Call] = {
    "search": (exact.search, {"queries": VECTORS, "documents": VECTORS, "k": 2}),
    "rank": (exact.rank, {"queries": VECTORS, "documents": VECTORS, "k": 2, "chunk": 64}),
    "truncate": (exact.truncate, {"vectors": VECTORS, "dim": 4}),
    "to_int8": (quantize.to_int8, {"vectors": VECTORS}),
    "to_binary": (quantize.to_binary, {"vectors": VECTORS}),
    "make_funnel": (funnel.make_funnel, {"documents": VECTORS, "precision": "int8"}),
    "fit_rotation": (rotation.fit_rotation, {"vectors": VECTORS, "centred": True}),
    "ndcg": (ranking.ndcg, {"grades": GRADES, "judged": GRADES, "k": 2}),
    "recall": (ranking.recall, {"grades": GRADES, "judged": GRADES, "k": 2}),
    "average_precision": (
        ranking.average_precision,
        {"grades": GRADES, "judged": GRADES, "k": 2},
    ),
    "chance_ndcg": (ranking.chance_ndcg, {"judged": GRADES, "documents": 4, "k": 2}),
    "f1_scores": (
        ranking.f1_scores,
        {"truth": ["a", "b"], "predicted": ["a", "a"], "labels": ["a", "b"]},
    ),
    "compare_transcripts": (
        error_rates.compare_transcripts,
        {"references": ["a b"], "hypotheses": ["a"]},
    ),
    "cluster_bootstrap": (
        intervals.cluster_bootstrap,
        {"values": np.arange(4.0), "clusters": list("abcd")},
    ),
    "paired_test": (
        intervals.paired_test,
        {"a": np.arange(4.0), "b": np.ones(4), "clusters": list("abcd"), "resamples": 50},
    ),
    "matryoshka_infonce": (
        matryoshka.matryoshka_infonce,
        {
            **{"queries": jnp.asarray(VECTORS), "documents": jnp.asarray(VECTORS)},
            **{"dims": (8, 4), "temperature": 0.05, "weights": (1.0, 2.0), "symmetric": True},
        },
    ),
    "l1_cosine": (
        matryoshka.l1_cosine,
        {"predictions": jnp.asarray(VECTORS), "targets": jnp.asarray(VECTORS), "dims": (8, 4)},
    ),
    "LossConfig": (loss_config.LossConfig, {"name": "l1_cosine", "dims": (8,), "temperature": 0.1}),
    "SearchConfig": (SearchConfig, {"dim": 8, "rank": None, "precision": "fp32", "shortlist": 9}),
    "CtcVocabulary": (CtcVocabulary, {"tokens": ("<pad>", "a"), "blank": 0, "lower_case": True}),
    "HubertConfig": (mrl_jax.HubertConfig, {**SIZES, "position_groups": 4, "pre_norm": True}),
    "WavLMConfig": (mrl_jax.WavLMConfig, {**SIZES, "position_groups": 4, "position_buckets": 8}),
    "Qwen3Config": (mrl_jax.Qwen3Config, {**QWEN3, "pooling": "mean", "causal": True}),
    "LateFusionConfig": (mrl_jax.LateFusionConfig, {"end_token": 1}),
    "DualEncoderConfig": (mrl_jax.DualEncoderConfig, {"dims": (8, 4), "nested": False}),
    "pad_clips": (
        mrl_jax.pad_clips,
        {"clips": [CLIP], "config": mrl_jax.HubertConfig(**SIZES), "size": RATE, "names": ["x"]},
    ),
    "load_clip": (mrl_jax.load_clip, {"path": "nowhere.wav", "sample_rate": RATE}),
    "load_hubert": (mrl_jax.load_hubert, {"folder": "nowhere", "dtype": "float32"}),
    "load_hubert_ctc": (mrl_jax.load_hubert_ctc, {"folder": "nowhere", "padding": "masked"}),
    "load_qwen3": (mrl_jax.load_qwen3, {"folder": "nowhere", "trainable": True}),
    "load_speech_tower": (mrl_jax.load_speech_tower, {"folder": "nowhere", "remat": False}),
    "read_manifest": (read_manifest, {"path": "nowhere"}),
    "read_pairs": (read_pairs, {"path": "nowhere"}),
    "load_retrieval_set": (load_retrieval_set, {"data": "nowhere"}),
    "load_intent_set": (load_intent_set, {"data": "nowhere"}),
    "Embedder.load": (mrl_jax.Embedder.load, {"folder": "nowhere", "dtype": "float32"}),
}


def ask_all(name: str, call: Call, ask: Callable[..., Any], rng: np.random.Generator) -> None:
    """Each argument of a sound call once replaced by each wrong value, or by some of them."""
    function, arguments = call
    count = scaled(len(WRONG))
    for argument in arguments:
        for number in range(count):
            wrong = WRONG[number % len(WRONG)]
            changed = {**arguments, argument: wrong}
            if number >= len(WRONG):  # A second argument as well.
                other = list(arguments)[rng.integers(len(arguments))]
                changed[other] = WRONG[rng.integers(len(WRONG))]
            ask(f"{name}, {argument}={wrong!r:.60}", lambda changed=changed: run(function, changed))


def run(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """The call; what only the annotations of the tests refuse (1 for 1.0) is as good as fine."""
    try:
        return function(**arguments)
    except jaxtyping.TypeCheckError:
        numbers = [v for v in arguments.values() if isinstance(v, int) or np.isscalar(v)]
        nested = [v for v in arguments.values() if isinstance(v, list | tuple)]
        assert numbers or nested, arguments
        return None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function, arguments = FUNCTIONS[name]
    with contextlib.suppress(MrlError):  # Of files that are nowhere.
        function(**arguments)  # Compiled before anything is timed.
    with counted(f"{name}()", peak_mb=300) as ask:
        ask_all(name, FUNCTIONS[name], ask, np.random.default_rng(18))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory) -> mrl_jax.Embedder:
    return mrl_jax.Embedder.load(tiny_run.make_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("kind", mostly_slow(["embed_text", "embed_speech"]))
def test_wrong_arguments_of_an_embedder(kind, embedder, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    inputs = {"texts": ["ba ce"]} if kind == "embed_text" else {"clips": [(CLIP, RATE)]}
    call = getattr(embedder, kind), {**inputs, "dim": 8, "prompt": None, "progress": False}
    call[0](**call[1])
    with counted(f"Embedder.{kind}()", peak_mb=600) as ask:
        ask_all(kind, call, ask, np.random.default_rng(18))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"texts": "ba"}, "texts is one string"),
        ({"texts": ["a", None]}, "item 1 is None, expected text"),
        ({"texts": ["a", float("nan")]}, "item 1 is nan, expected text"),
        ({"texts": ["a\ud83d"]}, "half a surrogate pair"),
        ({"texts": ["a"], "dim": 8.0}, "dim is 8.0, expected a whole number"),
        ({"texts": ["a"], "prompt": 3}, "prompt is 3, expected text"),
        ({"texts": ["a"], "prompt": "\ud800"}, "half a surrogate pair"),
        ({"texts": ["a"], "task": "\0"}, "NUL"),
        ({"clips": [(CLIP, 0)]}, "0, expected 1 or more"),
        ({"clips": [(CLIP, float("nan"))]}, "expected a whole number"),
        ({"clips": [None]}, "item 0 is None"),
        ({"clips": [{"array": CLIP, "sampling_rate": 0}]}, "0, expected 1 or more"),
        ({"clips": [{"array": CLIP}]}, "None, expected a whole number"),
    ],
)
def test_what_an_embedder_says(wrong, message, embedder):
    call = embedder.embed_text if "texts" in wrong else embedder.embed_speech
    with pytest.raises(MrlError, match=message):
        call(**wrong)


def test_the_dict_of_a_data_set_is_a_clip(embedder):
    as_dict = embedder.embed_speech([{"array": CLIP, "sampling_rate": RATE, "path": None}])
    np.testing.assert_array_equal(as_dict, embedder.embed_speech([(CLIP, RATE)]))
    assert not np.array_equal(as_dict, embedder.embed_speech([(CLIP[::-1].copy(), RATE)]))


def test_a_tokenizer_names_the_text(embedder, tmp_path):
    folder = tiny_run.make_towers(tmp_path)[1]
    with pytest.raises(MrlError, match="text 1: the text holds half a surrogate pair"):
        TextTokenizer(folder).encode(["a", "\udc00"])
