"""The ONNX programs of a trained model give the vectors of `Embedder`, at any batch and length."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_programs import OnnxPrograms
from tiers import mostly_slow
from tiny_exports import make_case, make_clips, make_texts

from mrl_jax import Embedder
from mrl_jax.data.text.prompts import query_prompt

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("sentence_transformers", minversion="6.0")
pytest.importorskip("onnxruntime")

from converters.onnx_export import OPSET, export_onnx
from converters.portable_parts import SETTINGS, read_portable

RATE = 16_000
LIMIT = 1e-5


@dataclasses.dataclass(frozen=True)
class Exported:
    folder: Path
    embedder: Embedder
    programs: OnnxPrograms


@pytest.fixture(scope="module", params=mostly_slow(("dual encoder", "soft tokens", "late fusion")))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("onnx")
    portable = read_portable(make_case(request.param, root), None)
    export_onnx(portable, root / "out")
    embedder = Embedder.load(portable.folder)
    return Exported(root / "out", embedder, OnnxPrograms(root / "out", portable))


def test_speech(exported):
    clips = make_clips()
    pairs = [(clip, RATE) for clip in clips]
    ours = exported.embedder.embed_speech(pairs)
    assert np.abs(ours - exported.programs.speech(clips)).max() < LIMIT
    assert np.abs(ours - exported.programs.speech(clips, padding=5000)).max() < LIMIT
    alone = exported.programs.speech(clips[:1])
    assert np.abs(ours[:1] - alone).max() < LIMIT
    assert np.abs(ours[1:2] - alone).max() > 1e-3


def test_speech_with_a_prompt(exported):
    clips, prompt = make_clips(), query_prompt("ba ce")
    ours = exported.embedder.embed_speech([(clip, RATE) for clip in clips], task="find")
    assert np.abs(ours - exported.programs.speech(clips, prompt)).max() < LIMIT
    if exported.programs.settings["kind"] != "dual_encoder":
        assert np.abs(ours - exported.programs.speech(clips)).max() > 1e-3


def test_text(exported):
    texts = make_texts()
    theirs = exported.programs.text(texts)
    assert np.abs(exported.embedder.embed_text(texts) - theirs).max() < LIMIT
    assert np.abs(exported.programs.text(texts[:1]) - theirs[:1]).max() < LIMIT
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3


def test_the_folder_says_how_its_programs_are_run(exported):
    import onnx

    names = {path.name for path in exported.folder.iterdir()}
    data = {"speech.onnx.data", "text.onnx.data"}
    assert names == {"speech.onnx", "text.onnx", *data, "tokenizer.json", "README.md", SETTINGS}
    model = onnx.load(exported.folder / "speech.onnx", load_external_data=False)
    assert {entry.version for entry in model.opset_import if not entry.domain} == {OPSET}
    assert exported.programs.settings["opset"] == OPSET
    assert exported.programs.settings["prompts"] == {"find": query_prompt("ba ce")}
    code = (exported.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    place = str(exported.folder / "speech.onnx")
    values: dict[str, Any] = {"clips": make_clips()}
    exec(code.replace("speech.onnx", place), values)
    assert np.abs(values["vectors"] - exported.programs.speech(make_clips())).max() < LIMIT
