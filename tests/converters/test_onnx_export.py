"""The ONNX programs of a trained model give the vectors of `Embedder`, at any batch and length."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_exports import make_case, make_clips, make_texts

from mrl_jax import Embedder
from mrl_jax.data.text.prompts import query_prompt

pytest.importorskip("torch")
pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("sentence_transformers", minversion="6.0")
onnxruntime = pytest.importorskip("onnxruntime")

from converters.onnx_export import OPSET, export_onnx  # noqa: E402
from converters.portable_parts import SETTINGS, read_portable  # noqa: E402

pytestmark = [pytest.mark.usefixtures("quick_to_compile"), pytest.mark.slow]
RATE = 16_000
LIMIT = 1e-5


class Exported:
    """A folder of programs, and the model it is of."""

    def __init__(self, name: str, root: Path):
        model = make_case(name, root)
        self.folder = root / "out"
        self.embedder = Embedder.load(model)
        portable = read_portable(model, None)
        self.tokenizer = portable.tokenizer
        export_onnx(portable, self.folder)
        self.settings = json.loads((self.folder / SETTINGS).read_text())

    def run(self, program: str, **inputs: Any) -> list[np.ndarray]:
        session = onnxruntime.InferenceSession(
            self.folder / program, providers=["CPUExecutionProvider"]
        )
        known = self.settings["programs"][program]
        assert [one.name for one in session.get_inputs()] == list(known["inputs"])
        return session.run(None, {name: inputs[name] for name in known["inputs"]})

    def speech(self, clips: list[np.ndarray], prompt: str = "", extra: int = 0) -> np.ndarray:
        lengths = np.array([len(clip) for clip in clips])
        samples = np.zeros((len(clips), lengths.max() + extra), np.float32)
        for row, clip in enumerate(clips):
            samples[row, : len(clip)] = clip
        ids = self.tokenizer.encode_prompts([prompt])[0]
        prompt_ids = np.zeros((len(clips), max(len(ids), 1)), np.int64)
        prompt_ids[:, : len(ids)] = ids
        mask = np.full(prompt_ids.shape, bool(ids))
        inputs = {"samples": samples, "lengths": lengths}
        outputs = self.run("speech.onnx", **inputs, prompt_ids=prompt_ids, prompt_mask=mask)
        return outputs[0]

    def text(self, texts: list[str]) -> np.ndarray:
        rows = self.tokenizer.encode(texts)
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros(ids.shape, np.bool_)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, True
        return self.run("text.onnx", input_ids=ids, attention_mask=mask)[0]


@pytest.fixture(scope="module", params=("soft tokens", "dual encoder", "late fusion"))
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp("onnx"))


def test_speech(exported):
    clips = make_clips()
    pairs = [(clip, RATE) for clip in clips]
    ours = exported.embedder.embed_speech(pairs)
    assert np.abs(ours - exported.speech(clips)).max() < LIMIT
    assert np.abs(ours - exported.speech(clips, extra=5000)).max() < LIMIT
    alone = exported.speech(clips[:1])
    assert np.abs(ours[:1] - alone).max() < LIMIT
    assert np.abs(ours[1:2] - alone).max() > 1e-3


def test_speech_with_a_prompt(exported):
    clips, prompt = make_clips(), query_prompt("ba ce")
    ours = exported.embedder.embed_speech([(clip, RATE) for clip in clips], task="find")
    assert np.abs(ours - exported.speech(clips, prompt)).max() < LIMIT
    if exported.settings["kind"] != "dual_encoder":
        assert np.abs(ours - exported.speech(clips)).max() > 1e-3


def test_text(exported):
    texts = make_texts()
    theirs = exported.text(texts)
    assert np.abs(exported.embedder.embed_text(texts) - theirs).max() < LIMIT
    assert np.abs(exported.text(texts[:1]) - theirs[:1]).max() < LIMIT
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3


def test_the_folder_says_how_its_programs_are_run(exported):
    import onnx

    names = {path.name for path in exported.folder.iterdir()}
    data = {"speech.onnx.data", "text.onnx.data"}
    assert names == {"speech.onnx", "text.onnx", *data, "tokenizer.json", "README.md", SETTINGS}
    model = onnx.load(exported.folder / "speech.onnx", load_external_data=False)
    assert {entry.version for entry in model.opset_import if not entry.domain} == {OPSET}
    assert exported.settings["opset"] == OPSET
    assert exported.settings["prompts"] == {"find": query_prompt("ba ce")}
    code = (exported.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    place = str(exported.folder / "speech.onnx")
    values: dict[str, Any] = {"clips": make_clips()}
    exec(code.replace("speech.onnx", place), values)
    assert np.abs(values["vectors"] - exported.speech(make_clips())).max() < LIMIT
