"""The StableHLO programs of a trained model give its vectors in a process of JAX alone."""

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported_programs import padded_clips, padded_ids
from tiers import mostly_slow
from tiny_exports import CASES, make_case, make_clips, make_texts

from converters.portable_parts import SETTINGS, read_portable
from converters.stablehlo_export import export_stablehlo
from mrl_jax import Embedder
from mrl_jax.core.errors import MrlError

RATE = 16_000
LIMIT = 2e-6
BARE = """
import json, sys
import jax, jax.export
import numpy as np

jax.config.update("jax_default_matmul_precision", "highest")
folder = sys.argv[1]
settings = json.load(open(folder + "/mrl_jax_export.json"))
weights = dict(np.load(folder + "/" + settings["weights"]))
given = dict(np.load(folder + "/given.npz"))
vectors = {}
for name, program in settings["programs"].items():
    call = jax.export.deserialize(open(f"{folder}/{name}", "rb").read()).call
    kind = name.partition("-")[0]
    for rows in (len(given["lengths"]), 1):
        inputs = [given[key][:rows] for key in program["inputs"]]
        for key, one in program["inputs"].items():
            assert (given[key].dtype.name, list(given[key].shape[1:])) == (
                one["dtype"], one["shape"][1:]
            ), key
        vectors[f"{kind} {rows}"] = call(weights, *inputs)[0]
np.savez(folder + "/vectors.npz", **vectors)
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"mrl_jax", "flax", "converters", "orbax", "torch"}, loaded
"""


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """A model by the name of its case and its programs, each made once."""

    @functools.cache
    def exported(name: str) -> tuple[Path, Path]:
        root = tmp_path_factory.mktemp("programs")
        portable = read_portable(make_case(name, root), None)
        export_stablehlo(portable, root / "out", seconds=[1.0], tokens=[16])
        return root / "model", root / "out"

    return exported


def write_given(folder: Path, model: Path, prompt: str) -> tuple[list[np.ndarray], list[str]]:
    """Inputs of the programs, each padded to its size."""
    tokenizer, clips, texts = read_portable(model, None).tokenizer, make_clips(), make_texts()
    clips.append(clips[0])
    ids, mask = padded_ids(tokenizer.encode(texts), 16)
    prompt_ids, prompt_mask = padded_ids(tokenizer.encode_prompts([prompt] * 4), 16)
    np.savez(
        folder / "given.npz",
        samples=padded_clips(clips, RATE),
        lengths=np.array([len(clip) for clip in clips], np.int32),
        prompt_ids=prompt_ids.astype(np.int32),
        prompt_mask=prompt_mask,
        input_ids=ids.astype(np.int32),
        attention_mask=mask,
    )
    return clips, texts


@pytest.mark.parametrize("name", mostly_slow(name for name in CASES if name != "soft pairs"))
def test_a_process_of_jax_alone_computes_the_same(name, export):
    model, folder = export(name)
    clips, texts = write_given(folder, model, "ba ce\nQuery:")
    done = subprocess.run(
        [sys.executable, "-c", BARE, str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    vectors = np.load(folder / "vectors.npz")
    embedder = Embedder.load(model)
    pairs = [(clip, RATE) for clip in clips]
    speech = embedder.embed_speech(pairs, task="find")
    assert np.abs(vectors["speech 4"] - speech).max() < LIMIT
    assert np.abs(vectors["speech 1"] - speech[:1]).max() < LIMIT
    text = embedder.embed_text(texts)
    assert np.abs(vectors["text 4"] - text).max() < LIMIT
    assert np.abs(vectors["text 1"] - text[:1]).max() < LIMIT
    assert np.abs(vectors["text 4"] - text[::-1]).max() > 1e-3
    if CASES[name].kind != "dual_encoder":
        assert np.abs(vectors["speech 4"] - embedder.embed_speech(pairs)).max() > 1e-3


def test_the_folder_says_how_its_programs_are_run(export):
    model, folder = export("late fusion")
    settings = json.loads((folder / SETTINGS).read_text())
    assert set(settings["programs"]) == {"speech-16000.bin", "text-16.bin"}
    assert settings["platforms"] == ["cpu", "cuda", "tpu"]
    names = {path.name for path in folder.iterdir()} - {"given.npz", "vectors.npz"}
    assert names == {*settings["programs"], "weights.npz", "tokenizer.json", "README.md", SETTINGS}
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    values: dict[str, Any] = {"clips": make_clips()}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        exec(code, values)
    ours = Embedder.load(model).embed_speech([(clip, RATE) for clip in make_clips()])
    assert np.abs(values["vectors"] - ours).max() < LIMIT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": [0.001]}, "--seconds is 0.001, expected 0."),
        ({"seconds": [1.0, 300.0]}, "--seconds is 1, 300, expected 0."),
        ({"tokens": [0]}, "--tokens has 0, expected 1 or more"),
    ],
)
def test_lengths_that_nothing_has_are_refused(options, message, export, tmp_path):
    portable = read_portable(export("dual encoder")[0], 16)
    with pytest.raises(MrlError, match=message):
        export_stablehlo(portable, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
