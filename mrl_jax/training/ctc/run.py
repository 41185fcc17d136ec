"""A recogniser's run: what `train.py` does with a `CtcExperiment`."""

import dataclasses
import functools
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import TowerInfo, read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    host_shard,
    primary_first,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.data.audio.augment import resolve_augment
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.ctc import CtcBatch, CtcSource, MaskConfig, mask_clip
from mrl_jax.data.batches.plan import Augment, read_batches
from mrl_jax.data.build.builder import BUILD_FILE
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.data.build.utterances import need_transcripts, read_utterances
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.inference.asr import Recogniser, unspelled
from mrl_jax.metrics.error_rates import compare_transcripts
from mrl_jax.models.ctc import CtcVocabulary, HubertCtc, encode_transcripts
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.nn import param_tree
from mrl_jax.training.ctc.config import (
    CtcExperiment,
    build_recogniser,
    choose_vocabulary,
    prepare_data,
    read_tower,
)
from mrl_jax.training.ctc.step import kernels, make_ctc_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import RunSummary
from mrl_jax.training.optim import make_optimizer
from mrl_jax.training.state import TrainState, init_state, trained_leaves
from mrl_jax.training.trainer import begin, check_whole, run_steps

SCORE = "word accuracy"
"""1 less the word error rate: of scores the highest is the best."""


TOWER = "tower"


@dataclasses.dataclass(frozen=True)
class CtcRun:
    """What `train_recogniser` gives back.

    Attributes:
        summary: how the loop ended.
        tower: folder of the trained recogniser, if the run finished.
        info: what it holds.
    """

    summary: RunSummary
    tower: Path | None
    info: TowerInfo | None

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.summary.finished


def train_recogniser(
    config: CtcExperiment,
    workdir: Path,
    *,
    devices: Devices | None = None,
    log: Callable[[str], None] = print,
) -> CtcRun:
    """Train a recogniser, or resume, and write the best as a tower folder.

    Args:
        config: the run.
        workdir: gets the data set, checkpoints/, metrics.jsonl and tower/.
        devices: all of JAX's by default.
        say: told what happens, a line at a time.

    Raises:
        MrlError: whatever is wrong with the config, the data, the tower, a checkpoint.
    """
    check_whole(config.train.fsdp)
    devices, log = begin(config, devices, log)
    tower = read_tower(config.model)
    sizes = config.model.sizes if tower is None else tower.config
    assert isinstance(sizes, HubertConfig)
    make_folder(workdir)
    with primary_first("data"):  # It builds, where something is to be built.
        folder, report = prepare_data(config.data, workdir)
    if report is not None and report.skipped:
        log(f"data: {len(report.skipped)} recordings left out, see {folder / BUILD_FILE}")
    examples = open_dataset(folder, config.data.split)
    first = "random" if tower is None else tower.digest
    assert_equal_across_hosts({"data": examples.digest, "tower": first})
    _check_rate(examples, sizes)
    transcripts = _transcripts(config, examples)
    vocabulary = choose_vocabulary(config.model, tower, transcripts)
    if config.model.vocabulary == "tower":
        transcripts = [_as_spelled(text, vocabulary) for text in transcripts]
    _check_spelling(transcripts, vocabulary, config.model.speech_tower)
    source, left_out = _source(config, examples, transcripts, vocabulary, sizes)
    if left_out:
        log(
            f"data: {len(left_out)} transcripts are too long for their clips, the first is that "
            f"of {left_out[0]}; they are left out"
        )
    steps = config.train.total_steps(source.plan.batches_per_epoch)
    model = build_recogniser(config.model, tower, vocabulary, config.seed)
    split = param_tree.split(model)
    validate = _validator(config, model) if config.data.validation else None
    optimizer = make_optimizer(config.optim, steps, decayed=kernels)
    frozen = devices.replicate(split.frozen)
    state = devices.replicate(init_state(split.trained, optimizer))
    leaves = trained_leaves(split.trained)
    identity = {
        "trained leaves": {path: list(shape) for path, shape in leaves.items()},
        "first tower": first,
        "vocabulary": list(vocabulary.tokens),
    }
    log(
        f"{config.name}: {sum(int(np.prod(x)) for x in leaves.values()):,} trained of "
        f"{param_tree.count(param_tree.flat_weights(model)):,} parameters, "
        f"{len(source.plan.bucket_of):,} clips, {len(vocabulary.tokens)} tokens, {steps:,} "
        f"steps of {config.data.batch.batch_size} on {len(devices.global_devices)} device(s) by "
        f"{devices.parallel}"
    )

    def batches(start: int) -> Generator[CtcBatch, None, None]:
        return read_batches(source, start=start, config=config.data.batch)

    step = make_ctc_step(
        split.rebuild,
        optimizer,
        blank=vocabulary.blank,
        accumulation_steps=config.optim.accumulation_steps,
        axis_name=devices.axis_name,
    )
    found = run_steps(
        config,
        workdir,
        devices,
        devices.compile(step),
        state,
        frozen,
        batches,
        steps=steps,
        dims=(),
        identity=identity,
        data_digest=examples.digest,
        validate=validate,
        score=SCORE,
        log=log,
    )
    if not found.summary.finished:
        return CtcRun(found.summary, None, None)
    out = workdir / TOWER
    trained = jax.tree.map(np.asarray, found.state.trained)

    def write() -> None:
        save_speech_tower(out, split.rebuild(trained, split.frozen))

    run_on_primary(write)
    log(f"recogniser of step {found.step} in {out}")
    return CtcRun(found.summary, out, read_info(out, expected=("hubert_ctc",)))


def _transcripts(config: CtcExperiment, examples: SpeechDataset) -> list[str]:
    """What is said in each clip, as it is to be spelled."""
    column = config.data.transcripts
    written = examples.transcripts if column == "transcript" else examples.texts
    said: list[str | None] = [
        plain_text(text) if config.data.plain and text is not None else text for text in written
    ]
    return need_transcripts(examples.ids, said, config.data.train, column=column)


def _as_spelled(text: str, vocabulary: CtcVocabulary) -> str:
    """A text in capitals where the vocabulary has only those."""
    letters = set(vocabulary.tokens)
    return "".join(x.upper() if x not in letters and x.upper() in letters else x for x in text)


def _check_spelling(transcripts: Sequence[str], vocabulary: CtcVocabulary, tower: str) -> None:
    unknown = unspelled(transcripts, vocabulary)
    if unknown:
        raise MrlError(
            f"the vocabulary has no {', '.join(map(repr, unknown))}, which the transcripts of the "
            "data hold",
            where=tower,
            hint="set model.vocabulary=data, or mend the transcripts",
        )


def _check_rate(examples: SpeechDataset, sizes: HubertConfig) -> None:
    if examples.sample_rate != sizes.sample_rate:
        raise MrlError(
            f"the data set is at {examples.sample_rate} Hz, the tower hears {sizes.sample_rate} Hz",
            where=examples.folder,
            hint=f"set data.build.sample_rate={sizes.sample_rate}, or build the data set again",
        )


def _source(
    config: CtcExperiment,
    examples: SpeechDataset,
    transcripts: Sequence[str],
    vocabulary: CtcVocabulary,
    sizes: HubertConfig,
) -> tuple[CtcSource, list[str]]:
    """Batches of the clips that are long enough for what is said, and the ids of the others."""
    longest = max(len(text) for text in transcripts) + 1
    labels, counts = encode_transcripts(transcripts, vocabulary, longest)
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != vocabulary.blank)).sum(axis=1)
    frames = np.asarray([sizes.frame_count(int(n)) for n in examples.num_samples], np.int64)
    rows = np.flatnonzero(frames >= counts + repeats)
    left_out = [examples.ids[row] for row in np.flatnonzero(frames < counts + repeats)]
    augment, stretch = resolve_augment(config.augment, config.stretch, sizes.sample_rate)
    change = functools.partial(
        _change, augment=augment, masks=config.masks, sample_rate=sizes.sample_rate
    )
    source = CtcSource(
        functools.partial(_clip, examples, rows),
        np.asarray(examples.num_samples)[rows],
        labels[rows],
        counts[rows],
        config.data.batch,
        seed=config.seed,
        transform=ClipTransform(
            prepare=normalize_clip if sizes.normalize_clips else None,
            min_samples=sizes.min_samples,
            augment=change,
            stretch=stretch,
        ),
        shard=host_shard(),
    )
    return source, left_out


def _validator(
    config: CtcExperiment, model: HubertCtc
) -> Callable[[TrainState], Mapping[str, float]]:
    """Error rates of the state on other recordings, all read once."""
    data = config.data
    utterances = read_utterances(data.validation, split=data.validation_split)
    ids = [utterance.id for utterance in utterances]
    said = need_transcripts(
        ids, [u.transcript for u in utterances], data.validation, column="transcript"
    )
    recogniser = Recogniser(model)
    clips = [utterance.load(recogniser.config.sample_rate) for utterance in utterances]

    def validate(state: TrainState) -> Mapping[str, float]:
        # Each host for itself: every one of them holds the whole state.
        recogniser.trained = jax.tree.map(lambda x: x.addressable_data(0), state.trained)
        heard = recogniser.transcribe(clips, names=ids)
        pair = (said, heard)
        if data.plain:
            pair = ([plain_text(text) for text in said], [plain_text(text) for text in heard])
        found = compare_transcripts(*pair)
        return {SCORE: 1 - found.wer, "wer": found.wer, "cer": found.cer}

    return validate


# Free functions, as processes that make batches are sent them.
def _clip(examples: SpeechDataset, rows: HostArray, number: int) -> HostArray:
    return examples.clip(int(rows[number]))


def _change(
    clip: HostArray,
    rng: np.random.Generator,
    *,
    augment: Augment | None,
    masks: MaskConfig,
    sample_rate: int,
) -> HostArray:
    if augment is not None:
        clip = augment(clip, rng)
    return mask_clip(clip, rng, masks, sample_rate)
