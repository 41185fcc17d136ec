"""FLEURS in the formats it is published in, with a few sentences."""

from pathlib import Path

import pytest
from hub_tables import wav, write_hub

from mrl_jax.data.sets.named_sets import load_retrieval_set

# FLEURS: sentences 0 to 3, each read once or more; 2 is not in French, 9 not in Wolof.
WOLOF = [
    (0, "Naka nga def?"),
    (1, "Jàmm rekk."),
    (0, "Naka nga def?"),
    (2, "Waaw."),
    (3, "Déédéet"),
]
FRENCH = [
    (1, "La paix seulement."),
    (0, "Comment vas-tu ?"),
    (9, "Autre."),
    (1, "La paix seulement."),
    (3, "Non."),
]
LANGUAGES = ["af_za", "fr_fr", "wo_sn"]
CLASSES = {
    "gender": {"names": ["male", "female", "other"], "_type": "ClassLabel"},
    "lang_id": {"names": LANGUAGES, "_type": "ClassLabel"},
}


def fleurs_row(code: str, number: int, index: int, text: str) -> dict:
    return {
        "id": number,
        "num_samples": 1600,
        "path": f"/cache/{code}/{index}.wav",
        "audio": {"bytes": wav(300 + 50 * index), "path": f"{index}.wav"},
        "transcription": text.lower(),
        "raw_transcription": text,
        "gender": index % 3,
        "lang_id": LANGUAGES.index(code),
        "language": "Wolof",
        "lang_group_id": 3,
    }


def make_fleurs(folder: Path, form: str) -> Path:
    for code, sentences in (("wo_sn", WOLOF), ("fr_fr", FRENCH)):
        rows = [fleurs_row(code, n, i, text) for i, (n, text) in enumerate(sentences)]
        if form == "shards":  # The older form of the hub's conversion.
            write_hub(folder / code / "fleurs-test-00000-of-00002.parquet", rows[:2], CLASSES)
            write_hub(folder / code / "fleurs-test-00001-of-00002.parquet", rows[2:], CLASSES)
        else:
            write_hub(folder / code / "test" / "0000.parquet", rows, CLASSES)
        write_hub(folder / code / "train" / "0000.parquet", rows[:1], CLASSES)
    return folder


def read(name: str, left_out: tuple[int, int]):
    message = f"left out {left_out[0]} queries and {left_out[1]} documents"
    with pytest.warns(UserWarning, match=message):
        return load_retrieval_set(name)
