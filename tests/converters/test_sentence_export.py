"""A trained model as sentence-transformers loads it gives the vectors of `Embedder`."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from tiny_exports import CASES, DIMS, make_case, make_clips, make_texts

from mrl_jax import Embedder

pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

from converters.portable_parts import SETTINGS, read_portable  # noqa: E402
from converters.sentence_export import (  # noqa: E402
    HEAD,
    MODULE_FILES,
    export_sentence_transformers,
)

pytestmark = [
    pytest.mark.usefixtures("quick_to_compile"),
    # Of PyTorch itself.
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec.*:FutureWarning"),
]
RATE = 16_000
LIMIT = 1e-5


@dataclasses.dataclass(frozen=True)
class Exported:
    name: str
    folder: Path
    model: Any
    embedder: Embedder


@pytest.fixture(scope="session", autouse=True)
def module_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers copies the code of a folder there, and imports it from there."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        place = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", place)
        yield


def load(folder: Path, **options: Any) -> Any:
    return sentence_transformers.SentenceTransformer(
        str(folder), trust_remote_code=True, device="cpu", local_files_only=True, **options
    )


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name = request.param
    root = tmp_path_factory.mktemp("export")
    folder = make_case(name, root)
    export_sentence_transformers(read_portable(folder, None), root / "out")
    return Exported(name, root / "out", load(root / "out"), Embedder.load(folder))


def pairs() -> list[dict[str, Any]]:
    return [{"array": clip, "sampling_rate": RATE} for clip in make_clips()]


def apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    assert theirs.dtype == np.float32
    return float(np.abs(ours - theirs).max())


def test_speech_of_mixed_lengths_with_and_without_a_prompt(exported):
    embed, encode = exported.embedder.embed_speech, exported.model.encode
    plain = encode(pairs())
    assert apart(embed(pairs()), plain) < LIMIT
    asked = encode(pairs(), prompt_name="find")
    assert apart(embed(pairs(), task="find"), asked) < LIMIT
    assert apart(embed(pairs(), prompt="gu "), encode(pairs(), prompt="gu ")) < LIMIT
    # A dual encoder's speech follows no prompt.
    reads = exported.embedder.info.kind != "dual_encoder"
    assert (np.abs(plain - asked).max() > 1e-3) == reads
    assert np.abs(plain - encode(pairs()[::-1])).max() > 1e-3


def test_text_with_and_without_a_prompt(exported):
    embed, encode = exported.embedder.embed_text, exported.model.encode
    texts = make_texts()
    plain, asked = encode(texts), encode(texts, prompt_name="find")
    assert apart(embed(texts), plain) < LIMIT
    assert apart(embed(texts, task="find"), asked) < LIMIT
    assert apart(embed(texts), exported.model.encode_document(texts)) < LIMIT
    assert np.abs(plain - asked).max() > 1e-3


def test_a_text_alone_and_a_long_one_are_cut_alike(exported):
    text = " ".join(["ba ce di"] * 60)
    assert apart(exported.embedder.embed_text([text])[0], exported.model.encode(text)) < LIMIT
    shorter = exported.model.encode(" ".join(["ba ce di"] * 61))
    assert apart(exported.model.encode(text), shorter) < LIMIT


def test_every_dimension(exported, tmp_path):
    options = {"normalize_embeddings": True}
    for dim in DIMS:
        model, texts = exported.model, make_texts()
        if exported.name == "dual encoder":  # A vector of its own for each dimension.
            folder = tmp_path / str(dim)
            export_sentence_transformers(read_portable(exported.embedder.folder, dim), folder)
            model = load(folder)
            assert model.get_embedding_dimension() == dim
        ours = exported.embedder.embed_speech(pairs(), dim=dim)
        assert apart(ours, model.encode(pairs(), truncate_dim=dim, **options)) < LIMIT
        ours = exported.embedder.embed_text(texts, dim=dim)
        assert apart(ours, model.encode(texts, truncate_dim=dim, **options)) < LIMIT


@pytest.fixture(scope="module")
def late_fusion(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("late")
    folder = make_case("late fusion", root)
    export_sentence_transformers(read_portable(folder, None), root / "out")
    return Exported("late fusion", root / "out", load(root / "out"), Embedder.load(folder))


def test_recordings_of_other_rates_and_files(late_fusion, tmp_path):
    clip = make_clips()[0]
    slow = {"array": clip[::2].copy(), "sampling_rate": RATE // 2}
    ours = late_fusion.embedder.embed_speech([slow])
    assert apart(ours, late_fusion.model.encode([slow])) < LIMIT
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([clip, 0.5 * clip], axis=1), RATE)
    ours = late_fusion.embedder.embed_speech([path])
    assert apart(ours, late_fusion.model.encode([str(path)])) < LIMIT


def test_similarity_is_the_cosine(late_fusion):
    texts = late_fusion.model.encode(make_texts())
    speech = late_fusion.model.encode(pairs())
    scores = late_fusion.model.similarity(speech, texts).numpy()
    np.testing.assert_allclose(scores, speech @ texts.T, atol=1e-6)


def test_the_folder_holds_no_pickle_and_can_be_saved_again(late_fusion, tmp_path):
    names = {path.name for path in late_fusion.folder.rglob("*") if path.is_file()}
    assert {*MODULE_FILES, HEAD, SETTINGS, "modules.json", "README.md"} <= names
    assert not {name for name in names if name.endswith((".bin", ".pt", ".pkl"))}
    late_fusion.model.save(str(tmp_path / "again"))
    again = load(tmp_path / "again")
    assert apart(late_fusion.model.encode(pairs()), again.encode(pairs())) == 0
    assert again.prompts == late_fusion.model.prompts


def test_another_head_gives_other_vectors(late_fusion, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "changed"
    shutil.copytree(late_fusion.folder, folder)
    tensors = load_file(folder / HEAD)
    tensors["projection"] = tensors["projection"] * 1.01
    save_file(tensors, folder / HEAD)
    assert apart(late_fusion.model.encode(pairs()), load(folder).encode(pairs())) > 1e-4


def test_what_cannot_be_embedded_is_refused(late_fusion):
    encode = late_fusion.model.encode
    with pytest.raises(ValueError, match="encode them in two calls"):
        late_fusion.model[0].preprocess([make_texts()[0], pairs()[0]])
    with pytest.raises(ValueError, match="100 samples, fewer than the"):
        encode([{"array": np.zeros(100, np.float32), "sampling_rate": RATE}])
    with pytest.raises(ValueError, match="one row of finite floats"):
        encode([{"array": np.full(16_000, np.nan, np.float32), "sampling_rate": RATE}])


def test_settings_name_what_the_module_does_not_compute(late_fusion):
    settings = json.loads((late_fusion.folder / SETTINGS).read_text())
    assert settings["kind"] == "late_fusion"
    assert settings["trained_dims"] == list(DIMS)
    assert settings["prompts"] == {"find": "ba ce\nQuery:"}
