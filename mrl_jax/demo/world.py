"""The demo's data: spoken Wolof with its French translation; training and test are disjoint."""

import dataclasses
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder, write_json
from mrl_jax.demo.grammar import Phrase, phrases
from mrl_jax.demo.intents import EVALUATED, LABEL_TEXTS, intent_sentences, turns
from mrl_jax.demo.voices import (
    TEST_VOICES,
    TRAIN_VOICES,
    VALIDATION_VOICES,
    Utterance,
    Voice,
    require_espeak,
    speak,
)

MARKER = "world.json"
TASK = "translation"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Where the parts of a world are, and the sentences of each part.

    Attributes:
        folder: holds `train.jsonl`, `text_pairs.jsonl`, as retrieval sets `validation/` and
            `test/`, and an intent set, `intents/`.
        train, validation, test: sentences; no two parts share a sentence or a voice.
    """

    folder: Path
    train: tuple[Phrase, ...]
    validation: tuple[Phrase, ...]
    test: tuple[Phrase, ...]

    @property
    def manifest(self) -> Path:
        """Recordings and their French translations."""
        return self.folder / "train.jsonl"

    @property
    def text_pairs(self) -> Path:
        """Wolof and French of the training sentences."""
        return self.folder / "text_pairs.jsonl"


def write_world(
    folder: Path,
    *,
    seed: int = 0,
    train_sentences: int = 3675,
    utterances_per_sentence: int = 1,
    validation_sentences: int = 150,
    test_sentences: int = 600,
    workers: int | None = None,
    overwrite: bool = False,
) -> World:
    """Draw sentences, synthesise them, and write the manifest and the sets.

    The same seed gives the same bytes. In the retrieval sets each query has one
    relevant document, so that chance is an nDCG@10 of 4.54 / sentences. The intent set is of
    the voices of the test set: for each 50 test sentences one test recording of every evaluated
    intent, and two to learn from.

    Args:
        folder: appears whole or not at all.
        train_sentences: also the number of text pairs.
        utterances_per_sentence: of each training sentence, each in another voice.
        workers: parallel processes; default: the number of cores.
        overwrite: replace a world that is there already.

    Raises:
        MrlError: the grammar has too few sentences, or there are too few voices; espeak-ng
            is not installed; `folder` exists.
    """
    sizes = (test_sentences, validation_sentences, train_sentences)
    if min(*sizes, utterances_per_sentence) < 1 or sum(sizes) > len(phrases()):
        raise MrlError(
            f"{' + '.join(map(str, sizes))} sentences for test, validation and training, "
            f"expected at least one of each and {len(phrases())} in all",
            hint="ask for fewer",
        )
    if utterances_per_sentence > len(TRAIN_VOICES):
        problem = f"{utterances_per_sentence} utterances a sentence, for {len(TRAIN_VOICES)} voices"
        raise MrlError(problem, hint=f"ask for at most {len(TRAIN_VOICES)}")
    require_espeak()
    drawn = random.Random(seed).sample(phrases(), sum(sizes))
    test, rest = drawn[:test_sentences], drawn[test_sentences:]
    validation, train = rest[:validation_sentences], rest[validation_sentences:]
    with staged_folder(folder, marker=MARKER, overwrite=overwrite) as staging:
        spoken = _assign_voices(train, TRAIN_VOICES, utterances_per_sentence, staging / "audio")
        sets = {"validation": (validation, VALIDATION_VOICES), "test": (test, TEST_VOICES)}
        spoken_sets = {
            name: _assign_voices(*part, 1, staging / name / "audio") for name, part in sets.items()
        }
        intents = _assign_intents(train, max(1, test_sentences // 50), seed, staging / "intents")
        parts = (spoken, *spoken_sets.values(), *intents.values())
        utterances = [u for part in parts for _, u in part]
        with tqdm(total=len(utterances), desc="speak", unit="utterance") as bar:
            speak(utterances, workers=workers, done=bar.update)
        _write_manifest(staging, spoken)
        for name, part in spoken_sets.items():
            _write_set(staging / name, part)
        _write_intents(staging / "intents", intents)
        recipe = {
            "seed": seed,
            "train_sentences": train_sentences,
            "utterances_per_sentence": utterances_per_sentence,
            "validation_sentences": validation_sentences,
            "test_sentences": test_sentences,
        }
        write_json(staging / MARKER, recipe)
    return World(folder=folder, train=tuple(train), validation=tuple(validation), test=tuple(test))


Spoken = tuple[Phrase, Utterance]


def _assign_voices(
    part: Sequence[Phrase], voices: Sequence[Voice], times: int, audio: Path
) -> list[Spoken]:
    """Each phrase with its voices and files; voices alternate, so that all speak equally often."""
    turns = [(phrase, i * times + j) for i, phrase in enumerate(part) for j in range(times)]
    audio.mkdir(parents=True)
    return [
        (phrase, Utterance(phrase.wolof, voices[turn % len(voices)], audio / f"{turn:05}.flac"))
        for phrase, turn in turns
    ]


def _assign_intents(
    trained: Sequence[Phrase], tests: int, seed: int, folder: Path
) -> dict[str, list[Spoken]]:
    """Recordings of every evaluated intent by split, `tests` of them to be measured."""
    counts = {"train": 2 * tests, "test": tests}
    sentences = intent_sentences(trained, shots=2 * tests, tests=tests, seed=seed)
    (folder / "audio").mkdir(parents=True)
    parts: dict[str, list[Spoken]] = {split: [] for split in counts}
    for split, part in parts.items():
        for shift, phrases_of in enumerate(sentences[split].values()):
            for place, voice in turns(len(phrases_of), counts[split], len(TEST_VOICES)):
                path = folder / "audio" / f"{split}-{len(part):05}.flac"
                speaker = TEST_VOICES[(shift + voice) % len(TEST_VOICES)]
                part.append((phrases_of[place], Utterance(phrases_of[place].wolof, speaker, path)))
    return parts


def _write_intents(folder: Path, parts: Mapping[str, Sequence[Spoken]]) -> None:
    for split, part in parts.items():
        _write_lines(
            folder / f"{split}.jsonl",
            (
                {
                    "id": utterance.path.stem,
                    "audio": utterance.path.relative_to(folder).as_posix(),
                    "text": phrase.wolof,
                    "label": phrase.intent,
                    "speaker": utterance.voice.name,
                }
                for phrase, utterance in part
            ),
        )
    labels = ({"label": i, "label_text": LABEL_TEXTS[i], "unseen": True} for i in EVALUATED)
    _write_lines(folder / "labels.jsonl", labels)


def _write_manifest(folder: Path, spoken: Sequence[Spoken]) -> None:
    """The manifest and, once for each sentence, the text pairs."""
    documents = {phrase: f"train-{i:05}" for i, phrase in enumerate(dict(spoken))}
    _write_lines(
        folder / "train.jsonl",
        (
            {
                "id": f"train-{utterance.path.stem}",
                "audio": utterance.path.relative_to(folder).as_posix(),
                "text": phrase.french,
                "task": TASK,
                "transcript": phrase.wolof,
                "language": "wol",
                "speaker": utterance.voice.name,
                "document_id": documents[phrase],
            }
            for phrase, utterance in spoken
        ),
    )
    _write_lines(
        folder / "text_pairs.jsonl",
        ({"query": p.wolof, "document": p.french, "task_type": TASK} for p in documents),
    )


def _write_set(folder: Path, spoken: Sequence[Spoken]) -> None:
    # Imported here, as it imports JAX, which the speech processes must not load.
    from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set

    queries, corpus, qrels = [], [], {}
    for phrase, u in spoken:
        query, document = f"q{u.path.stem}", f"d{u.path.stem}"
        known = {"task": TASK, "speaker": u.voice.name, "transcript": phrase.wolof}
        queries.append(Query(id=query, audio=u.path, **known))
        corpus.append(Document(id=document, text=phrase.french))
        qrels[query] = {document: 1}
    write_retrieval_set(folder, queries, corpus, qrels)


def _write_lines(file: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as lines:
        lines.writelines(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
