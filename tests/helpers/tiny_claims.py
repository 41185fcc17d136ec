"""The data of the claims benchmark in small: the same folders and tables, tones for speech."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

LANGUAGES = ("en", "fr", "es", "it", "ru")


def tone(seconds: float, hertz: float, sample_rate: int) -> np.ndarray:
    times = np.arange(int(seconds * sample_rate)) / sample_rate
    return (0.5 * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def write_audio(path: Path, clip: np.ndarray, sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, clip, sample_rate)


def write_table(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    (folder / "table.jsonl").write_text(text, encoding="utf-8")


def write_mboshi_data(folder: Path, *, train: int = 60, dev: int = 20) -> None:
    """Its last two training rows say a sentence of dev: one by transcript, one by translation."""
    rows = []
    for number in range(train + dev):
        name, split = f"c{number}", "train" if number < train else "dev"
        write_audio(folder / "audio" / f"{name}.wav", tone(0.6, 200 + 5 * number, 16_000), 16_000)
        rows.append(
            {
                "id": name,
                "audio": f"audio/{name}.wav",
                "text": f"Phrase {number} ici.",
                "transcript": f"mbo {number} shi",
                "speaker": f"s{number % 3}",
                "split": split,
                "seconds": 0.6,
            }
        )
    rows[train - 1]["transcript"] = f"Mbo {train} SHI!"
    rows[train - 2]["text"] = f"phrase {train + 1} ici"
    write_table(folder, rows)


def write_digits_data(folder: Path, speakers: Sequence[str], takes: Sequence[int]) -> None:
    for (place, who), digit, take in itertools.product(enumerate(speakers), range(10), takes):
        clip = tone(0.3, 150 + 100 * place + 20 * digit + take, 8_000)
        write_audio(folder / "recordings" / f"{digit}_{who}_{take}.wav", clip, 8_000)


def write_arabic_data(folder: Path, *, words: int = 8, takes: int = 2) -> None:
    speakers = {"train": 4, "val": 2}
    rows = []
    for split, count in speakers.items():
        for who, word in itertools.product(range(count), range(words)):
            name = f"{split}{who:02d}-w{word}"
            slots = [np.zeros(16_000, np.float32) for _ in range(takes)]
            for take, slot in enumerate(slots):
                slot[4_000:9_000] = tone(5 / 16, 200 + 50 * word + 3 * take, 16_000)
            write_audio(folder / "audio" / f"{name}.wav", np.concatenate(slots), 16_000)
            rows.append(
                {
                    "audio": f"audio/{name}.wav",
                    "word": f"w{word}",
                    "french": f"mot{word}",
                    "speaker": f"{split}{who:02d}",
                    "split": split,
                    "takes": takes,
                }
            )
    write_table(folder, rows)


def write_asterisk_data(folder: Path, *, prompts: int = 30) -> None:
    """All prompts in all languages, and one English prompt more for each that says the same."""
    rows = []
    for number, language in itertools.product(range(2 * prompts), LANGUAGES):
        if number >= prompts and language != "en":
            continue
        name, said = f"p{number}", number % prompts
        audio = f"audio/{language}/{name}.wav"
        write_audio(folder / audio, tone(0.4, 200 + number, 8_000), 8_000)
        rows.append(
            {
                "id": f"{language}:{name}",
                "prompt": name,
                "language": language,
                "audio": audio,
                "transcript": f"{language} says {said}{'!' if number >= prompts else '.'}",
                "seconds": 0.4,
            }
        )
    write_table(folder, rows)
