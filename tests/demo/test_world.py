"""The demo's world: its grammar, its voices, and a test set apart from the training data."""

import collections
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mrl_jax.core.errors import MrlError
from mrl_jax.demo import voices, world
from mrl_jax.demo.grammar import (
    ANIMALS,
    GOODS,
    KIN,
    PLACES,
    TEMPLATES,
    french_number,
    phrases,
    wolof_count,
    wolof_number,
)
from mrl_jax.demo.intents import EVALUATED
from mrl_jax.demo.voices import TEST_VOICES, TRAIN_VOICES, VALIDATION_VOICES, Utterance, phonemes
from mrl_jax.demo.world import World, write_world

SPEECH = ("espeakng_loader", "soundfile", "soxr")
ABSENT = [name for name in SPEECH if importlib.util.find_spec(name) is None]
speaks = pytest.mark.skipif(bool(ABSENT), reason=f"not installed: {', '.join(ABSENT)}")
SMALL: dict[str, Any] = {"train_sentences": 9, "validation_sentences": 4, "test_sentences": 8}


# Grammar.


def test_sentences_are_many_and_in_bijection():
    all_phrases = phrases()
    assert len(all_phrases) >= 4000
    assert len({p.wolof for p in all_phrases}) == len(all_phrases)
    assert len({p.french for p in all_phrases}) == len(all_phrases)


def test_every_template_is_an_intent_of_one_topic():
    topics = collections.defaultdict(set)
    for line in TEMPLATES.strip().splitlines():
        topic, intent, *_ = line.split(" | ")
        topics[intent].add(topic)
    assert topics.keys() == {phrase.intent for phrase in phrases()}
    assert len(topics) == len(TEMPLATES.strip().splitlines())
    assert all(len(of_intent) == 1 for of_intent in topics.values())
    assert set.union(*topics.values()) == {
        "market", "fields", "weather", "family", "greetings", "health", "numbers",
    }  # fmt: skip


def test_orthography():
    letters = {letter for phrase in phrases() for letter in phrase.wolof}
    assert letters <= set("aàbcdeéëfgijklmnñŋoópqrstuwxy ")
    assert letters >= set("ëéñŋàóx")
    for phrase in phrases():
        assert phrase.wolof == " ".join(phrase.wolof.split())
        assert len(phrase.wolof) <= 40
        assert phrase.french[0].isupper()
        assert phrase.french[-1] in ".?"
        assert not set(phrase.french) & set("{}|")
        for wrong in ("de le ", "à le ", "de a", "le a", "la a", "je a", "la h", "  "):
            assert f" {wrong}" not in f" {phrase.french.lower()}", phrase.french


@pytest.mark.parametrize(
    ("wolof", "french"),
    [
        ("fan la ñuy jaaye dugub", "Où vend-on le mil ?"),
        ("fan la ñuy jaaye diw", "Où vend-on l'huile ?"),
        ("jox ma ñaari kiloy soble", "Donne-moi deux kilos d'oignon."),
        ("jox ma benn kilo ceeb", "Donne-moi un kilo de riz."),
        ("ceeb bi ñaari téeméeri dërëm la", "Le riz coûte mille francs."),
        ("sama yaay dafa sonn", "Ma mère est fatiguée."),
        ("sama baay dafa sonn", "Mon père est fatigué."),
        ("sa bàjjan dem na ndar", "Ta tante est allée à Saint-Louis."),
        ("sama doom boppam dafay metti", "Mon enfant a mal à la tête."),
        ("sama baay loxoom dafay metti", "Mon père a mal à la main."),
        ("sama maam am na ñaari fas", "Ma grand-mère a deux chevaux."),
        ("ñaata mbaam nga am", "Combien d'ânes as-tu ?"),
        ("dinaa jàng altine", "J'étudierai lundi."),
        ("dinaa ñëw altine", "Je viendrai lundi."),
        ("am naa ñaar fukki at ak benn", "J'ai vingt et un ans."),
        ("fukki waxtu ak benn jot na", "Il est onze heures."),
        ("benn waxtu jot na", "Il est une heure."),
        ("awa dem na loppitaan", "Awa est allée à l'hôpital."),
        ("umar dem na marse", "Oumar est allé au marché."),
        ("kaani gi ñor na", "Le piment est mûr."),
        ("xaal bi ñor na", "La pastèque est mûre."),
    ],
)
def test_translations(wolof, french):
    assert {p.wolof: p.french for p in phrases()}[wolof] == french


def test_numbers():
    wolof = {1: "benn", 5: "juróom", 6: "juróom benn", 9: "juróom ñeent", 10: "fukk",
             17: "fukk ak juróom ñaar", 20: "ñaar fukk", 31: "fanweer ak benn",
             60: "juróom benn fukk", 99: "juróom ñeent fukk ak juróom ñeent"}  # fmt: skip
    assert {number: wolof_number(number) for number in wolof} == wolof
    assert len({wolof_number(number) for number in range(1, 100)}) == 99
    french = {7: "sept", 16: "seize", 17: "dix-sept", 21: "vingt et un", 58: "cinquante-huit"}
    assert {number: french_number(number) for number in french} == french
    assert len({french_number(number) for number in range(70)}) == 70
    assert wolof_count(1, "xar") == "benn xar"
    assert wolof_count(12, "xar") == "fukki xar ak ñaar"


def test_agreement():
    goods, places = ({word.wo: word for word in words} for words in (GOODS, PLACES))
    assert [goods[wo].du for wo in ("dugub", "yàpp", "diw")] == [
        "du mil",
        "de la viande",
        "de l'huile",
    ]
    assert [places[wo].au for wo in ("marse", "jumaa", "lekool")] == [
        "au marché",
        "à la mosquée",
        "à l'école",
    ]
    assert {word.wo: word.many for word in ANIMALS}["giléem"] == "chameaux"
    assert [word.wo for word in KIN if word.gender == "f"] == ["yaay", "jabar", "maam", "bàjjan"]


# Voices.


def test_voices_are_distinct_and_parts_share_none():
    assert (len(TRAIN_VOICES), len(VALIDATION_VOICES), len(TEST_VOICES)) == (30, 4, 8)
    everyone = TRAIN_VOICES + VALIDATION_VOICES + TEST_VOICES
    assert len({voice.variant for voice in everyone}) == len(everyone)
    assert len({(voice.pitch, voice.rate) for voice in everyone}) == len(everyone)
    assert len({voice.name for voice in everyone}) == len(everyone)


@pytest.mark.parametrize(
    ("wolof", "sounds"),
    [
        ("xaalis", "x'a:lis"),
        ("ñaata ceeb", "n^'a:ta tS'E:b"),
        ("jigéen góor", "dZig'e:n g'o:r"),  # A long vowel in the second syllable is stressed.
        ("bàjjan", "b'adZdZan"),
        ("bët ŋaam", "b'@t N'a:m"),
        ("ngelaw yi", "Ng'Elaw j'i"),
    ],
)
def test_letters_to_phonemes(wolof, sounds):
    assert phonemes(wolof) == sounds


def test_what_is_not_wolof_is_refused():
    for phrase in phrases():
        phonemes(phrase.wolof)
    with pytest.raises(MrlError, match="'naka\\?' has '\\?'"):
        phonemes("naka?")


def test_without_espeak_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    utterance = Utterance(text="naka", voice=TRAIN_VOICES[0], path=tmp_path / "a.flac")
    with pytest.raises(MrlError, match=r"takes espeakng_loader.*mrl_jax\[demo\]"):
        voices.speak([utterance])
    with pytest.raises(MrlError, match=r"mrl_jax\[demo\]"):
        write_world(tmp_path / "world", **SMALL)
    assert not list(tmp_path.iterdir())


def speak(folder: Path, spoken: list[tuple[str, voices.Voice]], workers: int) -> list[bytes]:
    folder.mkdir()
    paths = [folder / f"{i}.flac" for i in range(len(spoken))]
    voices.speak(
        [Utterance(text=t, voice=v, path=p) for (t, v), p in zip(spoken, paths, strict=True)],
        workers=workers,
    )
    return [path.read_bytes() for path in paths]


@speaks
def test_speech_is_the_same_in_any_order_and_company(tmp_path):
    spoken = [(text, voice) for text in ("naka sa yaay", "am na ceeb") for voice in TEST_VOICES[:3]]
    first = speak(tmp_path / "a", spoken, workers=1)
    again = speak(tmp_path / "b", spoken[::-1], workers=2)[::-1]
    assert first == again
    assert len(set(first)) == len(first)  # Voices and sentences all differ.


@speaks
def test_the_longest_sentences_are_short_and_every_voice_speaks(tmp_path):
    import soundfile

    slow = min(TRAIN_VOICES + VALIDATION_VOICES + TEST_VOICES, key=lambda voice: voice.rate)
    longest = sorted(phrases(), key=lambda phrase: len(phonemes(phrase.wolof)))[-4:]
    spoken = [(phrase.wolof, slow) for phrase in longest]
    spoken += [("naka sa yaay", voice) for voice in TRAIN_VOICES + VALIDATION_VOICES + TEST_VOICES]
    speak(tmp_path / "a", spoken, workers=2)
    for i, (text, voice) in enumerate(spoken):
        samples, rate = soundfile.read(tmp_path / "a" / f"{i}.flac", dtype="int16")
        assert rate == 16000
        assert samples.ndim == 1
        assert 0.5 < len(samples) / rate < 3.5, (text, voice)
        assert samples.std() > 500, voice  # Of 32768.
    assert soundfile.info(tmp_path / "a" / "0.flac").duration > 2


@speaks
def test_a_voice_that_is_not_there_is_named(tmp_path):
    voice = voices.Voice(variant="nobody", pitch=50, rate=150, pitch_range=50)
    with pytest.raises(MrlError, match=r"espeak-ng has no voice id\+nobody"):
        speak(tmp_path / "a", [("naka", voice)], workers=1)


# World.


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("worlds") / "small"
    return write_world(folder, utterances_per_sentence=2, workers=2, **SMALL)


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@speaks
def test_test_sentences_and_voices_are_unseen(small):
    parts = (small.train, small.validation, small.test)
    assert [len(part) for part in parts] == [9, 4, 8]
    assert len({phrase.wolof for part in parts for phrase in part}) == 21
    read = {name: lines(small.folder / name / "queries.jsonl") for name in ("validation", "test")}
    speakers = [
        {row["speaker"] for row in rows} for rows in (lines(small.manifest), *read.values())
    ]
    assert all(speakers)
    assert len(set.union(*speakers)) == sum(map(len, speakers))
    unseen = {phrase.french for part in parts[1:] for phrase in part}
    text = small.manifest.read_text("utf-8") + small.text_pairs.read_text("utf-8")
    assert not any(french in text for french in unseen)
    assert all(phrase.french in text for phrase in small.train)


@speaks
def test_training_files(small):
    rows = lines(small.manifest)
    assert len(rows) == 18
    assert len({row["id"] for row in rows}) == 18
    french = {phrase.wolof: phrase.french for phrase in small.train}
    for row in rows:
        assert (small.folder / row["audio"]).is_file()
        assert row["text"] == french[row["transcript"]]
        assert row["task"] == "translation"
    # Twice each sentence, in two voices, as one document.
    assert len({(row["transcript"], row["speaker"]) for row in rows}) == 18
    assert len({row["document_id"] for row in rows}) == 9
    assert len({(row["document_id"], row["text"]) for row in rows}) == 9
    assert lines(small.text_pairs) == [
        {"query": phrase.wolof, "document": phrase.french, "task_type": "translation"}
        for phrase in small.train
    ]


@speaks
def test_retrieval_sets_are_sound(small):
    from mrl_jax.data.sets.retrieval_set import load_query_audio, read_retrieval_set

    test = read_retrieval_set(small.folder / "test")
    assert test.unjudged == ()
    text = {document.id: document.text for document in test.corpus}
    for query, phrase in zip(test.queries, small.test, strict=True):
        assert query.transcript == phrase.wolof
        ((document, score),) = test.qrels[query.id].items()
        assert (text[document], score) == (phrase.french, 1)
    assert 0.3 < load_query_audio(test.queries[0], 16000).size / 16000 < 3.5
    assert len(read_retrieval_set(small.folder / "validation").queries) == 4


@speaks
def test_intents_are_of_the_test_voices_alone(small):
    from mrl_jax.data.sets.intent_set import read_intent_labels, read_intent_set

    examples = read_intent_set(small.folder / "intents")
    by_split = {s: [e for e in examples if e.split == s] for s in ("train", "test")}
    assert [len(some) for some in by_split.values()] == [2 * len(EVALUATED), len(EVALUATED)]
    intents = {phrase.wolof: phrase.intent for phrase in phrases()}
    assert all(intents[str(example.text)] == example.label for example in examples)
    assert {example.speaker for example in examples} <= {voice.name for voice in TEST_VOICES}
    texts = {split: {e.text for e in some} for split, some in by_split.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["test"] & {phrase.wolof for phrase in small.train}
    labels = read_intent_labels(small.folder / "intents")
    assert labels.keys() == set(EVALUATED)
    assert all(label.unseen and len(label.texts) == 5 for label in labels.values())


@speaks
def test_a_seed_gives_the_same_bytes_in_another_process(small, tmp_path):
    def write(name: str, seed: int) -> dict[str, bytes]:
        code = (
            "from pathlib import Path; from mrl_jax.demo.world import write_world\n"
            f"write_world(Path({str(tmp_path / name)!r}), seed={seed}, workers=1,"
            f" utterances_per_sentence=2, **{SMALL})"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"speak" in done.stderr  # The progress bar.
        return contents(tmp_path / name)

    assert write("same", 0) == contents(small.folder)
    other = write("other", 1)
    assert other.keys() == contents(small.folder).keys()
    assert other != contents(small.folder)


@speaks
def test_a_world_is_replaced_only_on_request(small, monkeypatch):
    before = contents(small.folder)
    with pytest.raises(MrlError, match="exists already"):
        write_world(small.folder, **SMALL)

    def fail(*args: object, **options: object) -> None:
        raise MrlError("the loudspeaker is broken")

    monkeypatch.setattr(world, "speak", fail)
    with pytest.raises(MrlError, match="loudspeaker"):
        write_world(small.folder, overwrite=True, **SMALL)
    assert contents(small.folder) == before
    assert [path.name for path in small.folder.parent.iterdir()] == ["small"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train_sentences": 5000}, "600 + 150 + 5000 sentences"),
        ({"test_sentences": 0}, "0 + 150 + 3675 sentences"),
        ({"utterances_per_sentence": 31}, "31 utterances a sentence, for 30 voices"),
    ],
)
def test_sizes_that_cannot_be_had(sizes: dict[str, Any], message: str, tmp_path: Path):
    with pytest.raises(MrlError) as refused:
        write_world(tmp_path / "world", **sizes)
    assert message in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_nothing_that_speaks_imports_jax():
    names = ("grammar", "intents", "voices", "world")
    code = "import sys\n" + "".join(f"import mrl_jax.demo.{name}\n" for name in names)
    code += "print('jax' in sys.modules, 'mrl_jax.demo.world' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().split() == ["False", "True"]
