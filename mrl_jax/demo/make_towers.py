"""Train the demo's two towers: `python -m mrl_jax.demo.make_towers --out FOLDER`.

The folder `mrl_jax/demo/towers_hf` was made by this command and `mrl-jax convert
export`; `make demo` starts from there. Both are trained on the training sentences in the
training voices only. About three quarters of an hour on two cores.
"""

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrl_jax.checkpoints.new_towers import save_speech_tower, save_text_tower
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.paths import local_path
from mrl_jax.data.audio import augment
from mrl_jax.data.audio.augment import AugmentConfig
from mrl_jax.data.audio.decode import load_clip
from mrl_jax.data.batches.plan import BatchPlan
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.text_pairs import read_pairs
from mrl_jax.demo import towers
from mrl_jax.demo.text_tasks import SHARE, grouping_pairs, task_weights, trained_labels
from mrl_jax.demo.train_ctc import CtcStageConfig, train_ctc
from mrl_jax.demo.train_text import TextStageConfig, train_text_tower
from mrl_jax.demo.world import TASK, write_world
from mrl_jax.models.ctc import character_vocabulary

RATE = 16_000
SPEEDS = (0.85, 1.2)
FORMANTS = AugmentConfig(formants=(0.8, 1.25), gain_db=(0.0, 0.0))
CHANGED = 3
"""Copies of every clip in changed voices: with thirty voices alone the model overfits."""
CHANNEL = AugmentConfig(reverb_probability=0.1, mask_probability=0.2, noise_probability=0.5)


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m mrl_jax.demo.make_towers", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--out", type=local_path("--out"), required=True, help="gets world/, text/ and speech/"
    )
    parser.add_argument("--text-steps", type=int, default=1500, help="batches of translations")
    parser.add_argument(
        "--tasks",
        choices=("translation", "all"),
        default="translation",
        help="of the text tower; all: groupings by intent and topic too, in further batches",
    )
    parser.add_argument("--ctc-steps", type=int, default=3000)
    parser.add_argument("--only", choices=("text", "speech"), help="train one tower only")
    args = parser.parse_args(argv)
    world = args.out / "world"
    if not world.is_dir():
        write_world(world)
    if args.only != "speech":
        grouped = args.tasks == "all"
        text_stage(world, args.out / "text", steps=args.text_steps, grouped=grouped)
    if args.only != "text":
        speech_stage(world, args.out / "speech", steps=args.ctc_steps)
    return 0


def vary(clip: HostArray, rng: np.random.Generator) -> HostArray:
    """The same words, faster or slower, through another channel; at most 1 / 0.85 longer."""
    changed = augment.change_speed(clip, augment.draw_factor(rng, SPEEDS))
    return augment.augment_channel(changed, rng, CHANNEL, RATE)


def text_stage(world: Path, out: Path, *, steps: int, grouped: bool = False) -> None:
    """Wolof and French of the training sentences, drawn together.

    Wolof is tokenised by characters and French by whole words, like the rarest and the most
    frequent languages of a published tokenizer.

    Args:
        steps: batches of translations.
        grouped: further batches of the tasks of `text_tasks`.
    """
    pairs = read_pairs(world / "text_pairs.jsonl")
    wolof = [pair.query for pair in pairs]
    french = [pair.document for pair in pairs]
    if grouped:
        pairs += grouping_pairs(wolof)
        french += [text for texts in trained_labels().values() for text in texts]
    spelled = {word for sentence in wolof for word in sentence.split()}
    words = {word for text in french for word in re.findall(r"\w+", text.lower())}
    files = towers.make_tokenizer([*wolof, *french], whole=sorted(words - spelled))
    tokenizer, size = towers.open_tokenizer(files)
    config = towers.text_config(size, num_layers=3)
    tower = train_text_tower(
        config,
        tokenizer.encode([pair.query for pair in pairs]),
        tokenizer.encode([pair.document for pair in pairs]),
        TextStageConfig(
            steps=round(steps / (1 - SHARE)) if grouped else steps,
            batch_size=64,
            dims=(config.width, config.width // 2, config.width // 4, config.width // 8),
            most_repeats=2,
            gap_token=towers.GAP_TOKEN,
            noise=0.5,
            learning_rate=2e-3,
        ),
        pairs=pairs,
        task_weights=task_weights(TASK) if grouped else None,
    )
    labels = sorted(trained_labels()) if grouped else ()
    save_text_tower(out, tower, files, dtype="float16", labels=labels)


def speech_stage(world: Path, out: Path, *, steps: int) -> None:
    """Spoken Wolof to its transcripts: in the training voices, and in changed ones."""
    examples = read_manifest(world / "train.jsonl")
    clips = [load_clip(str(example.audio), RATE) for example in examples]
    transcripts = [str(example.transcript) for example in examples]
    clips += changed_voices(clips, CHANGED)
    transcripts *= 1 + CHANGED
    batches, sizes = ctc_batches(clips, transcripts, batch_size=32)
    recogniser = train_ctc(
        towers.speech_config(),
        character_vocabulary(transcripts),
        batches,
        CtcStageConfig(
            steps=steps,
            batch_sizes=sizes,
            max_labels=max(map(len, transcripts)),
            learning_rate=2e-3,
            average_decay=0.99,
            filterbank=True,
        ),
    )
    save_speech_tower(out, recogniser, dtype="float16")


def changed_voices(clips: Sequence[HostArray], copies: int) -> list[HostArray]:
    """Copies of every clip with other formants and rates, and the same words."""
    return [
        augment.augment_voice(clip, np.random.default_rng((copy, number)), FORMANTS, RATE)
        for copy in range(copies)
        for number, clip in enumerate(tqdm(clips, desc=f"voices {copy + 1}", unit="clip"))
    ]


def ctc_batches(
    clips: Sequence[HostArray], transcripts: Sequence[str], *, batch_size: int, seed: int = 0
) -> tuple[Callable[[int], tuple[list[HostArray], list[str]]], tuple[int, ...]]:
    """Batches of clips of like length with random channels, by step; and the padded sizes."""
    lengths = np.asarray([len(clip) for clip in clips])
    plan = BatchPlan(
        lengths, np.zeros_like(lengths), batch_size=batch_size, num_buckets=4, seed=seed
    )
    sizes = tuple(int(size) for size in plan.sizes)

    def batch(step: int) -> tuple[list[HostArray], list[str]]:
        rng = np.random.default_rng((seed, step))
        rows = [int(row) for row in plan(step)[1]]
        changed = [augment.augment_channel(clips[row], rng, CHANNEL, RATE) for row in rows]
        return changed, [transcripts[row] for row in rows]

    return batch, sizes


if __name__ == "__main__":
    sys.exit(run_command(main))
