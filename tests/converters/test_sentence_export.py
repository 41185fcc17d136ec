"""A trained model as sentence-transformers loads it gives the vectors of `Embedder`."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from exported_programs import padded_clips
from flax import nnx
from sentence_folders import sentence_folder
from tiny_exports import CASES, DIMS, make_case, make_clips, make_texts, make_towers, soft_ctc
from tiny_exports import late_fusion as make_late_fusion
from tiny_run import PROMPTS, save_tiny

from mrl_jax import Embedder

pytest.importorskip("torch")
sentence_transformers = pytest.importorskip("sentence_transformers", minversion="6.0")

from converters.convert import convert  # noqa: E402
from converters.portable_parts import SETTINGS, read_portable  # noqa: E402
from converters.portable_readme import program_readme  # noqa: E402
from converters.sentence_export import (  # noqa: E402
    HEAD,
    MODULE_FILES,
    export_sentence_transformers,
)

pytestmark = [
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


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A case by name, exported and loaded once."""

    @functools.cache
    def exported(name: str) -> Exported:
        root = tmp_path_factory.mktemp("export")
        folder = make_case(name, root)
        export_sentence_transformers(read_portable(folder, None), root / "out")
        return Exported(name, root / "out", load(root / "out"), Embedder.load(folder))

    return exported


@pytest.fixture(scope="module", params=CASES)
def exported(request: pytest.FixtureRequest, make: Callable[[str], Exported]) -> Exported:
    return make(request.param)


@pytest.fixture(scope="module")
def late_fusion(make: Callable[[str], Exported]) -> Exported:
    return make("late fusion")


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


def test_text_with_and_without_a_prompt(late_fusion):
    embed, encode = late_fusion.embedder.embed_text, late_fusion.model.encode
    texts = make_texts()
    plain, asked = encode(texts), encode(texts, prompt_name="find")
    assert apart(embed(texts), plain) < LIMIT
    assert apart(embed(texts, task="find"), asked) < LIMIT
    assert apart(embed(texts), late_fusion.model.encode_document(texts)) < LIMIT
    assert np.abs(plain - asked).max() > 1e-3


def test_a_text_alone_and_a_long_one_are_cut_alike(late_fusion):
    text = " ".join(["ba ce di"] * 60)
    assert apart(late_fusion.embedder.embed_text([text])[0], late_fusion.model.encode(text)) < LIMIT
    shorter = late_fusion.model.encode(" ".join(["ba ce di"] * 61))
    assert apart(late_fusion.model.encode(text), shorter) < LIMIT


def test_every_dimension(late_fusion):
    options = {"normalize_embeddings": True}
    for dim in DIMS:
        ours = late_fusion.embedder.embed_speech(pairs(), dim=dim)
        theirs = late_fusion.model.encode(pairs(), truncate_dim=dim, **options)
        assert apart(ours, theirs) < LIMIT
        ours = late_fusion.embedder.embed_text(make_texts(), dim=dim)
        theirs = late_fusion.model.encode(make_texts(), truncate_dim=dim, **options)
        assert apart(ours, theirs) < LIMIT


def test_a_dimension_with_a_vector_of_its_own(make, tmp_path):
    ours = make("dual encoder").embedder
    export_sentence_transformers(read_portable(ours.folder, 8), tmp_path / "out")
    theirs = load(tmp_path / "out")
    assert theirs.get_embedding_dimension() == 8
    assert apart(ours.embed_speech(pairs(), dim=8), theirs.encode(pairs())) < LIMIT
    assert apart(ours.embed_text(make_texts(), dim=8), theirs.encode(make_texts())) < LIMIT


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
    clip = make_clips()[0]
    for samples in (np.full(16_000, np.nan, np.float32), np.stack([clip, clip]), np.int16(clip)):
        with pytest.raises(ValueError, match="one row of finite floats"):
            encode([{"array": samples, "sampling_rate": RATE}])
    with pytest.raises(ValueError, match="a recording: is silent"):
        encode([{"array": np.zeros(16_000, np.float32), "sampling_rate": RATE}])
    with pytest.raises(ValueError, match=r"samples reach 8\S+, expected floats from -1 to 1"):
        encode([{"array": np.float32(8000 * clip / clip.max()), "sampling_rate": RATE}])


def test_the_name_of_a_recording_is_never_embedded_as_a_text(late_fusion, tmp_path):
    for name in ("missing.wav", "https://localhost/question.OPUS"):
        with pytest.raises(ValueError, match=f"{name}: no such recording"):
            late_fusion.model.encode([name])
    for text in ("a missing.wav", "missing.wav ", "example.com.au"):
        ours = late_fusion.embedder.embed_text([text])
        assert apart(ours, late_fusion.model.encode([text])) < LIMIT
    path = tmp_path / "question.aiff"  # Of no kind that sentence-transformers knows.
    soundfile.write(path, make_clips()[0], RATE)
    ours = late_fusion.embedder.embed_speech([path])
    assert apart(ours, late_fusion.model.encode([str(path)])) < LIMIT


def test_a_folder_that_lacks_weights_is_refused(late_fusion, tmp_path, capfd):
    from safetensors.numpy import load_file, save_file

    folder = tmp_path / "damaged"
    shutil.copytree(late_fusion.folder, folder)
    load(folder)
    assert "LOAD REPORT" not in capfd.readouterr().err  # All that is needed is there.
    place = folder / "text" / "model.safetensors"
    tensors = load_file(place)
    del tensors[next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.weight"))]
    save_file(tensors, place, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"text lacks weights: layers\.1\.mlp\.up_proj\.weight$"):
        load(folder)


def test_a_text_tower_with_a_dense_layer_and_a_prompt_below_unmasked_speech(tmp_path):
    prompt = {"prompts": {"document": "mil : "}, "default_prompt_name": "document"}
    source = sentence_folder(
        tmp_path / "source", pooling="mean", dense=12, activation="Tanh", is_causal=False, **prompt
    )
    tower = tmp_path / "tower"
    convert(str(source), tower, family="qwen3")
    speech, _ = make_towers(tmp_path / "towers", "base")
    model = make_late_fusion(speech, tower)
    named: Any = ("late_fusion", speech, tower, (12, 6), PROMPTS, "reference")
    place = save_tiny(tmp_path / "model", model, *named)
    export_sentence_transformers(read_portable(place, None), tmp_path / "out")
    ours, theirs = Embedder.load(place), load(tmp_path / "out")
    texts = ["où vend-on le mil", "a", "", "le mil " * 50]
    assert apart(ours.embed_text(texts), theirs.encode(texts)) < LIMIT
    assert apart(ours.embed_text(texts), theirs.encode_document(texts)) < LIMIT
    assert apart(ours.embed_text(texts, task=""), theirs.encode_query(texts)) < LIMIT
    assert np.abs(theirs.encode(texts) - theirs.encode_query(texts)).max() > 1e-3
    # Padding is read as speech, so that a batch is padded as here.
    together, alone = theirs.encode(pairs()), theirs.encode(pairs()[1:2])
    assert apart(ours.embed_speech(pairs()), together) < LIMIT
    assert apart(ours.embed_speech(pairs()[1:2]), alone) < LIMIT
    assert np.abs(together[1:2] - alone).max() > 1e-3


def test_settings_name_what_the_module_does_not_compute(late_fusion):
    settings = json.loads((late_fusion.folder / SETTINGS).read_text())
    assert settings["kind"] == "late_fusion"
    assert settings["trained_dims"] == list(DIMS)
    assert settings["prompts"] == {"find": "ba ce\nQuery:"}


def test_speech_tokens_without_room_are_counted_alike(tmp_path):
    import torch

    speech, text = make_towers(tmp_path / "towers", "wavlm")
    model = soft_ctc(speech, text, max_tokens_per_second=3.0)
    place = save_tiny(tmp_path / "model", model, "soft_ctc", speech, text, DIMS, PROMPTS)
    portable = read_portable(place, None)
    assert portable.counts_lost
    assert "`lost_tokens`" in program_readme(portable, "onnx")
    export_sentence_transformers(portable, tmp_path / "out")
    theirs, clips = load(tmp_path / "out"), make_clips()
    lengths = np.array([len(clip) for clip in clips])
    samples = padded_clips([(c - c.mean()) / np.sqrt(c.var() + 1e-7) for c in clips], lengths.max())
    embed = nnx.jit(lambda model, *inputs: model.embed_speech_and_lost(*inputs))
    vectors, lost = map(np.asarray, embed(portable.model, samples, lengths))
    raw = torch.from_numpy(padded_clips(clips, lengths.max()))
    with torch.no_grad():
        other, also_lost = theirs[0].model.embed_speech(raw, torch.from_numpy(lengths))
    assert lost.tolist() == also_lost.tolist()
    assert lost.max() > 0 == lost.min()
    assert apart(vectors, other.numpy()) < LIMIT
    with pytest.raises(ValueError, match=rf"has {lost.max()} speech tokens more than"):
        theirs.encode(pairs())
