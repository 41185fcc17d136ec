"""Hours of audio decoded, resampled and batched in a second on one core, beside PyTorch's way.

    python benchmarks/input.py --recordings ../shared/data/fsdd/recordings [--rounds 3]

Real speech, joined into recordings of about ten seconds and written as FLAC at 44.1 kHz; batches
of 16 at 16 kHz, each clip normalised alone, padded. The rivals decode and resample in every epoch:
a torch DataLoader over soundfile and librosa, as the `datasets` library decodes, with transformers'
feature extractor to normalise and pad; and the same with torchaudio's resampling where torchaudio
can be imported. Ours does it once (`build`), and each epoch reads the data set that this made.
Every side runs in a process of its own, held to one core; start-up is not counted.
"""

import argparse
import importlib
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize

from mrl_jax.core.paths import user_path

RATE, WRITTEN, SECONDS, BATCH, EPOCHS = 16_000, 44_100, 10, 16, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recordings", type=user_path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", choices=("datasets", "torchaudio", "build", "ours"))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run(args.worker, args.recordings)))
        return
    sides = ["datasets", "build", "ours"]
    if importlib.util.find_spec("torchaudio") is not None:
        sides.insert(1, "torchaudio")
    rates: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hours = make_corpus(args.recordings, folder) / 3600
        for _ in range(args.rounds):
            for side in sides:
                rates[side].append(hours / worker(side, folder))
                print(side, f"{rates[side][-1]:.4f} hours a second", flush=True)
    medians = {side: statistics.median(rate) for side, rate in rates.items()}
    record(
        "input",
        {
            "target": "hours of audio a second of one core; beside loading in PyTorch",
            "inputs": {"hours": hours, "batch": BATCH, "written_at": WRITTEN, "rate": RATE},
            "figures": {
                "hours_a_second": {side: summarize(rate) for side, rate in rates.items()},
                "over_datasets": {side: m / medians["datasets"] for side, m in medians.items()},
                # What is decoded once has paid for itself after so many epochs.
                "epochs_until_even": (1 / medians["build"])
                / (1 / medians["datasets"] - 1 / medians["ours"]),
            },
        },
    )


def make_corpus(recordings: Path, folder: Path) -> float:
    """Joined recordings and their manifest; seconds of audio."""
    import librosa
    import soundfile

    rng, joined, total = np.random.default_rng(0), [], 0
    paths = sorted(recordings.glob("*.wav"))
    lines: list[str] = []
    wanted = SECONDS
    for path in (paths[place] for place in rng.permutation(len(paths))):
        samples, rate = soundfile.read(path, dtype="float32")
        joined.append(librosa.resample(samples, orig_sr=rate, target_sr=WRITTEN))
        if sum(map(len, joined)) < wanted * WRITTEN:
            continue
        name, clip = f"{len(lines)}.flac", np.concatenate(joined)
        soundfile.write(folder / name, clip, WRITTEN)
        lines.append(json.dumps({"id": name, "audio": name, "text": name}))
        total, joined, wanted = total + len(clip), [], rng.uniform(0.5, 1.5) * SECONDS
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n")
    return total / WRITTEN


def run(side: str, folder: Path) -> float:
    """Seconds that one pass over all recordings takes."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    return {"build": run_build, "ours": run_ours}.get(side, run_torch)(side, folder)


def run_torch(side: str, folder: Path) -> float:
    import librosa
    import soundfile
    import torch
    from transformers import Wav2Vec2FeatureExtractor

    torch.set_num_threads(1)
    resample: Any = None
    if side == "torchaudio":
        torchaudio = importlib.import_module("torchaudio")

        resample = torchaudio.transforms.Resample(WRITTEN, RATE)
    paths = sorted(folder.glob("*.flac"))
    extractor = Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=True)

    class Recordings(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, place: int) -> Any:
            samples, rate = soundfile.read(paths[place], dtype="float32")
            if resample is not None:
                return resample(torch.from_numpy(samples)).numpy()
            return librosa.resample(samples, orig_sr=rate, target_sr=RATE)

    def collate(clips: list[Any]) -> Any:
        return extractor(clips, sampling_rate=RATE, padding=True, return_tensors="pt")

    loader = torch.utils.data.DataLoader(
        Recordings(), batch_size=BATCH, shuffle=True, collate_fn=collate, num_workers=0
    )
    recordings = Recordings()
    recordings[0]  # Imports, tables of filters.
    begun = time.perf_counter()
    for batch in loader:
        assert batch["input_values"].dtype == torch.float32
    return time.perf_counter() - begun


def run_build(side: str, folder: Path) -> float:
    from mrl_jax.data.audio.decode import load_clip
    from mrl_jax.data.build.builder import build_dataset

    load_clip(next(folder.glob("*.flac")), RATE)  # Imports.
    import tensorflow_datasets  # noqa: F401

    shutil.rmtree(folder / "built", ignore_errors=True)
    begun = time.perf_counter()
    build_dataset(folder / "train.jsonl", folder / "built", workers=1)
    return time.perf_counter() - begun


def run_ours(side: str, folder: Path) -> float:
    from mrl_jax.data.batches.clips import ClipTransform
    from mrl_jax.data.batches.plan import read_batches
    from mrl_jax.data.batches.speech import BatchConfig, BatchSource
    from mrl_jax.data.build.dataset import open_dataset
    from mrl_jax.data.text.tokenizer import TextTokenizer
    from mrl_jax.models.inputs import normalize_clip

    config = BatchConfig(batch_size=BATCH, num_buckets=4)
    source = BatchSource(
        open_dataset(folder / "built"),
        TextTokenizer(text_folder(folder), max_tokens=64),
        config,
        seed=0,
        transform=ClipTransform(prepare=normalize_clip, min_samples=720),
    )
    batches = read_batches(source, start=0, config=config)
    next(batches)
    begun = time.perf_counter()
    # Of many epochs, as some batches were made ahead before the clock started.
    for _ in range(EPOCHS * source.plan.batches_per_epoch):
        assert next(batches).samples.dtype == np.float32
    seconds = (time.perf_counter() - begun) / EPOCHS
    batches.close()
    whole = len(source.plan.bucket_of) / (source.plan.batches_per_epoch * BATCH)
    return seconds * whole  # An epoch leaves out what fills no batch.


def text_folder(folder: Path) -> Path:
    """A text tower's small files: documents are tokenised, if only once."""
    from mrl_jax.checkpoints.new_towers import save_text_tower
    from mrl_jax.demo.towers import make_tokenizer, text_config
    from mrl_jax.models.init import initial_tower

    place = folder / "text"
    if not place.exists():
        files = make_tokenizer(["0123456789.flac"])
        size = len(json.loads(files["tokenizer.json"])["model"]["vocab"])
        save_text_tower(place, initial_tower(text_config(size, width=32), 0), files)
    return place


def worker(side: str, folder: Path) -> float:
    """One side in a process of its own."""
    command = [sys.executable, str(Path(__file__)), "--worker", side, "--recordings", str(folder)]
    one = {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, **one}
    )
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
