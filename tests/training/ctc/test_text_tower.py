"""A recogniser over the tokens of a text tower, from a manifest to transcripts and vectors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run
from tiny_ctc import make_config

from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.checkpoints.towers import load_hubert_ctc, read_checked_weights, read_info
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.data.text.train_tokenizer import new_tokenizer
from mrl_jax.demo.towers import text_config
from mrl_jax.inference.asr import Recogniser, unspelled
from mrl_jax.models.ctc import CtcVocabulary
from mrl_jax.models.init import initial_recogniser, initial_tower
from mrl_jax.models.text_vocabulary import check_tokenizer, text_tower_vocabulary
from mrl_jax.training.ctc.config import (
    CtcExperiment,
    CtcModelConfig,
    build_recogniser,
    choose_vocabulary,
    output_layer,
)
from mrl_jax.training.ctc.run import train_recogniser

tokenizers = pytest.importorskip("tokenizers")
# One sentence for each pair of words of `tiny_run`, with letters of several bytes.
NAMES = dict(zip(tiny_run.WORDS, ("ɛ̀ba", "cɛ́", "ωέ", "foɔ̀", "gu𐀀"), strict=True))


@dataclasses.dataclass(frozen=True)
class World:
    """Towers, a manifest of clips, and the config of a run over the text tower's tokens."""

    run: tiny_run.World[CtcExperiment]
    text: Path

    def load(self, *changes: str) -> CtcExperiment:
        chosen = ["model.vocabulary=text_tower", f"model.text_tower={self.text}"]
        return self.run.load(*chosen, *changes)


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("tokens")
    manifest = tiny_run.make_manifest(folder / "data", examples=24)
    lines = [json.loads(line) for line in manifest.read_text().splitlines()]
    for line in lines:
        line["text"] = " ".join(NAMES[word] for word in line["text"].split())
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    towers = tiny_run.make_towers(folder / "towers")
    files = new_tokenizer([line["text"] for line in lines], units="pieces", max_pieces=264)
    tower = initial_tower(text_config(264, width=32, num_layers=1), 0)
    save_text_tower(folder / "pieces", tower, files)
    config = make_config(folder, towers[0], manifest)
    run = tiny_run.World(folder, CtcExperiment, config, *towers, manifest, folder / "none")
    return World(run, folder / "pieces")


@pytest.fixture(scope="module")
def finished(world, one_device):
    workdir = world.run.folder / "finished"
    return train_recogniser(world.load(), workdir, devices=one_device, log=lambda _: None)


def transcripts(world: World) -> list[str]:
    return [json.loads(line)["text"] for line in world.run.manifest.read_text().splitlines()]


def test_a_run_leaves_a_recogniser_of_the_text_towers_tokens(world, finished):
    vocabulary, tokenizer = finished.info.vocabulary, TextTokenizer(world.text)
    assert vocabulary == text_tower_vocabulary(transcripts(world), tokenizer)
    assert vocabulary.byte_level
    check_tokenizer(vocabulary, tokenizer)
    model = load_hubert_ctc(finished.folder)
    assert model.lm_head.kernel.shape[-1] == len(vocabulary.tokens)
    hypotheses = Recogniser(model).transcribe([tiny_run.clip_of((0, 1), 3)])
    assert isinstance(hypotheses[0], str)
    # The encoder is that of the tower it began at; its convolutions have not moved.
    before, after = (
        read_checked_weights(folder, read_info(folder))["encoder"]
        for folder in (world.run.speech, finished.folder)
    )
    frozen = [path for path in after if "feature_encoder" in path]
    assert frozen
    assert all(np.array_equal(before[path], after[path]) for path in frozen)


def test_it_goes_on_from_such_a_recogniser(world, finished, one_device, tmp_path):
    changes = ["model.vocabulary=tower", f"model.speech_tower={finished.folder}"]
    config = world.load(*changes, "train.steps=1", "optim.learning_rate=1e-9")
    run = train_recogniser(config, tmp_path / "run", devices=one_device, log=lambda _: None)
    assert run.info is not None
    assert run.folder is not None
    assert run.info.vocabulary == finished.info.vocabulary
    before, after = (
        read_checked_weights(folder, read_info(folder))["lm_head"]["kernel"]
        for folder in (finished.folder, run.folder)
    )
    np.testing.assert_allclose(after, before, atol=1e-6)


def test_transcripts_as_they_are_written(world, one_device, tmp_path):
    """Capitals and marks have tokens too; the transcripts need not be plain."""
    path = world.run.manifest.with_name("written.jsonl")
    lines = [json.loads(line) for line in world.run.manifest.read_text().splitlines()]
    written = [{**line, "text": f"{line['text'].capitalize()}!"} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in written))
    config = world.load("data.plain=false", f"data.train={path}", "train.steps=1")
    run = train_recogniser(config, tmp_path / "run", devices=one_device, log=lambda _: None)
    assert run.info is not None
    texts = [line["text"] for line in written]
    assert run.info.vocabulary == text_tower_vocabulary(texts, TextTokenizer(world.text))
    assert run.info.vocabulary is not None
    assert "!" in run.info.vocabulary.tokens


REFUSED = [
    (["model.vocabulary=data"], "expected characters or tower or text_tower. Did you mean char"),
    (["model.vocabulary=text_towr", "model.text_tower=x"], "Did you mean text_tower?"),
    (["model.vocabulary=text_tower"], "is text_tower, and model.text_tower is empty"),
    (["model.text_tower={text}"], "and model.vocabulary=characters takes none"),
    (["model.vocabulary=text_tower", "model.text_tower=nowhere"], "nowhere/tower.json: no such"),
    (["model.vocabulary=text_tower", "model.text_tower={speech}"], "is a hubert_ctc tower"),
    (["model.vocabulary=text_tower", "model.text_tower={bare}"], "tokenizer.json: no such file"),
    (
        ["model.vocabulary=text_tower", "model.text_tower={letters}"],
        "has no tokens for 'o', 'ɔ', '\u0301', 'έ', 'ω', which 21 of 24",
    ),
    (
        ["model.vocabulary=text_tower", "model.text_tower={small}"],
        "the tokenizer gives the id 263, and the tower has 100 embeddings",
    ),
    (["model.vocabulary=tower", "model.text_tower={text}"], "tokens are not those of a text tower"),
    (
        ["model.vocabulary=tower", "model.speech_tower={finished}"],
        "tokens are those of a text tower, and model.text_tower is empty",
    ),
    (
        ["model.vocabulary=tower", "model.speech_tower={finished}", "model.text_tower={letters}"],
        "in the text tower whose tokens the recogniser writes",
    ),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_wrong_input_is_one_line_and_status_2(world, finished, changes, message, tmp_path):
    files = new_tokenizer(["abcfgu ɛ̀ 𐀀 "], units="characters")
    tower = initial_tower(text_config(32, width=32, num_layers=1), 0)
    save_text_tower(tmp_path / "letters", tower, files)
    save_text_tower(tmp_path / "bare", tower, {})
    pieces = {"tokenizer.json": (world.text / "tokenizer.json").read_text()}
    small = initial_tower(text_config(100, width=32, num_layers=1), 0)
    save_text_tower(tmp_path / "small", small, pieces)
    places = {
        "text": world.text,
        "speech": world.run.speech,
        "finished": finished.folder,
        "letters": tmp_path / "letters",
        "bare": tmp_path / "bare",
        "small": tmp_path / "small",
    }
    changes = [change.format(**places) for change in changes]
    tiny_run.assert_refused(world.run.config, tmp_path / "run", changes, message)
    assert not (tmp_path / "run" / "tower").exists()


# --- The output layer that a run begins with --------------------------------------------


def test_a_tower_of_the_same_characters_keeps_the_transcripts(world, tmp_path):
    """From a recogniser of characters to the tokens of a text tower that has the same ones."""
    letters = ("<pad>", "|", *"abcdefgiou")
    sizes = read_info(world.run.speech).config
    save_speech_tower(tmp_path / "speech", initial_recogniser(sizes, CtcVocabulary(letters), 4))
    texts = ["badi cefo", "gu"]
    files = new_tokenizer(texts, units="characters")
    save_text_tower(tmp_path / "text", initial_tower(text_config(32, width=32), 0), files)
    config = CtcModelConfig(
        speech_tower=str(tmp_path / "speech"),
        vocabulary="text_tower",
        text_tower=str(tmp_path / "text"),
    )
    tower = read_info(tmp_path / "speech")
    vocabulary = choose_vocabulary(config, tower, texts, TextTokenizer(tmp_path / "text"))
    assert vocabulary.tokens[0] == "<pad>"
    assert set(vocabulary.written) == set(letters[2:]) | {" "}
    clips = [tiny_run.clip_of((n % 5, n // 5), n) for n in range(6)]
    before = Recogniser(load_hubert_ctc(tmp_path / "speech")).transcribe(clips)
    after = Recogniser(build_recogniser(config, tower, vocabulary, 0)).transcribe(clips)
    assert after == before
    assert len("".join(before)) > 12


def test_an_output_begins_as_the_mean_of_its_characters():
    rng = np.random.default_rng(0)
    old = CtcVocabulary(("|", "A", "B", "<pad>"), blank=3)
    kernel, bias = rng.standard_normal((5, 4)), rng.standard_normal(4)
    weights = {"lm_head.kernel": kernel, "lm_head.bias": bias}
    new = CtcVocabulary(("<pad>", " ", " ab", "b", "c", "bc"), word_delimiter=None)
    made = output_layer(new, 5, 0, weights, old)
    random = output_layer(new, 5, 0)
    columns, offsets = made["lm_head.kernel"], made["lm_head.bias"]
    np.testing.assert_allclose(columns[:, 0], kernel[:, 3], rtol=1e-6)
    np.testing.assert_allclose(columns[:, 1], kernel[:, 0], rtol=1e-6)
    np.testing.assert_allclose(columns[:, 2], (kernel[:, 1] + kernel[:, 2]) / 2, rtol=1e-6)
    np.testing.assert_allclose(columns[:, 3], kernel[:, 2], rtol=1e-6)
    np.testing.assert_allclose(offsets[:4], [bias[3], bias[0], bias[1:3].mean(), bias[2]])
    # It never wrote a "c".
    np.testing.assert_array_equal(columns[:, 4:], random["lm_head.kernel"][:, 4:])
    assert not offsets[4:].any()


# --- What it can write ------------------------------------------------------------------


def test_characters_are_written_in_parts():
    # "ɔ" is C9 94, "ɛ" C9 9B, "𐀀" F0 90 80 80.
    parts = ("ÉĶ".encode().decode(), "É", "Ľ", "aÉ", "ð", "ĲĢ", "Ģ")
    vocabulary = CtcVocabulary(("<pad>", *parts), byte_level=True)
    assert unspelled(["ɔɛa𐀀"], vocabulary) == []
    fewer = dataclasses.replace(vocabulary, tokens=("<pad>", "ÉĶ", "Ľ", "ð", "ĲĢ"))
    assert unspelled(["ɔɛa𐀀"], fewer) == ["a", "ɛ", "𐀀"]


@pytest.mark.slow
def test_it_learns_to_spell_in_tokens(world, one_device, tmp_path):
    changes = ["train.steps=300", "optim.learning_rate=5e-3", "masks.time_masks=0"]
    more = ["masks.frequency_masks=0", "model.freeze_convolutions=false"]
    run = train_recogniser(
        world.load(*changes, *more), tmp_path / "run", devices=one_device, log=lambda _: None
    )
    assert run.folder is not None
    clips = [tiny_run.clip_of((n % 5, (n // 5) % 5), n) for n in range(24)]
    written = Recogniser(load_hubert_ctc(run.folder)).transcribe(clips)
    right = np.mean([a == b for a, b in zip(written, transcripts(world), strict=True)])
    assert right > 0.6
