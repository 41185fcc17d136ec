"""Models whose text tower embeds in another way than Qwen3-Embedding, as a whole."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_run
from flax import nnx
from published import relative_error
from sentence_folders import OTHER_END, TEXTS, sentence_folder

import mrl_jax
from converters.convert import convert
from mrl_jax.core.errors import MrlError
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.text_encoder import TextEmbedder
from mrl_jax.losses.config import LossConfig
from mrl_jax.models.dual_encoder import DualEncoder, DualEncoderConfig
from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
from mrl_jax.training.contrastive.config import ExperimentConfig, ModelConfig, build_model

pytest.importorskip("sentence_transformers")
WIDTH = 12
RECIPE: dict[str, Any] = {
    "pooling": "mean",
    "dense": WIDTH,
    "is_causal": False,
    "suffix": OTHER_END,
    "prompts": {"document": "mil : "},
}


@pytest.fixture(scope="module")
def towers(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Folders of a speech tower, of a text tower, and of the checkpoint that this came from."""
    root = tmp_path_factory.mktemp("recipes")
    speech, _ = tiny_run.make_towers(root / "towers")
    source = sentence_folder(root / "source", **RECIPE)
    convert(str(source), root / "text", family="qwen3")
    return speech, root / "text", source


@pytest.fixture(scope="module")
def expected(towers) -> np.ndarray:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(towers[2]), device="cpu", local_files_only=True)
    return np.asarray(model.encode(list(TEXTS), prompt_name="document"))


@pytest.mark.parametrize("kind", ["late_fusion", "dual_encoder"])
def test_a_model_embeds_texts_as_its_text_tower(kind, towers, expected, tmp_path):
    speech, text, _ = towers
    parts = mrl_jax.load_hubert(speech), mrl_jax.load_qwen3(text)
    model: Any = (
        LateFusion(*parts, config=LateFusionConfig(end_token=2), rngs=nnx.Rngs(0))
        if kind == "late_fusion"
        else DualEncoder(*parts, config=DualEncoderConfig(nested=True), rngs=nnx.Rngs(0))
    )
    tiny_run.save_tiny(tmp_path / "model", model, kind, speech, text, (WIDTH, 4), {})
    embedder = Embedder.load(tmp_path / "model")
    assert embedder.width == WIDTH
    assert relative_error(embedder.embed_text(list(TEXTS)), expected) < 1e-5
    # A query has its own prompt, or none.
    asked = embedder.embed_text(list(TEXTS), prompt="mil : ")
    assert relative_error(asked, expected) < 1e-5
    assert relative_error(embedder.embed_text(list(TEXTS), prompt=""), expected) > 1e-2
    clips = [(tiny_run.clip_of((1, 2), seed), tiny_run.RATE) for seed in range(2)]
    vectors = embedder.embed_speech(clips)
    assert vectors.shape == (2, WIDTH)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_a_cascades_documents_get_the_prompt(towers, expected):
    _, text, _ = towers
    embed = TextEmbedder(mrl_jax.load_qwen3(text), TextTokenizer(text))
    assert relative_error(embed(list(TEXTS), documents=True), expected) < 1e-5
    assert relative_error(embed([f"mil : {one}" for one in TEXTS]), expected) < 1e-5
    assert relative_error(embed(list(TEXTS)), expected) > 1e-2


def test_means_of_tokens_do_not_stand_beside_narrower_vectors(towers):
    tower = mrl_jax.load_qwen3(towers[1])
    with pytest.raises(MrlError, match="embeddings are 12 wide and its tokens 32"):
        tower.features(np.ones((1, 3), np.int32), np.ones((1, 3), bool))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"pooling": "cls"}, "pools the first token"),
        ({"prefix": OTHER_END}, "begins every text by a token of its own"),
        ({"suffix": None}, "puts no token behind a text, and model.end_token is true"),
    ],
)
def test_late_fusion_refuses_texts_that_speech_cannot_be_like(recipe, words, towers, tmp_path):
    text = tmp_path / "text"
    convert(str(sentence_folder(tmp_path / "source", **recipe)), text, family="qwen3")
    options: dict[str, Any] = {"speech_tower": str(towers[0]), "text_tower": str(text)}
    loss = LossConfig(dims=(32, 8))

    def build(**changes: Any) -> Any:
        model = ModelConfig(**{**options, **changes})
        return build_model(ExperimentConfig(name="x", model=model, loss=loss), TextTokenizer(text))

    with pytest.raises(MrlError, match=words):
        build()
    build(kind="dual_encoder")
    if recipe == {"suffix": None}:
        assert build(end_token=False).end_token is None
