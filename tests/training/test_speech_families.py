"""Everything behind the speech tower, with a tower of each family: trained, cached, sharded, asked.

Towers are of random weights by `random-init`, so that no PyTorch is needed but to read them back.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import tiny_run
from flax import nnx
from tiers import mostly_slow

import mrl_jax
from converters.convert import convert
from converters.export import export
from converters.random_init import random_init
from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.config import load_config, override
from mrl_jax.inference.cascade import Cascade
from mrl_jax.inference.cascade_config import CascadeConfig, read_cascade, write_cascade
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.init import initial_recogniser
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train
from mrl_jax.training.devices import Devices

pytestmark = [
    pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask"),
]
BASE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [16] * 3,
    "conv_kernel": [10, 8, 4],
    "conv_stride": [8, 8, 5],
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
}
LARGE = BASE | {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "wav2vec2": BASE | {"model_type": "wav2vec2"},
    "mms": LARGE | {"model_type": "wav2vec2", "adapter_attn_dim": 8},
    "unispeech_sat": LARGE | {"model_type": "unispeech-sat"},
    "wavlm": BASE | {"model_type": "wavlm", "num_buckets": 8, "max_bucket_distance": 6},
    "batch_norm": BASE | {"model_type": "hubert", "conv_pos_batch_norm": True},
}
WORDS = [tiny_run.clip_of((i, (i + 1) % 5), i) for i in range(3)]
CLIPS = [(clip, tiny_run.RATE) for clip in WORDS]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tiny_run.make_world(tmp_path_factory.mktemp("world"), examples=24)


@pytest.fixture(scope="module")
def tower(root):
    """The tower's folder by the family's name, made when first asked for."""

    @functools.cache
    def make(name: str) -> Path:
        config = root / f"{name}.json"
        config.write_text(json.dumps(FAMILIES[name]))
        random_init("speech", config, root / f"{name}-source")
        convert(str(root / f"{name}-source"), root / name, family="speech")
        return root / name

    return make


def losses(root: Path, name: str, speech: Path, place: Devices, *changes: str) -> list[float]:
    """Of two steps of a late-fusion run."""
    fixed = ("train.steps=2", "train.validate_every=0", f"model.speech_tower={speech}")
    config = override(load_config(root / "tiny.py", ExperimentConfig), (*fixed, *changes))
    train(config, root / name, devices=place, log=lambda _: None)
    return tiny_run.losses(root / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_late_fusion_from_a_cache_is_late_fusion_over_sharded_weights(
    name, root, tower, monkeypatch
):
    # Weights as small as these are replicated otherwise.
    for method in ("place_frozen", "frozen_sharding"):
        small = functools.partialmethod(getattr(Devices, method), least=64)
        monkeypatch.setattr(Devices, method, small)
    cache = (f"data.speech_cache={root / name}-cache", "data.speech_cache_dtype=float32")
    one = Devices("pmap", jax.devices()[:1])
    cached = losses(root, f"{name}-cached", tower(name), one, *cache)
    sharded = Devices("mesh", jax.devices()[:2], fsdp=2)
    fsdp = losses(root, f"{name}-fsdp", tower(name), sharded, "train.parallel=mesh", "train.fsdp=2")
    np.testing.assert_allclose(fsdp, cached, rtol=1e-4)
    # The exported model embeds: alone as in a batch, and other clips otherwise.
    embedder = mrl_jax.Embedder.load(root / f"{name}-cached")
    assert type(embedder.model.speech) is type(mrl_jax.load_speech_tower(tower(name)))
    together = embedder.embed_speech(CLIPS)
    alone = np.concatenate([embedder.embed_speech([clip]) for clip in CLIPS])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_a_dual_encoder_embeds(name, root, tower, tmp_path):
    text = root / "towers" / "text"
    config = DualEncoderConfig(dims=(32, 16), nested=False)
    speech = mrl_jax.load_speech_tower(tower(name))
    model = DualEncoder(speech, mrl_jax.load_qwen3(text), config=config, rngs=nnx.Rngs(4))
    folder = tiny_run.save_tiny(
        tmp_path / "dual", model, "dual_encoder", tower(name), text, (32, 16), {"": ""}
    )
    vectors = mrl_jax.Embedder.load(folder).embed_speech(CLIPS)
    assert vectors.shape == (3, 32)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4


@pytest.mark.parametrize("name", mostly_slow(FAMILIES))
def test_a_recogniser_transcribes_in_a_cascade_and_loads_elsewhere(name, root, tower, tmp_path):
    """What a CTC run writes: transformers computes the same of its export."""
    sizes = read_info(tower(name)).config
    vocabulary = CtcVocabulary(("<pad>", "|", *sorted(set("badiceofgu"))))
    recogniser = initial_recogniser(sizes, vocabulary, 1)
    weights = {path: leaf.get_value() for path, leaf in param_tree.flat_weights(recogniser).items()}
    encoder = param_tree.flat_weights(mrl_jax.load_hubert(tower(name)))
    weights |= {f"encoder.{path}": leaf.get_value() for path, leaf in encoder.items()}
    recogniser = param_tree.fill(recogniser, weights)
    info = save_speech_tower(tmp_path / "recogniser", recogniser)
    assert info.config == sizes
    fields = {"text_tower": str(root / "towers" / "text"), "dims": (32, 16), "max_text_tokens": 64}
    config = CascadeConfig(recogniser=str(tmp_path / "recogniser"), **fields)
    write_cascade(config, tmp_path / "cascade", log=lambda _: None)
    cascade = Cascade(tmp_path / "cascade", read_cascade(tmp_path / "cascade"))
    vectors = np.stack([cascade.alone(clip)() for clip in WORDS])
    assert np.isfinite(vectors).all()

    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    export(tmp_path / "recogniser", tmp_path / "exported")
    theirs, found = transformers.AutoModelForCTC.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    # Counts and masked frames matter in training alone.
    usual = {"num_batches_tracked", "masked_spec_embed"}
    assert {key.rsplit(".", 1)[-1] for key in found["missing_keys"]} <= usual
    assert not found["unexpected_keys"]
    samples, lengths = mrl_jax.pad_clips(WORDS[:1], sizes)
    with torch.no_grad():
        expected = theirs.eval()(torch.from_numpy(samples)).logits.numpy()
    logits = np.asarray(recogniser(samples, lengths).logits)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.abs(logits).max() > 0.1


def test_statistics_of_batch_norm_are_never_trained(tower):
    """No gradient moves them, though all other weights of the encoder are trained."""
    encoder = mrl_jax.load_hubert(tower("batch_norm"), trainable=True)
    parts = param_tree.split(encoder)
    statistics = {"position_norm.mean", "position_norm.variance"}
    assert set(parts.frozen) == statistics
    assert {"position_norm.scale", "position_norm.bias"} <= set(param_tree.flatten(parts.trained))
    assert dataclasses.replace(encoder.config, position_norm="weight") != encoder.config
