"""Real speech: strings of three spoken English digits find their French wording.

    python -m mrl_jax.demo.spoken_digits --out runs/spoken_digits [--leave-out SPEAKER ...]

Recorded digits of one speaker are joined to strings; 800 strings are for training, 200 for
the test, and each query is ranked against the wordings of all 1,000. Without --leave-out
the test uses other takes of the training speakers; with it, a speaker who is not in the
training data. The towers are trained by the demo's stages, from training strings and
training takes only; the head as by `mrl-jax train`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import local_path, user_path
from mrl_jax.core.presets import find_config
from mrl_jax.data.audio.augment import AugmentConfig, augment_channel, augment_voice
from mrl_jax.data.sets.retrieval_set import Document, Query, write_retrieval_set
from mrl_jax.demo.digits import (
    SAMPLE_RATE,
    DigitVoices,
    Take,
    english,
    french,
    load_takes,
    split_strings,
)
from mrl_jax.demo.towers import (
    GAP_TOKEN,
    make_tokenizer,
    open_tokenizer,
    speech_config,
    text_config,
)
from mrl_jax.demo.train_ctc import CtcStageConfig, train_ctc
from mrl_jax.demo.train_text import TextStageConfig, train_text_tower
from mrl_jax.evaluation.report.records import read_records, write_jsonl
from mrl_jax.evaluation.retrieval.options import RetrievalOptions
from mrl_jax.evaluation.retrieval.report import report_retrieval
from mrl_jax.models.ctc import word_vocabulary
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train

SPEECH = dataclasses.replace(
    speech_config(),
    conv_channels=(96,) * 4,
    conv_kernels=(128, 3, 3, 3),
    conv_strides=(40, 2, 2, 2),
    position_kernel=8,
    sample_rate=SAMPLE_RATE,
)
"""A small HuBERT at the recordings' own rate, with frames of 40 ms: digits are slow."""
TEST_TAKES = 5
"""Takes 0 to 4 of every digit and speaker are the test's, as in the data set's own split."""
ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.zip"
VARIANTS, UTTERANCES = 8, 12
"""Augmented voices made of every training take, and recordings of each training string."""
WORD_STEPS, STRING_STEPS, TEXT_STEPS = 150, 4500, 400
"""CTC steps on single digits, which come first, and on whole strings; steps of the text stage."""
AUGMENT = AugmentConfig(mask_probability=0.15, snr_db=(8.0, 40.0))


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python -m mrl_jax.demo.spoken_digits", description=__doc__)
    parser.add_argument("--out", type=local_path("--out"), default=Path("runs/spoken_digits"))
    parser.add_argument(
        "--recordings", type=user_path, help="folder of {digit}_{speaker}_{take}.wav"
    )
    parser.add_argument("--leave-out", nargs="*", default=[], help="speakers, or `all` in turn")
    args = parser.parse_args(argv)
    takes = load_takes(find_recordings(args.recordings, args.out))
    speakers = sorted({take.speaker for take in takes})
    folds: list[str | None] = [None]
    if args.leave_out:
        folds = list(speakers if args.leave_out == ["all"] else args.leave_out)
    for speaker in folds:
        if speaker is not None and speaker not in speakers:
            problem = f"{speaker!r} is not among the speakers, {', '.join(speakers)}"
            hint = did_you_mean(speaker, speakers, otherwise="name one of them, or `all`")
            raise MrlError(problem, where="--leave-out", hint=hint)
    args.out.mkdir(parents=True, exist_ok=True)
    text_stage(args.out / "text")
    rows = []
    for speaker in folds:
        score, chance = run_fold(takes, speaker, args.out)
        rows.append({"left_out": speaker, "ndcg@10": score, "chance": chance})
        print(f"{speaker or 'known speakers'}: nDCG@10 {score:.4f}, chance {chance:.4f}")
        write_jsonl(args.out / f"results-{'-'.join(fold or 'known' for fold in folds)}.jsonl", rows)
    if len(rows) > 1:
        mean = np.mean([float(str(row["ndcg@10"])) for row in rows])
        print(f"mean of {len(rows)} speakers left out in turn: nDCG@10 {mean:.4f}")
    return 0


def find_recordings(given: Path | None, out: Path) -> Path:
    """The folder given, or the data set downloaded by TFDS."""
    if given is not None:
        return given
    require("tensorflow_datasets", by="fetching the recordings")
    import tensorflow_datasets as tfds

    try:
        manager = tfds.download.DownloadManager(
            download_dir=str(out / "download"), register_checksums=True
        )
        return next(Path(manager.download_and_extract(ARCHIVE)).glob("*/recordings"))
    except Exception as error:  # TFDS and the network raise many kinds.
        problem = f"the recordings could not be fetched ({type(error).__name__})"
        hint = "fetch the Free Spoken Digit Dataset, and pass its folder as --recordings"
        raise MrlError(problem, where="spoken_digit", hint=hint) from error


def run_fold(takes: Sequence[Take], left_out: str | None, out: Path) -> tuple[float, float]:
    """Towers, head and score of one fold: nDCG@10 at full width, and that of chance."""
    folder = out / (left_out or "known")
    training, testing = split_takes(takes, left_out)
    strings, unseen = split_strings()
    voices = changed_voices(training)
    if not (folder / "speech" / "tower.json").is_file():
        speech_stage(voices, strings, folder / "speech")
    write_manifest(folder / "data", voices, strings)
    write_test(folder / "test", DigitVoices(testing), unseen)
    config = override(
        load_config(find_config("spoken_digits"), ExperimentConfig),
        [
            f"model.speech_tower={folder / 'speech'}",
            f"model.text_tower={out / 'text'}",
            f"data.train={folder / 'data' / 'train.jsonl'}",
        ],
    )
    if not train(config, folder / "model").summary.finished:
        raise SystemExit(143)  # As `mrl-jax train` after SIGTERM; the same command resumes.
    model, data, report = (folder / name for name in ("model", "test", "report"))
    report_retrieval(RetrievalOptions(model=model, data=data, out=report, overwrite=True))
    rows = read_records(report / "results.jsonl")
    widest = max(row.dim for row in rows if row.dim)
    score = next(r.value for r in rows if r.metric == "ndcg@10" and r.dim == widest)
    chance = next(r.value for r in rows if r.metric == "ndcg@10 of chance")
    return score, chance


def split_takes(takes: Sequence[Take], left_out: str | None) -> tuple[list[Take], list[Take]]:
    """Takes for training and takes for the test, which share no recording."""
    training, testing = [], []
    for take in takes:
        is_test = take.take < TEST_TAKES if left_out is None else take.speaker == left_out
        (testing if is_test else training).append(take)
    return training, testing


def changed_voices(takes: Sequence[Take]) -> DigitVoices:
    """Every take, and augmented copies in other voices; the same in each call."""
    pool = list(takes)
    for number, take in enumerate(takes):
        rng = np.random.default_rng((1, number))
        changed = (augment_voice(take.clip, rng, AUGMENT, SAMPLE_RATE) for _ in range(VARIANTS))
        pool += [dataclasses.replace(take, clip=clip) for clip in changed]
    return DigitVoices(pool)


def text_stage(out: Path) -> None:
    """English and French wordings of the training strings, drawn together."""
    if (out / "tower.json").is_file():
        return
    strings, _ = split_strings()
    queries, documents = list(map(english, strings)), list(map(french, strings))
    files = make_tokenizer([*queries, *documents], words=True)
    tokenizer, size = open_tokenizer(files)
    config = text_config(size)
    stage = TextStageConfig(
        steps=TEXT_STEPS,
        batch_size=64,
        dims=tuple(config.width // part for part in (1, 2, 4, 8)),
        most_repeats=4,
        gap_token=GAP_TOKEN,
        noise=0.7,
        learning_rate=2e-3,
    )
    tower = train_text_tower(config, tokenizer.encode(queries), tokenizer.encode(documents), stage)
    save_text_tower(out, tower, files)


def speech_stage(voices: DigitVoices, strings: Sequence[str], out: Path) -> None:
    """Train the recogniser on single digits first, then on whole strings."""
    word_size, string_size = int(0.8 * SAMPLE_RATE), int(1.8 * SAMPLE_RATE)

    def batch(step: int) -> tuple[list[HostArray], list[str]]:
        rng = np.random.default_rng((2, step))
        single = step < WORD_STEPS
        count, size = (48, word_size) if single else (16, string_size)
        clips: list[HostArray] = []
        texts: list[str] = []
        while len(clips) < count:
            string = strings[int(rng.integers(len(strings)))]
            string = string[int(rng.integers(3))] if single else string
            clip = voices.speak(string, rng)
            if single:
                clip = np.pad(clip, tuple(rng.integers(0, 400, 2)))
            clip = augment_channel(clip, rng, AUGMENT, SAMPLE_RATE)
            if len(clip) <= size:
                clips.append(clip)
                texts.append(english(string))
        return clips, texts

    recogniser = train_ctc(
        SPEECH,
        word_vocabulary(list(map(english, strings))),
        batch,
        CtcStageConfig(
            steps=WORD_STEPS + STRING_STEPS,
            batch_sizes=(word_size, string_size),
            max_labels=5,
            learning_rate=3e-3,
            average_decay=0.99,
            filterbank=True,
        ),
    )
    save_speech_tower(out, recogniser)


def write_manifest(folder: Path, voices: DigitVoices, strings: Sequence[str]) -> None:
    """Training strings as recordings, each by several randomly drawn speakers."""
    rows = []
    for number, string in enumerate(strings):
        for turn in range(UTTERANCES):
            rng = np.random.default_rng((3, number, turn))
            clip = augment_channel(voices.speak(string, rng), rng, AUGMENT, SAMPLE_RATE)
            name = f"{string}-{turn}"
            _write_wav(folder / f"{name}.wav", clip)
            texts = {"text": french(string), "transcript": english(string), "document_id": string}
            rows.append({"id": name, "audio": f"{name}.wav", **texts})
    write_jsonl(folder / "train.jsonl", rows)


def write_test(folder: Path, voices: DigitVoices, unseen: Sequence[str]) -> None:
    """Test strings as queries, by alternating speakers; all 1,000 wordings as the corpus."""
    queries, qrels = [], {}
    for number, string in enumerate(unseen):
        speaker = voices.speakers[number % len(voices.speakers)]
        name = f"{string}-{speaker}-0"
        audio = folder / f"{name}.wav"
        rng = np.random.default_rng((4, number, 0))
        _write_wav(audio, voices.speak(string, rng, speaker=speaker))
        queries.append(Query(id=name, audio=audio, speaker=speaker, transcript=english(string)))
        qrels[name] = {string: 1}
    corpus = [Document(id=f"{i:03d}", text=french(f"{i:03d}")) for i in range(1000)]
    write_retrieval_set(folder, queries, corpus, qrels)


def _write_wav(path: Path, clip: HostArray) -> None:
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    peak = max(float(np.abs(clip).max()), 1e-6)
    soundfile.write(path, clip * min(0.9 / peak, 1.0), SAMPLE_RATE, subtype="PCM_16")


if __name__ == "__main__":
    sys.exit(run_command(main))
