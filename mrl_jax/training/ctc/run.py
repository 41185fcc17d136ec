"""CTC training: what `mrl-jax train` does with a `CtcExperiment`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from mrl_jax.checkpoints.new_towers import save_speech_tower
from mrl_jax.checkpoints.towers import TowerInfo, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import assert_equal_across_hosts, host_shard
from mrl_jax.core.errors import MrlError
from mrl_jax.data.audio.augment import Augment, resolve_augment
from mrl_jax.data.audio.decode import load_each
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.ctc import CtcSource, MaskConfig, mask_clip
from mrl_jax.data.batches.mix import describe_mix, draws_of
from mrl_jax.data.batches.plan import BatchPlan, read_batches
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.build.utterances import need_transcripts, read_utterances
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.inference.asr import Recogniser, unspelled
from mrl_jax.metrics.error_rates import compare_transcripts
from mrl_jax.models.ctc import (
    CtcVocabulary,
    HubertCtc,
    in_capitals,
    pad_labels,
    spell_transcripts,
)
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.models.text_vocabulary import token_labels
from mrl_jax.models.towers import RECOGNISERS
from mrl_jax.nn import param_tree
from mrl_jax.training.ctc.config import (
    CtcExperiment,
    build_recogniser,
    choose_vocabulary,
    read_tokenizer,
    read_tower,
)
from mrl_jax.training.ctc.step import make_ctc_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import Prepared
from mrl_jax.training.speech_data import check_rate, open_examples
from mrl_jax.training.state import Log, TrainState
from mrl_jax.training.trainer import Best, RunResult, run

SCORE = "word accuracy"
"""1 less the word error rate: of scores the highest is the best."""
TOWER = "tower"


@checked
def train_recogniser(
    config: CtcExperiment, workdir: Path, *, devices: Devices | None = None, log: Log = print
) -> RunResult[TowerInfo]:
    """Train a recogniser, or resume, and write the best as the tower folder workdir/tower.

    Arguments and errors are those of `trainer.run`. The workdir also gets the data set.
    """
    return run(CtcTask(), config, workdir, devices=devices, log=log)


class CtcTask:
    """A HuBERT and its output layer are trained to transcribe."""

    def prepare(self, config: CtcExperiment, workdir: Path, devices: Devices, log: Log) -> Prepared:
        """Transcripts, vocabulary, recogniser and batches; see `trainer.Task`."""
        tower, tokenizer = read_tower(config.model), read_tokenizer(config.model)
        sizes = config.model.sizes if tower is None else tower.config
        assert isinstance(sizes, HubertConfig)
        examples = open_examples(config.data, workdir, log, verify=config.train.verify)
        first = "random" if tower is None else tower.digest
        tokens_of = "" if tokenizer is None else tokenizer.digest
        same = {"data": examples.digest, "tower": first, "tokenizer": tokens_of}
        assert_equal_across_hosts(same)
        check_rate(examples, sizes.sample_rate)
        transcripts = _transcripts(config, examples)
        vocabulary = choose_vocabulary(config.model, tower, transcripts, tokenizer)
        rows = _labels(config, transcripts, vocabulary, tokenizer)
        source, left_out = _source(config, examples, rows, vocabulary.blank, sizes, log)
        if left_out:
            log(
                f"data: {len(left_out)} transcripts are too long for their clips, the first is "
                f"that of {left_out[0]}; they are left out"
            )
        steps = config.train.total_steps(source.plan.batches_per_epoch)
        model = build_recogniser(
            config.model, tower, vocabulary, config.seed, verify=config.train.verify
        )
        split = param_tree.split(model)
        return Prepared(
            weights=lambda: split.trained,
            frozen=devices.replicate(split.frozen),
            make_step=functools.partial(make_ctc_step, split.rebuild, blank=vocabulary.blank),
            batches=lambda start: read_batches(source, start=start, config=config.data.batch),
            steps=steps,
            identity={
                "first tower": first,
                "vocabulary": list(vocabulary.tokens),
                **({} if tokenizer is None else {"tokenizer": tokens_of}),
            },
            data_digest=examples.digest,
            validate=_validator(config, model) if config.data.validation else None,
            score=SCORE,
            parameters=param_tree.count(param_tree.flat_weights(model)),
            data=f"{len(source.plan.bucket_of):,} clips, {len(vocabulary.tokens)} tokens",
            parts=split,
        )

    def export(self, config: CtcExperiment, workdir: Path, prepared: Prepared, best: Best) -> None:
        """The recogniser as a tower folder."""
        del config
        split = prepared.parts
        assert isinstance(split, param_tree.Split)
        trained = jax.tree.map(np.asarray, best.state.trained)
        save_speech_tower(workdir / TOWER, split.rebuild(trained, split.frozen))

    def exported(self, workdir: Path) -> tuple[Path, TowerInfo]:
        """workdir/tower."""
        return workdir / TOWER, read_info(workdir / TOWER, expected=RECOGNISERS)


def _transcripts(config: CtcExperiment, examples: SpeechDataset) -> list[str]:
    """The transcript of each clip, plain if the config asks for it."""
    column = config.data.transcripts
    texts = examples.transcripts if column == "transcript" else examples.texts
    transcripts: list[str | None] = [
        plain_text(text) if config.data.plain and text is not None else text for text in texts
    ]
    return need_transcripts(examples.ids, transcripts, config.data.train, column=column)


def _labels(
    config: CtcExperiment,
    transcripts: Sequence[str],
    vocabulary: CtcVocabulary,
    tokenizer: TextTokenizer | None,
) -> list[list[int]]:
    """Ids of the recogniser's outputs for each transcript."""
    if tokenizer is not None:
        return token_labels(transcripts, vocabulary, tokenizer)
    if config.model.vocabulary == "tower":
        transcripts = [in_capitals(text, vocabulary) for text in transcripts]
    _check_spelling(transcripts, vocabulary, config.model.speech_tower)
    return spell_transcripts(transcripts, vocabulary)


def _check_spelling(transcripts: Sequence[str], vocabulary: CtcVocabulary, tower: str) -> None:
    if unknown := unspelled(transcripts, vocabulary):
        raise MrlError(
            f"the vocabulary has no {', '.join(map(repr, unknown))}, which the data's transcripts "
            "have",
            where=tower,
            hint="set model.vocabulary=characters, or correct the transcripts",
        )


def _source(
    config: CtcExperiment,
    examples: SpeechDataset,
    label_rows: Sequence[Sequence[int]],
    blank: int,
    sizes: HubertConfig,
    log: Log,
) -> tuple[CtcSource, list[str]]:
    """Batches of the clips that are long enough for their transcripts; ids of the others."""
    labels, counts = pad_labels(label_rows, blank, max(map(len, label_rows)))
    repeats = ((labels[:, 1:] == labels[:, :-1]) & (labels[:, 1:] != blank)).sum(axis=1)
    frames = np.asarray([sizes.frame_count(int(n)) for n in examples.num_samples], np.int64)
    fits = frames >= counts + repeats
    rows, left_out = np.flatnonzero(fits), [examples.ids[row] for row in np.flatnonzero(~fits)]
    rate = sizes.sample_rate
    augment, stretch = resolve_augment(config.augment, config.stretch, rate)
    transform = ClipTransform(
        prepare=normalize_clip if sizes.normalize_clips else None,
        min_samples=sizes.min_samples,
        augment=functools.partial(_change, augment, config.masks, rate),
        stretch=stretch,
    )
    source = CtcSource(
        functools.partial(_clip, examples, rows),
        labels[rows],
        counts[rows],
        _plan(config, examples, rows, transform, log),
        transform=transform,
        shard=host_shard(),
    )
    return source, left_out


def _plan(
    config: CtcExperiment,
    examples: SpeechDataset,
    rows: HostArray,
    transform: ClipTransform,
    log: Log,
) -> BatchPlan:
    """Which of the examples `rows` stand in which batch; shares of tasks are logged."""
    batch, tasks = config.data.batch, [examples.tasks[row] for row in rows]
    weights = None if examples.weights is None else examples.weights[rows]
    draws = draws_of(tasks, weights, batch.mix, batch_size=batch.batch_size, one_task=False)
    if draws is not None:
        log(describe_mix(tasks, draws))
    return BatchPlan(
        transform.stretched(np.asarray(examples.num_samples)[rows]),
        np.zeros(len(rows), np.int64),
        batch_size=batch.batch_size,
        num_buckets=batch.num_buckets,
        seed=config.seed,
        draws=draws,
    )


def _validator(
    config: CtcExperiment, model: HubertCtc
) -> Callable[[TrainState], Mapping[str, float]]:
    """Error rates of the state on other recordings, all read once."""
    data = config.data
    utterances = read_utterances(data.validation, split=data.validation_split)
    ids = [utterance.id for utterance in utterances]
    references = need_transcripts(
        ids, [u.transcript for u in utterances], data.validation, column="transcript"
    )
    if data.plain:
        references = [plain_text(text) for text in references]
    recogniser = Recogniser(model)
    clips = load_each(lambda one: one.load(recogniser.config.sample_rate), utterances)

    def validate(state: TrainState) -> Mapping[str, float]:
        # Each host for itself: every one of them holds the whole state.
        recogniser.trained = jax.tree.map(lambda x: x.addressable_data(0), state.trained)
        hypotheses = recogniser.transcribe(clips, names=ids)
        if data.plain:
            hypotheses = [plain_text(text) for text in hypotheses]
        errors = compare_transcripts(references, hypotheses)
        return {SCORE: 1 - errors.wer, "wer": errors.wer, "cer": errors.cer}

    return validate


# No closures: processes that make batches receive them by pickle.
def _clip(examples: SpeechDataset, rows: HostArray, number: int) -> HostArray:
    return examples.clip(int(rows[number]))


def _change(
    augment: Augment | None, masks: MaskConfig, rate: int, clip: HostArray, rng: np.random.Generator
) -> HostArray:
    return mask_clip(clip if augment is None else augment(clip, rng), rng, masks, rate)
