"""Parquet tables as the hub has them, with recordings inside: short tones."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
soundfile = pytest.importorskip("soundfile")


def tone(hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * np.arange(1600) / 16000)).astype(np.float32)


def wav(hertz: float) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(hertz), 16000, format="WAV")
    return file.getvalue()


AUDIO = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])


def write_hub(path: Path, rows: list[dict], features: dict | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if "audio" in table.column_names:
        place = table.column_names.index("audio")
        audio = pyarrow.array([row["audio"] for row in rows], AUDIO)
        table = table.set_column(place, "audio", audio)
    message = {"huggingface": json.dumps({"info": {"features": features or {}}})}
    parquet.write_table(table.replace_schema_metadata(message), path)
