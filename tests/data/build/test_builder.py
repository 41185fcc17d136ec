"""Data sets built from recordings made on the spot, read back, rebuilt, killed, damaged."""

import dataclasses
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import damaged

from mrl_jax.core.cli import run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.decode import decode_clip, load_clip
from mrl_jax.data.audio.encode import quantize
from mrl_jax.data.build import records
from mrl_jax.data.build.__main__ import main, parse_columns
from mrl_jax.data.build.builder import BuildOptions, BuildReport, build_dataset
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.data.build.info import INDEX_COLUMNS, read_build

for needed in ("librosa", "soundfile", "tensorflow_datasets", "array_record", "pyarrow"):
    pytest.importorskip(needed)

import pyarrow  # noqa: E402
import soundfile  # noqa: E402
from pyarrow import parquet  # noqa: E402

from mrl_jax.data.build.tfds_builder import SpeechDataBuilder  # noqa: E402

RATE = 16000
LENIENT = BuildOptions(max_broken_fraction=1.0)


def tone(seconds: float, seed: int = 0, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (200 + 37 * seed) * time)).astype(np.float32)


def manifest(folder: Path, names: list[str], **columns: list[Any]) -> Path:
    """A manifest of recordings in its own folder, whose ids are their names."""
    path = folder / "manifest.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for row, name in enumerate(names):
            extra = {key: values[row] for key, values in columns.items()}
            example = {"id": name, "audio": name, "text": f"Texte n° {row}"} | extra
            file.write(json.dumps(example, ensure_ascii=False) + "\n")
    return path


def recordings(folder: Path, count: int = 4) -> Path:
    names = [f"{seed}.wav" for seed in range(count)]
    for seed, name in enumerate(names):
        soundfile.write(folder / name, tone(0.2 + 0.05 * seed, seed), RATE)
    return manifest(folder, names)


def refusal(call: Any, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(MrlError) as error:
        call(*args, **kwargs)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, BuildReport]:
    """A folder of recordings in many formats, and what was built of it."""
    folder = tmp_path_factory.mktemp("built")
    soundfile.write(folder / "a.wav", tone(0.5, 1), RATE, subtype="PCM_16")
    soundfile.write(folder / "b.flac", tone(0.4, 2, 44100), 44100)
    soundfile.write(folder / "c.mp3", tone(0.6, 3), RATE)
    soundfile.write(folder / "d.ogg", tone(0.6, 4, 8000), 8000)
    soundfile.write(folder / "e.wav", 1.3 * tone(0.3, 5) / 0.3, RATE, subtype="FLOAT")
    eight = np.stack([tone(0.5, 6, 200000) * k / 4 for k in range(8)], 1)
    soundfile.write(folder / "f.wav", eight, 200000, subtype="FLOAT")
    path = manifest(
        folder,
        ["b.flac", "a.wav", "f.wav", "c.mp3", "e.wav", "d.ogg"],
        split=["train", "test", "train", "train", "test", "train"],
        task=["", "t", "u", "", "", ""],
        speaker=[1, 2, None, 3, 4, 5],
        language=["wo", None, "fr", "wo", "wo", "wo"],
        transcript=["x", "y", None, "z", "w", "v"],
        document_id=["d1", None, None, 7, None, None],
    )
    return folder, path, build_dataset(path, folder / "out")


def test_order_and_columns(built):
    folder, _, report = built
    assert report.examples == {"train": 4, "test": 2}
    assert report.skipped == ()
    assert not report.reused
    train, test = open_dataset(folder / "out"), open_dataset(folder / "out", split="test")
    assert (len(train), len(test)) == (4, 2)
    assert train.ids == ["b.flac", "f.wav", "c.mp3", "d.ogg"]
    assert train.texts == ["Texte n° 0", "Texte n° 2", "Texte n° 3", "Texte n° 5"]
    assert train.tasks == ["", "u", "", ""]
    assert train.speakers == ["1", None, "3", "5"]
    assert train.languages == ["wo", "fr", "wo", "wo"]
    assert train.transcripts == ["x", None, "z", "v"]
    assert train.document_ids == ["d1", "Texte n° 2", "7", "Texte n° 5"]
    assert train.num_samples.dtype == np.int64
    assert train.num_samples[:2].tolist() == [6400, 8000]
    assert train.sample_rate == RATE
    assert train.digest == report.digest == test.digest
    assert report.seconds["train"] == pytest.approx(train.num_samples.sum() / RATE)
    assert test.ids == ["a.wav", "e.wav"]
    assert not list(folder.glob(".out*"))


def test_clips_are_what_load_clip_gives_in_16_bits(built):
    folder = built[0]
    for split in ("train", "test"):
        dataset = open_dataset(folder / "out", split=split)
        for index, name in enumerate(dataset.ids):
            clip, source = dataset.clip(index), load_clip(folder / name, RATE)
            assert clip.dtype == np.float32
            assert clip.shape == (dataset.num_samples[index],) == source.shape
            expected = np.clip(np.rint(source * 32768.0), -32768, 32767) / 32768
            np.testing.assert_array_equal(clip, expected.astype(np.float32))
            if name == "a.wav":
                np.testing.assert_array_equal(clip, source)  # It had 16 bits.
            elif name == "e.wav":
                assert (clip.min(), clip.max()) == (-1, 32767 / 32768)
                assert source.max() > 1.2
            else:
                assert 0 < np.abs(clip - source).max() <= 2**-16
    with pytest.raises(IndexError, match="clip 2 of 2"):
        dataset.clip(2)
    with pytest.raises(IndexError):
        dataset.clip(-1)


def test_rounding_is_to_the_nearest_and_limited():
    values = np.asarray([0, 0.49, 0.51, -1.6, 32767.4, 40000, -40000], np.float32) / 32768
    assert quantize(values).tolist() == [0, 0, 1, -2, 32767, 32767, -32768]


def test_a_data_set_is_read_by_threads_and_pickled(built):
    dataset = open_dataset(built[0] / "out")
    copy = pickle.loads(pickle.dumps(dataset))
    assert (copy.ids, copy.split, len(copy)) == (dataset.ids, "train", 4)
    with ThreadPoolExecutor(8) as pool:
        clips = list(pool.map(copy.clip, [0, 1, 2, 3] * 10))
    for index, clip in enumerate(clips):
        np.testing.assert_array_equal(clip, dataset.clip(index % 4))
    assert not np.array_equal(clips[0], clips[1])


def digest(path: Path, out: Path, **options: Any) -> tuple[str, bool]:
    report = build_dataset(path, out, options=BuildOptions(**options), overwrite=True)
    return report.digest, report.reused


def test_what_has_not_changed_is_not_built_again(tmp_path):
    path, out = recordings(tmp_path), tmp_path / "out"
    first, reused = digest(path, out)
    assert not reused
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert digest(path, out) == (first, True)
    report = build_dataset(path, out)
    assert report.reused
    assert report.examples == {"train": 4}
    assert before == {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path, moved, ignore=shutil.ignore_patterns("moved"))
    assert digest(moved / path.name, moved / "out") == (first, True)


def test_any_change_is_noticed(tmp_path):
    path, out = recordings(tmp_path), tmp_path / "out"
    first, _ = digest(path, out)
    audio, text = tmp_path / "1.wav", path.read_text(encoding="utf-8")
    original = audio.read_bytes()

    def change_audio() -> None:
        audio.write_bytes(damaged(original))

    def change_text() -> None:
        path.write_text(text.replace("n° 2", "n° 9"), encoding="utf-8")

    for change, part in ((change_audio, "recordings"), (change_text, "examples")):
        change()
        message = refusal(build_dataset, path, out)
        assert message.startswith(
            f"{out}: is a data set that was built before the {part} changed. "
        )
        assert "--overwrite" in message
        second, reused = digest(path, out)
        assert (second != first, reused) == (True, False)
        audio.write_bytes(original)
        path.write_text(text, encoding="utf-8")
        assert digest(path, out) == (first, False)
    for options in (
        BuildOptions(max_seconds=19.0),
        BuildOptions(min_seconds=0.11),
        BuildOptions(long="cut"),
    ):
        message = refusal(build_dataset, path, out, options=options)
        assert "before the options changed" in message
    second, reused = digest(path, out, sample_rate=8000)
    assert (second != first, reused) == (True, False)
    assert open_dataset(out).num_samples[0] == 1600
    swapped = "".join(text.splitlines(keepends=True)[::-1])
    path.write_text(swapped, encoding="utf-8")
    assert digest(path, out)[0] != first
    assert open_dataset(out).ids[0] == "3.wav"


def test_weights_travel_with_the_data_set(tmp_path):
    """Without any, digests and index are those of data sets from before there were weights."""
    names, splits = ["0.wav", "1.wav", "2.wav"], ["train", "train", "test"]
    recordings(tmp_path, 3)
    plain = manifest(tmp_path, names, split=splits)
    build_dataset(plain, tmp_path / "plain")
    assert open_dataset(tmp_path / "plain").weights is None
    index = parquet.read_table(tmp_path / "plain" / "index" / "train.parquet")
    assert set(index.column_names) == set(INDEX_COLUMNS)
    # `BuildInfo.parts["examples"]` of this manifest at commit f8d2610, which knew no weights.
    examples = read_build(tmp_path / "plain").parts["examples"]
    assert examples == "4945124336f45bf5cb71dbaefeb85a20316d84dc5173aa69379e3a2fd57e1a4c"
    manifest(tmp_path, names, split=splits, weight=[1, 1.0, None])
    assert build_dataset(plain, tmp_path / "plain").reused
    manifest(tmp_path, names, split=splits, weight=[1, 0.25, None])
    assert "before the examples changed" in refusal(build_dataset, plain, tmp_path / "plain")
    build_dataset(plain, tmp_path / "weighted")
    weights = open_dataset(tmp_path / "weighted").weights
    assert weights is not None
    assert weights.tolist() == [1.0, 0.25]
    assert open_dataset(tmp_path / "weighted", "test").weights is None
    table = parquet.read_table(tmp_path / "weighted" / "index" / "train.parquet")
    damaged = table.set_column(len(table.columns) - 1, "weight", [[1.0, -1.0]])
    parquet.write_table(damaged, tmp_path / "weighted" / "index" / "train.parquet")
    assert "a weight is no number above 0" in refusal(
        open_dataset, tmp_path / "weighted", verify=False
    )


def test_another_format_is_another_data_set(tmp_path):
    path, out = recordings(tmp_path, 1), tmp_path / "out"
    build_dataset(path, out)
    build = json.loads((out / "build.json").read_text())
    other = {"format": 0, "digest": "another", "parts": build["parts"] | {"format": "0"}}
    (out / "build.json").write_text(json.dumps(other))
    assert "before the format changed" in refusal(build_dataset, path, out)


def test_unchanged_files_are_not_hashed_again(tmp_path):
    path, out = recordings(tmp_path, 2), tmp_path / "out"
    old, new = tmp_path / "0.wav", tmp_path / "1.wav"
    hour_ago = time.time_ns() - 3600 * 10**9
    os.utime(old, ns=(hour_ago, hour_ago))
    build_dataset(path, out)
    # Only a settled file is remembered, for a new one may change within one tick.
    (remembered,) = [json.loads(line) for line in (out / "sources.jsonl").read_text().splitlines()]
    assert remembered[:3] == [str(old), old.stat().st_size, hour_ago]
    for audio, noticed in ((old, False), (new, True)):
        stat = audio.stat()
        audio.write_bytes(damaged(audio.read_bytes()))
        os.utime(audio, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        if noticed:
            assert "recordings changed" in refusal(build_dataset, path, out)
        else:
            assert build_dataset(path, out).reused
    os.utime(old)
    (out / "sources.jsonl").write_text("not\njson")  # A memory, without which files are read.
    assert "recordings changed" in refusal(build_dataset, path, out)


def bad_recordings(folder: Path) -> dict[str, str]:
    """One file of each kind that cannot be used, and the reason given for it."""

    def wav(name: str, samples: np.ndarray) -> None:
        soundfile.write(folder / name, samples, RATE, subtype="FLOAT")

    nan = tone(0.5)
    nan[100:102] = np.nan
    wav("nan.wav", nan)
    wav("infinite.wav", np.where(np.arange(8000) == 9, np.inf, tone(0.5)))
    wav("silent.wav", np.zeros(8000))
    wav("hushed.wav", tone(0.5) * 1e-5)
    wav("opposed.wav", np.stack([tone(0.5), -tone(0.5)], 1))
    wav("integers.wav", tone(0.5) * 32768)
    wav("none.wav", np.zeros(0))
    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("hello")
    (folder / "folder.wav").mkdir()
    head = b"\x00\x00\x00\x20ftypM4A \x00\x00\x00\x00M4A mp42isom\x00"
    (folder / "clip.m4a").write_bytes(head + bytes(2000))
    for name in ("cut.wav", "cut.flac"):
        soundfile.write(folder / name, tone(0.5), RATE)
        (folder / name).write_bytes((folder / name).read_bytes()[:-900])
    undecodable = "cannot be decoded as audio "
    return {
        "nan.wav": "2 of 8000 samples are NaN or infinite, the first is 100",
        "infinite.wav": "1 of 8000 samples are NaN or infinite, the first is 9",
        "silent.wav": "is silent: all samples are zero",
        "hushed.wav": "is silent: all samples are zero in 16 bits",
        "opposed.wav": "its 2 channels cancel each other when they are mixed (antiphase): "
        "keep one of them",
        "integers.wav": "samples reach 9830.4, expected floats from -1 to 1: they look like "
        "16-bit whole numbers, so divide them by 32768",
        "none.wav": "holds no samples",
        "empty.wav": undecodable + "(the file is empty)",
        "text.wav": undecodable + "(the file is text, it begins 'hello')",
        "folder.wav": "is a folder, expected a file",
        "absent.wav": "no such file",
        "clip.m4a": undecodable + "(MPEG-4 audio, m4a, is not supported)",
        "cut.wav": undecodable + "(the file is truncated: its end is missing)",
        "cut.flac": undecodable + "(flac decoder lost sync)",
    }


def test_broken_recordings_are_named_counted_and_left_out(tmp_path, capsys):
    reasons = bad_recordings(tmp_path)
    soundfile.write(tmp_path / "good.wav", tone(0.5), RATE)
    soundfile.write(tmp_path / "good.flac", tone(0.3), RATE)
    names = ["good.wav", *reasons, "good.flac"]
    path, out = manifest(tmp_path, names), tmp_path / "out"
    message = refusal(build_dataset, path, out)
    assert message.startswith(
        "11 recordings or more of 16 are broken, and 0 may be: "
        f"{tmp_path}/nan.wav (nan.wav): 2 of 8000 samples are NaN"
    )
    assert message.count(": ") < 20
    assert not out.exists()
    few = BuildOptions(max_broken_fraction=13 / 16)
    message = refusal(build_dataset, path, out, options=few)
    assert message.startswith("14 recordings of 16 are broken, and 13 may be: ")
    assert not out.exists()
    enough = BuildOptions(max_broken_fraction=14 / 16)
    report = build_dataset(path, out, options=enough)
    assert {skipped.id: skipped.reason for skipped in report.skipped} == reasons
    assert [skipped.id for skipped in report.skipped] == list(reasons)
    assert {skipped.kind for skipped in report.skipped} == {"broken"}
    assert open_dataset(out).ids == ["good.wav", "good.flac"]
    reused = build_dataset(path, out, options=enough)
    assert reused == dataclasses.replace(report, reused=True)
    capsys.readouterr()
    command = [str(path), str(out), "--max-broken-fraction", "0.875"]
    assert run_command(main, command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        f"{out}: unchanged, kept: train 2 clips of 0.00 h; left out: {len(reasons)} broken"
    )
    assert lines[1].startswith(f"  left out, broken: {tmp_path}/nan.wav (nan.wav): 2 of 8000")
    assert lines[-1] == f"  and 4 more, in {out}/build.json"
    assert len(lines) == 12


def test_a_path_to_no_file_is_one_broken_recording(tmp_path):
    soundfile.write(tmp_path / "good.wav", tone(0.5), RATE)
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    (tmp_path / "endless.wav").symlink_to("/dev/zero")
    long = "a" * 300
    names = ["pipe.wav", "loop.wav", "endless.wav", long, "good.wav/b.wav", "good.wav"]
    report = build_dataset(manifest(tmp_path, names), tmp_path / "out", options=LENIENT)
    assert {skipped.id: skipped.reason for skipped in report.skipped} == {
        "pipe.wav": "is a named pipe, expected a file",
        "loop.wav": "is a loop of symbolic links",
        "endless.wav": "is a device, expected a file",
        long: f"is too long for a path: {len(str(tmp_path)) + 301} bytes",
        "good.wav/b.wav": "no such file",
    }
    assert {skipped.kind for skipped in report.skipped} == {"broken"}
    assert open_dataset(tmp_path / "out").ids == ["good.wav"]
    assert build_dataset(tmp_path / "manifest.jsonl", tmp_path / "out", options=LENIENT).reused


def test_limits_of_length(tmp_path):
    lengths = {"a.wav": 0.0999, "b.wav": 0.1, "c.wav": 1.0, "d.wav": 1.0001, "e.wav": 3.0}
    for name, seconds in lengths.items():
        soundfile.write(tmp_path / name, tone(seconds, rate=48000), 48000)
    flac = io.BytesIO()
    soundfile.write(flac, tone(1.5), RATE, format="FLAC")
    unknown = bytearray(flac.getvalue())  # A stream that does not tell its length.
    unknown[21] &= 0xF0
    unknown[22:26] = bytes(4)
    (tmp_path / "f.flac").write_bytes(unknown)
    path = manifest(tmp_path, [*lengths, "f.flac"])
    options = BuildOptions(max_seconds=1.0, max_broken_fraction=0.0)
    report = build_dataset(path, tmp_path / "skip", options=options)
    assert [(s.id, s.kind, s.reason) for s in report.skipped] == [
        ("a.wav", "short", "0.10 s, shorter than 0.1 s"),
        ("d.wav", "long", "1.00 s, longer than 1 s"),
        ("e.wav", "long", "3.00 s, longer than 1 s"),
        ("f.flac", "long", "longer than 1 s"),
    ]
    assert open_dataset(tmp_path / "skip").num_samples.tolist() == [1600, 16000]
    options = dataclasses.replace(options, long="cut")
    report = build_dataset(path, tmp_path / "cut", options=options)
    assert [s.id for s in report.skipped] == ["a.wav"]
    cut = open_dataset(tmp_path / "cut")
    assert cut.num_samples.tolist() == [1600, 16000, 16000, 16000, 16000]
    whole = load_clip(tmp_path / "e.wav", RATE)
    assert np.abs(cut.clip(3) - whole[:16000]).max() < 1e-4
    assert np.abs(cut.clip(3) - whole[1:16001]).max() > 0.01


def test_a_long_recording_is_refused_without_decoding_it(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    soundfile.write(tmp_path / "b.wav", tone(0.5), RATE)
    path = tmp_path / "b.wav"
    with path.open("r+b") as file:  # 3 hours; a hole, on disk it takes nothing.
        file.truncate(44 + 2 * RATE * 3 * 3600)
        for start, size in ((4, 36), (40, 0)):
            file.seek(start)
            file.write((2 * RATE * 3 * 3600 + size).to_bytes(4, "little"))
    decoded = []
    monkeypatch.setattr(
        records,
        "decode_clip",
        lambda source, *a, **k: decoded.append(source) or decode_clip(source, *a, **k),
    )
    report = build_dataset(manifest(tmp_path, ["a.wav", "b.wav"]), tmp_path / "out")
    assert [s.reason for s in report.skipped] == ["10800.00 s, longer than 20 s"]
    assert decoded == [tmp_path / "a.wav"]


def test_a_split_without_recordings_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), RATE)
    soundfile.write(tmp_path / "b.wav", tone(0.05), RATE)
    path = manifest(tmp_path, ["a.wav", "b.wav"], split=["train", "test"])
    message = refusal(build_dataset, path, tmp_path / "out")
    assert message.startswith("the split 'test' has no recording left: ")
    assert "b.wav: 0.05 s, shorter than 0.1 s" in message
    assert not (tmp_path / "out").exists()


def test_the_number_of_threads_changes_nothing(tmp_path):
    path = recordings(tmp_path, 30)
    one = build_dataset(path, tmp_path / "one", workers=1)
    many = build_dataset(path, tmp_path / "many", workers=8)
    assert one.digest == many.digest
    first, second = open_dataset(tmp_path / "one"), open_dataset(tmp_path / "many")
    assert first.ids == second.ids == [f"{seed}.wav" for seed in range(30)]
    for index in range(30):
        np.testing.assert_array_equal(first.clip(index), second.clip(index))


def test_parquet_folders(tmp_path):
    source = tmp_path / "hub" / "data"
    source.mkdir(parents=True)

    def encoded(seed: int) -> bytes:
        file = io.BytesIO()
        soundfile.write(file, quantize(tone(0.2, seed)), RATE, format="WAV")
        return file.getvalue()

    audio = [{"bytes": encoded(seed), "path": f"{seed}.wav"} for seed in range(40)]
    audio[7]["bytes"] = None
    table = pyarrow.table({"audio": audio, "text": [f"t{seed}" for seed in range(40)]})
    parquet.write_table(table, source / "train-00000-of-00001.parquet", row_group_size=9)
    parquet.write_table(table[:3], source / "test-00000-of-00001.parquet")
    report = build_dataset(tmp_path / "hub", tmp_path / "out", options=LENIENT)
    assert report.examples == {"test": 3, "train": 39}
    (skipped,) = report.skipped
    assert skipped.audio == f"{source}/train-00000-of-00001.parquet, row 8"
    assert skipped.reason == "no such file"
    train = open_dataset(tmp_path / "out")
    assert train.ids == [f"train-{row}" for row in range(40) if row != 7]
    assert train.texts[-1] == "t39"
    np.testing.assert_array_equal(train.clip(38), quantize(tone(0.2, 39)) / np.float32(32768))
    assert build_dataset(tmp_path / "hub", tmp_path / "out", options=LENIENT).reused
    audio[30]["bytes"] = encoded(99)
    table = table.set_column(0, "audio", pyarrow.array(audio))
    parquet.write_table(table, source / "train-00000-of-00001.parquet")
    message = refusal(build_dataset, tmp_path / "hub", tmp_path / "out", options=LENIENT)
    assert "before the recordings changed" in message


def test_large_splits_are_streamed_in_order(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    made, ahead = 0, 0

    def clips() -> Iterator[tuple[str, bytes]]:
        nonlocal made
        for made in range(1, 701):
            yield f"clip {made}", bytes([made % 256]) * 20000

    def add_examples(self: Any, examples: dict[str, list[Any]]) -> None:
        nonlocal ahead
        ahead = max(ahead, made - written.get("train", 0))
        written["train"] = made
        real(self, examples)

    written: dict[str, int] = {}
    real = tfds.core.SequentialWriter.add_examples
    monkeypatch.setattr(tfds.core.SequentialWriter, "add_examples", add_examples)
    splits = {"train": clips(), "test": iter([("x", b"y")])}
    builder = SpeechDataBuilder(clips=splits, data_dir=tmp_path, shard=256)
    builder.download_and_prepare()
    assert ahead == 64  # Records in memory, whatever the size of the split.
    files = sorted(path.name for path in tmp_path.rglob("*.array_record*"))
    assert [name.split(".")[0].removeprefix("speech_data-") for name in files] == [
        "test",
        "train",
        "train",
        "train",
    ]
    read: Any = tfds.builder_from_directory(builder.data_dir)  # TFDS hides its parameters.
    source = read.as_data_source(split="train")
    assert len(source) == 700
    for index in (0, 255, 256, 511, 512, 699):
        row = source[index]
        assert row["id"] == b"clip %d" % (index + 1)
        assert row["flac"] == bytes([(index + 1) % 256]) * 20000


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"min_seconds": 5.0, "max_seconds": 5.0}, "clips from 5 to 5 seconds"),
        ({"min_seconds": -1.0}, "clips from -1 to 20 seconds"),
        ({"max_seconds": float("nan")}, "clips from 0.1 to nan seconds"),
        ({"long": "drop"}, "long: 'drop', expected 'skip' or 'cut'"),
        ({"sample_rate": 0}, "sample_rate: 0, expected 1000 to 192000"),
        ({"max_broken_fraction": 1.5}, "max_broken_fraction: 1.5, expected 0 to 1"),
    ],
)
def test_options_are_checked(option, message):
    assert message in refusal(BuildOptions, **option)


def test_columns_of_the_command():
    assert parse_columns(["text=fr", "id="]).text == "fr"
    assert parse_columns(["text=fr", "id="]).id is None
    for wrong in ("text", "text=", "words=fr", "=x"):
        assert f"--column: '{wrong}', expected FIELD=NAME" in refusal(parse_columns, [wrong])


def test_the_command(tmp_path, capsys):
    path, out = recordings(tmp_path), tmp_path / "out"
    assert run_command(main, [str(path), str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}: built: train 4 clips of 0.00 h; left out: nothing\n"
    assert run_command(main, [str(path), str(out), "--max-seconds", "0.26", "--long", "cut"]) == 2
    assert capsys.readouterr().err.startswith(f"error: {out}: is a data set that was built before")
    command = [str(path), str(out), "--max-seconds", "0.26", "--min-seconds", "0.22"]
    assert run_command(main, [*command, "--overwrite"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("train 1 clips of 0.00 h; left out: 1 short, 2 long")
    assert len(lines) == 4
    for wrong, message in (
        ([str(path)], "the following arguments are required: out"),
        ([str(path), str(out), "--long", "x"], "--long is 'x', expected one of"),
        ([str(path), str(out), "--workers", "0"], "--workers: 0, expected 1 or more"),
        ([str(tmp_path / "no.jsonl"), str(out)], "no.jsonl: no such file"),
        ([str(path), str(tmp_path), "--overwrite"], "the output would replace its own source"),
    ):
        assert run_command(main, wrong) == 2
        shown = capsys.readouterr()
        assert message in shown.err
        assert shown.err.count("\n") == 1


def test_other_folders_are_not_replaced(tmp_path):
    path, out = recordings(tmp_path, 1), tmp_path / "out"
    out.mkdir()
    (out / "precious").touch()
    assert "the output exists already" in refusal(build_dataset, path, out)
    assert "holds something else" in refusal(build_dataset, path, out, overwrite=True)
    assert (out / "precious").exists()


def test_folders_that_are_no_data_set_are_refused(built, tmp_path):
    folder = built[0] / "out"
    assert refusal(open_dataset, tmp_path / "x").startswith(f"{tmp_path}/x: no such folder")
    assert "is not a built data set: there is no build.json" in refusal(open_dataset, tmp_path)
    message = refusal(open_dataset, folder, split="dev")
    assert message.startswith(f"{folder}: no split 'dev'; there are: train, test")

    def damaged(name: str) -> Path:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        assert len(open_dataset(copy)) == 4
        return copy

    def unverified(copy: Path) -> SpeechDataset:
        return open_dataset(copy, verify=False)

    copy = damaged("index")
    table = parquet.read_table(copy / "index" / "train.parquet")
    parquet.write_table(table[:3], copy / "index" / "train.parquet")
    message = refusal(open_dataset, copy)
    assert "index/train.parquet: is not the file that was written" in message
    assert "mrl-jax checksum --update" in message
    assert "has 4 records and 3 rows in its index, expected 4" in refusal(unverified, copy)
    (copy / "index" / "train.parquet").write_bytes(b"PAR1")
    assert "train.parquet: cannot be read as Parquet (" in refusal(unverified, copy)
    (copy / "index" / "train.parquet").unlink()
    assert "train.parquet: is missing, and build.json names it" in refusal(open_dataset, copy)
    assert "train.parquet: cannot be read as Parquet (" in refusal(unverified, copy)

    copy = damaged("order")
    parquet.write_table(table.take([1, 0, 2, 3]), copy / "index" / "train.parquet")
    message = refusal(unverified(copy).clip, 0)
    assert (
        "the record 0 of split 'train' is damaged (found (6400,) samples of 'b.flac', " in message
    )

    copy = damaged("format")
    build = json.loads((copy / "build.json").read_text())
    (copy / "build.json").write_text(json.dumps(build | {"format": 99}))
    assert (
        "build.json: cannot be read as the description of a data set (the format is not 1)"
        in refusal(open_dataset, copy)
    )
    (copy / "build.json").write_text("{")
    assert "build.json: cannot be read as the description of a data set (" in refusal(
        open_dataset, copy
    )

    copy = damaged("records")
    (record,) = copy.glob("speech_data/1.0.0/*train*")
    record.write_bytes(record.read_bytes()[:70000])
    assert "build it again" in refusal(lambda: open_dataset(copy).clip(0)).lower()
    record.unlink()
    assert "build it again" in refusal(lambda: open_dataset(copy).clip(0)).lower()


def test_a_killed_build_leaves_nothing_under_its_name(tmp_path):
    recordings(tmp_path)
    path, out = tmp_path / "many.jsonl", tmp_path / "out"
    rows = [{"id": row, "audio": f"{row % 4}.wav", "text": f"t{row}"} for row in range(4000)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "mrl_jax.data.build", str(path), str(out)]
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        writing = f".out.partial-*-{process.pid}/**/*.array_record*"
        while not list(tmp_path.glob(writing)) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode in (-number, 128 + number), errors
        assert not out.exists()
        # What a kill leaves behind is cleared by the next build.
        assert len(list(tmp_path.glob(".out.partial-*"))) == (number == signal.SIGKILL)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:50]))
    build_dataset(path, out)
    assert not list(tmp_path.glob(".out.partial-*"))
    assert len(open_dataset(out)) == 50


def test_a_data_set_imports_no_module_that_it_names(built, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(built[0] / "out", copy)
    path = copy / "speech_data" / "1.0.0" / "features.json"
    (tmp_path / "evil_features.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    path.write_text(json.dumps({"pythonClassName": "evil_features.Feature"}))
    assert "features.json: is not the file that was written" in refusal(open_dataset, copy)
    data = open_dataset(copy, verify=False)
    assert data.clip(0).shape == (data.num_samples[0],)
    assert "evil_features" not in sys.modules
