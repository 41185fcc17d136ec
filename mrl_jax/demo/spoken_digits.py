"""Real speech: strings of three spoken English digits find their French wording.

    python -m mrl_jax.demo.spoken_digits --out runs/spoken_digits [--leave-out SPEAKER ...]

Recorded digits of one speaker are joined to strings; 800 strings are for training, 200 for
the test, and each query is ranked against the wordings of all 1,000. Without --leave-out
the test uses other takes of the training speakers; with it, a speaker who is not in the
training data. The towers are trained by the demo's stages, from training strings and
training takes only; the head as by `mrl-jax train`.
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.config import load_config
from mrl_jax.core.errors import MrlError
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
from mrl_jax.demo.towers import GAP_TOKEN, make_tokenizer, open_tokenizer, text_config
from mrl_jax.demo.train_ctc import CtcStageConfig, train_ctc
from mrl_jax.demo.train_text import TextStageConfig, train_text_tower
from mrl_jax.evaluation.report.records import write_jsonl
from mrl_jax.evaluation.retrieval.options import RetrievalOptions
from mrl_jax.evaluation.retrieval.report import report_retrieval
from mrl_jax.models.ctc import word_vocabulary
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.training.contrastive.config import ExperimentConfig
from mrl_jax.training.contrastive.run import train

SPEECH = HubertConfig(
    width=128,
    num_layers=3,
    num_heads=4,
    mlp_width=256,
    conv_channels=(96,) * 4,
    conv_kernels=(128, 3, 3, 3),
    conv_strides=(40, 2, 2, 2),
    conv_bias=True,
    feature_norm="layer",
    pre_norm=True,
    position_kernel=8,
    position_groups=16,
    sample_rate=SAMPLE_RATE,
)
"""A small HuBERT at the recordings' own rate, with frames of 40 ms: digits are slow."""
TEST_TAKES = 5
"""Takes 0 to 4 of every digit and speaker are the test's, as in the data set's own split."""
ARCHIVE = "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/v1.0.9.zip"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes and lengths of one fold.

    Attributes:
        variants: augmented voices made of every training take.
        utterances: recordings of each training string, to train the head.
        word_steps: CTC steps on single digits, which come first.
        string_steps: CTC steps on whole strings.
        text_steps: steps of the text stage.
        queries: recordings of each test string.
    """

    variants: int = 8
    utterances: int = 12
    word_steps: int = 150
    string_steps: int = 4500
    text_steps: int = 400
    queries: int = 1
    augment: AugmentConfig = dataclasses.field(
        default_factory=lambda: AugmentConfig(mask_probability=0.15, snr_db=(8.0, 40.0))
    )


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python -m mrl_jax.demo.spoken_digits", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/spoken_digits"))
    parser.add_argument("--recordings", type=Path, help="folder of {digit}_{speaker}_{take}.wav")
    parser.add_argument("--leave-out", nargs="*", default=[], help="speakers, or `all` in turn")
    args = parser.parse_args(argv)
    takes = load_takes(find_recordings(args.recordings, args.out))
    speakers = sorted({take.speaker for take in takes})
    folds: list[str | None] = [None]
    if args.leave_out:
        folds = list(speakers if args.leave_out == ["all"] else args.leave_out)
    for speaker in folds:
        if speaker is not None and speaker not in speakers:
            raise MrlError(
                f"{speaker!r} is not among the speakers, {', '.join(speakers)}",
                where="--leave-out",
                hint="name one of them, or `all`",
            )
    args.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe()
    text_stage(args.out / "text", recipe)
    rows = []
    for speaker in folds:
        score, chance = run_fold(takes, speaker, args.out, recipe)
        rows.append({"left_out": speaker, "ndcg@10": score, "chance": chance})
        print(f"{speaker or 'known speakers'}: nDCG@10 {score:.4f}, chance {chance:.4f}")
        write_jsonl(args.out / f"results-{'-'.join(fold or 'known' for fold in folds)}.jsonl", rows)
    if len(rows) > 1:
        mean = np.mean([float(str(row["ndcg@10"])) for row in rows])
        print(f"mean of {len(rows)} speakers left out in turn: nDCG@10 {mean:.4f}")
    return 0


def find_recordings(given: Path | None, out: Path) -> Path:
    """The folder given, one beside the checkout, or the data set downloaded by TFDS."""
    beside = Path(__file__).parents[3] / "shared" / "data" / "fsdd" / "recordings"
    if given is not None or beside.is_dir():
        return beside if given is None else given
    try:
        import tensorflow_datasets as tfds

        manager = tfds.download.DownloadManager(
            download_dir=str(out / "download"), register_checksums=True
        )
        return next(Path(manager.download_and_extract(ARCHIVE)).glob("*/recordings"))
    except Exception as error:  # TFDS and the network raise many kinds.
        raise MrlError(
            f"the recordings could not be fetched ({type(error).__name__})",
            where="spoken_digit",
            hint="fetch the Free Spoken Digit Dataset, and pass its folder as --recordings",
        ) from error


def run_fold(
    takes: Sequence[Take], left_out: str | None, out: Path, recipe: Recipe
) -> tuple[float, float]:
    """Towers, head and score of one fold: nDCG@10 at full width, and that of chance."""
    folder = out / (left_out or "known")
    training, testing = split_takes(takes, left_out)
    strings, unseen = split_strings()
    voices = changed_voices(training, recipe)
    if not (folder / "speech" / "tower.json").is_file():
        speech_stage(voices, strings, folder / "speech", recipe)
    write_manifest(folder / "data", voices, strings, recipe)
    write_test(folder / "test", DigitVoices(testing), unseen, recipe)
    config = fold_config(
        load_config(find_config("spoken_digits"), ExperimentConfig), out / "text", folder
    )
    if not train(config, folder / "model").summary.finished:
        raise SystemExit(143)  # As `mrl-jax train` after SIGTERM; the same command resumes.
    report_retrieval(
        RetrievalOptions(
            model=folder / "model",
            data=folder / "test",
            out=folder / "report",
            overwrite=True,
        )
    )
    text = (folder / "report" / "results.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    widest = max(row["dim"] for row in rows if row["dim"])
    score = next(r["value"] for r in rows if r["metric"] == "ndcg@10" and r["dim"] == widest)
    chance = next(r["value"] for r in rows if r["metric"] == "ndcg@10 of chance")
    return float(score), float(chance)


def fold_config(config: ExperimentConfig, text: Path, folder: Path) -> ExperimentConfig:
    """The preset with this fold's towers and recordings."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(
            config.model, speech_tower=str(folder / "speech"), text_tower=str(text)
        ),
        data=dataclasses.replace(config.data, train=str(folder / "data" / "train.jsonl")),
    )


def split_takes(takes: Sequence[Take], left_out: str | None) -> tuple[list[Take], list[Take]]:
    """Takes for training and takes for the test, which share no recording."""
    if left_out is None:
        return (
            [take for take in takes if take.take >= TEST_TAKES],
            [take for take in takes if take.take < TEST_TAKES],
        )
    return (
        [take for take in takes if take.speaker != left_out],
        [take for take in takes if take.speaker == left_out],
    )


def changed_voices(takes: Sequence[Take], recipe: Recipe) -> DigitVoices:
    """Every take, and augmented copies in other voices; the same in each call."""
    pool = list(takes)
    for number, take in enumerate(takes):
        rng = np.random.default_rng((1, number))
        pool += [
            dataclasses.replace(
                take, clip=augment_voice(take.clip, rng, recipe.augment, SAMPLE_RATE)
            )
            for _ in range(recipe.variants)
        ]
    return DigitVoices(pool)


def text_stage(out: Path, recipe: Recipe) -> None:
    """English and French wordings of the training strings, drawn together."""
    if (out / "tower.json").is_file():
        return
    strings, _ = split_strings()
    queries, documents = list(map(english, strings)), list(map(french, strings))
    files = make_tokenizer([*queries, *documents], words=True)
    tokenizer, size = open_tokenizer(files)
    config = text_config(size)
    stage = TextStageConfig(
        steps=recipe.text_steps,
        batch_size=64,
        dims=(config.width, config.width // 2, config.width // 4, config.width // 8),
        most_repeats=4,
        gap_token=GAP_TOKEN,
        noise=0.7,
        learning_rate=2e-3,
    )
    tower = train_text_tower(config, tokenizer.encode(queries), tokenizer.encode(documents), stage)
    save_text_tower(out, tower, files)


def speech_stage(voices: DigitVoices, strings: Sequence[str], out: Path, recipe: Recipe) -> None:
    """Train the recogniser on single digits first, then on whole strings."""
    word_size, string_size = int(0.8 * SAMPLE_RATE), int(1.8 * SAMPLE_RATE)

    def batch(step: int) -> tuple[list[HostArray], list[str]]:
        rng = np.random.default_rng((2, step))
        single = step < recipe.word_steps
        count, size = (48, word_size) if single else (16, string_size)
        clips: list[HostArray] = []
        texts: list[str] = []
        while len(clips) < count:
            string = strings[int(rng.integers(len(strings)))]
            string = string[int(rng.integers(3))] if single else string
            clip = voices.speak(string, rng)
            if single:
                clip = np.pad(clip, tuple(rng.integers(0, 400, 2)))
            clip = augment_channel(clip, rng, recipe.augment, SAMPLE_RATE)
            if len(clip) <= size:
                clips.append(clip)
                texts.append(english(string))
        return clips, texts

    recogniser = train_ctc(
        SPEECH,
        word_vocabulary(list(map(english, strings))),
        batch,
        CtcStageConfig(
            steps=recipe.word_steps + recipe.string_steps,
            batch_sizes=(word_size, string_size),
            max_labels=5,
            learning_rate=3e-3,
            average_decay=0.99,
            filterbank=True,
        ),
    )
    save_speech_tower(out, recogniser)


def write_manifest(
    folder: Path, voices: DigitVoices, strings: Sequence[str], recipe: Recipe
) -> None:
    """Training strings as recordings, each by several randomly drawn speakers."""
    lines = []
    for number, string in enumerate(strings):
        for turn in range(recipe.utterances):
            rng = np.random.default_rng((3, number, turn))
            clip = augment_channel(voices.speak(string, rng), rng, recipe.augment, SAMPLE_RATE)
            name = f"{string}-{turn}"
            _write_wav(folder / f"{name}.wav", clip)
            lines.append(
                {
                    "id": name,
                    "audio": f"{name}.wav",
                    "text": french(string),
                    "transcript": english(string),
                    "document_id": string,
                }
            )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "train.jsonl").write_text(text, encoding="utf-8")


def write_test(folder: Path, voices: DigitVoices, unseen: Sequence[str], recipe: Recipe) -> None:
    """Test strings as queries, by alternating speakers; all 1,000 wordings as the corpus."""
    queries, qrels = [], {}
    for number, string in enumerate(unseen):
        for turn in range(recipe.queries):
            rng = np.random.default_rng((4, number, turn))
            speaker = voices.speakers[(number + turn) % len(voices.speakers)]
            name = f"{string}-{speaker}-{turn}"
            _write_wav(folder / f"{name}.wav", voices.speak(string, rng, speaker=speaker))
            queries.append(
                Query(
                    id=name,
                    audio=folder / f"{name}.wav",
                    speaker=speaker,
                    transcript=english(string),
                )
            )
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
