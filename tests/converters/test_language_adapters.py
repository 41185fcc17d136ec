"""Language adapters of MMS: the language's own logits and characters, and an export of it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import speech_families
from loopback_hub import Handler, environment, serving
from published import edit_json, relative_error
from speech_families import LANGUAGES, assert_same_tensors, read_tensors, vocabulary_of

import mrl_jax
from converters.__main__ import main
from converters.convert import convert
from converters.export import export
from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
CLIP = 0.1 * np.random.default_rng(0).standard_normal(6000, np.float32)
EXACT = 1e-6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return speech_families.make_mms(tmp_path_factory.mktemp("mms") / "source")


@pytest.fixture(scope="module")
def towers(source, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("towers")
    for language in LANGUAGES:
        argv = ["speech", str(source), str(root / language), "--language", language]
        assert run_command(main, argv) == 0
    return {language: root / language for language in LANGUAGES}


def our_logits(tower: Path) -> np.ndarray:
    recogniser = mrl_jax.load_hubert_ctc(tower)
    batch = mrl_jax.pad_clips([CLIP], recogniser.encoder.config)
    return np.asarray(recogniser(*batch).logits[0])


def torch_logits(folder: Path, **options: object) -> np.ndarray:
    model = transformers.Wav2Vec2ForCTC.from_pretrained(folder, **options).eval()
    samples, _ = mrl_jax.pad_clips([CLIP], mrl_jax.HubertConfig.base())
    with torch.no_grad():
        return model(torch.from_numpy(samples)).logits[0].numpy()


def theirs(source: Path, language: str) -> np.ndarray:
    return torch_logits(source, target_lang=language, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_logits_are_transformers_with_that_adapter(language, source, towers):
    ours = our_logits(towers[language])
    assert ours.shape[1] == len(vocabulary_of(language))
    assert relative_error(ours, theirs(source, language)) <= EXACT
    # Another language has another adapter, though it may have as many characters.
    other = theirs(source, "fra" if language != "fra" else "wol")
    assert relative_error(ours[:, :5], other[:, :5]) > 0.1


def test_without_a_language_it_is_the_one_inside(source, towers, tmp_path):
    report = convert(str(source), tmp_path / "tower", family="speech")
    assert "language" not in report
    ours = our_logits(tmp_path / "tower")
    assert relative_error(ours, torch_logits(source)) <= EXACT
    # The one inside need not be the adapter file of that language.
    assert relative_error(ours, our_logits(towers["eng"])) > 0.1
    recogniser = mrl_jax.load_hubert_ctc(tmp_path / "tower")
    assert recogniser.vocabulary is not None
    assert recogniser.vocabulary.tokens == tuple(vocabulary_of("eng"))


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_is_that_of_the_languages_tokenizer(language, source, towers):
    vocabulary = mrl_jax.load_hubert_ctc(towers[language]).vocabulary
    assert vocabulary is not None
    assert vocabulary.tokens == tuple(vocabulary_of(language))
    tokenizer = transformers.Wav2Vec2CTCTokenizer.from_pretrained(source, target_lang=language)
    rng = np.random.default_rng(1)
    for _ in range(50):
        ids = rng.choice([0, *range(4, len(vocabulary.tokens))], 12)
        assert vocabulary.decode(ids) == tokenizer.decode(ids.tolist())


@pytest.mark.parametrize("language", ["wol", "fra"])
def test_an_export_is_a_whole_checkpoint_of_the_language(language, source, towers, tmp_path):
    exported = tmp_path / "exported"
    export(towers[language], exported)
    # The language's tensors to the byte, all others as they were.
    adapter = speech_families.load_file(source / f"adapter.{language}.safetensors")
    assert_same_tensors(read_tensors(exported), read_tensors(source) | adapter)
    assert_same_tensors(
        speech_families.load_file(exported / f"adapter.{language}.safetensors"), adapter
    )
    expected = theirs(source, language)
    np.testing.assert_array_equal(torch_logits(exported), expected)
    np.testing.assert_array_equal(torch_logits(exported, target_lang=language), expected)
    processor = transformers.Wav2Vec2CTCTokenizer.from_pretrained(exported)
    assert processor.target_lang == language
    assert json.loads((exported / "config.json").read_text())["vocab_size"] == expected.shape[1]
    # And back again, with and without the option.
    for options in ({}, {"language": language}):
        again = tmp_path / f"again{len(options)}"
        report = convert(str(exported), again, family="speech", **options)
        tower = json.loads((towers[language] / "report.json").read_text())
        assert report["digest"] == tower["digest"]


def test_verify_takes_the_towers_language(source, towers, tmp_path, capfd):
    tower = shutil.copytree(towers["wol"], tmp_path / "tower")
    assert json.loads((tower / "report.json").read_text())["language"] == "wol"
    assert run_command(main, ["verify", str(tower), str(source)]) == 0
    assert json.loads((tower / "verification.json").read_text())["holds"] is True
    changed = shutil.copytree(source, tmp_path / "changed")
    shutil.copy(source / "adapter.eng.safetensors", changed / "adapter.wol.safetensors")
    assert run_command(main, ["verify", str(tower), str(changed)]) != 0
    (changed / "adapter.wol.safetensors").unlink()
    assert run_command(main, ["verify", str(tower), str(changed)]) == 2


def test_a_pickled_adapter_is_read(source, towers, tmp_path):
    folder = shutil.copytree(source, tmp_path / "source")
    adapter = speech_families.load_file(folder / "adapter.wol.safetensors")
    (folder / "adapter.wol.safetensors").unlink()
    torch.save({k: torch.from_numpy(v) for k, v in adapter.items()}, folder / "adapter.wol.bin")
    report = convert(str(folder), tmp_path / "tower", family="speech", language="wol")
    assert report["digest"] == json.loads((towers["wol"] / "report.json").read_text())["digest"]
    assert "adapter.wol.bin" in report["source_digests"]


def test_from_the_hub_the_languages_file_is_fetched_and_no_other(source, towers, tmp_path):
    files = {path.name: path.read_bytes() for path in source.iterdir()}
    with serving(Handler) as hub:
        hub.models["org/mms"] = files | {"adapter.wol.bin.md5": b""}
        env = environment(tmp_path / "home", hub.url)

        def run(language: str) -> subprocess.CompletedProcess[str]:
            words = ["speech", "org/mms", str(tmp_path / language), "--language", language]
            return subprocess.run(
                [sys.executable, "-m", "converters", *words],
                env=env,
                capture_output=True,
                text=True,
                timeout=120,
            )

        done = run("wol")
        assert done.returncode == 0, done.stderr
        adapters = {name for name in hub.fetched if name.startswith("adapter.")}
        assert adapters == {"adapter.wol.safetensors"}
        report = json.loads((tmp_path / "wol" / "report.json").read_text())
        assert report["digest"] == json.loads((towers["wol"] / "report.json").read_text())["digest"]
        done = run("wof")
    assert done.returncode == 2
    assert "has no adapter for 'wof'; there are those of" in done.stderr
    assert "Did you mean wol?" in done.stderr


# Refusals.


def refused(capsys: pytest.CaptureFixture[str], source: Path, out: Path, *options: str) -> str:
    capsys.readouterr()
    assert run_command(main, ["speech", str(source), str(out), *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert not out.exists()
    return err


def test_a_language_without_an_adapter_is_refused_with_those_there_are(source, tmp_path, capsys):
    err = refused(capsys, source, tmp_path / "tower", "--language", "wolof")
    assert "has no adapter for 'wolof'; there are those of eng, fra, wol. Did you mean wol?" in err
    bare = shutil.copytree(source, tmp_path / "bare", ignore=shutil.ignore_patterns("adapter.*"))
    err = refused(capsys, bare, tmp_path / "tower", "--language", "wol")
    assert "has no adapter for 'wol'. Put adapter.wol.safetensors" in err
    err = refused(capsys, bare, tmp_path / "tower", "--language", "fre")
    assert "has no adapter for 'fre'; there are those of eng, fra, wol. Did you mean fra?" in err
    for strange in ("../wol", "", "w.l"):
        err = refused(capsys, source, tmp_path / "tower", "--language", strange)
        assert f"--language is {strange!r}, expected letters" in err


def test_a_model_without_adapters_is_refused(tmp_path, capsys):
    speech_families.make_checkpoint("xlsr-53 ctc", tmp_path / "source")
    err = refused(capsys, tmp_path / "source", tmp_path / "tower", "--language", "wol")
    assert "config.json: adapter_attn_dim is not set: this model has no language adapters" in err


def test_an_adapter_of_another_model_is_refused(source, tmp_path, capsys):
    path = "adapter.wol.safetensors"
    adapter = speech_families.load_file(source / path)
    key = "wav2vec2.encoder.layers.1.adapter_layer.norm.weight"
    faults = {
        "lacks " + key: {k: v for k, v in adapter.items() if k != key},
        "holds wav2vec2.encoder.layers.9.adapter_layer.norm.weight": adapter
        | {key.replace(".1.", ".9."): adapter[key]},
        f"holds {key} of shape (48,), expected (32,)": adapter | {key: np.zeros(48, np.float32)},
    }
    for number, (message, tensors) in enumerate(faults.items()):
        folder = shutil.copytree(source, tmp_path / str(number))
        speech_families.save_file(tensors, folder / path)
        err = refused(capsys, folder, tmp_path / "tower", "--language", "wol")
        assert f"{path}: is no adapter of this model: {message}" in err
    folder = shutil.copytree(source, tmp_path / "damaged")
    (folder / path).write_bytes((folder / path).read_bytes()[:-9])
    assert path in refused(capsys, folder, tmp_path / "tower", "--language", "wol")


def test_characters_of_no_chosen_language_are_refused(source, tmp_path, capsys):
    folder = shutil.copytree(source, tmp_path / "source")
    edit_json(folder / "tokenizer_config.json", target_lang=None)
    err = refused(capsys, folder, tmp_path / "tower")
    assert "vocab.json: holds the characters of eng, wol, fra, and none is chosen" in err
    edit_json(folder / "tokenizer_config.json", target_lang="xyz")
    assert "not of 'xyz'" in refused(capsys, folder, tmp_path / "tower")
    vocabulary = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps(vocabulary | {"fra": vocabulary["wol"]}))
    with pytest.raises(MrlError, match=r"has 12 tokens, expected the ids 0 to 15"):
        convert(str(folder), tmp_path / "tower", family="speech", language="fra")
