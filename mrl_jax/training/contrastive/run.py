"""A training run: what `train.py` does, all parts put together."""

import dataclasses
import functools
import json
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mrl_jax.checkpoints.models import ModelInfo, read_model_info, save_model, tower_reference
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.batch import Batch
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    host_shard,
    is_primary,
    primary_first,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder, write_json
from mrl_jax.data.audio.augment import resolve_augment
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.plan import read_batches
from mrl_jax.data.batches.speech import BatchSource
from mrl_jax.data.build.builder import BUILD_FILE
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_queries, read_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.encoder import Encoder
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.models.late_fusion import LateFusion
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree
from mrl_jax.nn.param_tree import Split
from mrl_jax.training.contrastive.config import ExperimentConfig, build_model, prepare_data
from mrl_jax.training.contrastive.ctc_init import CLIPS, init_from_ctc
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import RunSummary
from mrl_jax.training.optim import make_optimizer
from mrl_jax.training.precompute import cached_documents, cached_speech
from mrl_jax.training.state import TrainState, init_state, trained_leaves
from mrl_jax.training.trainer import SCORE, Trained, begin, run_steps, scores_of

CALIBRATION_FILE = "calibration.json"


CALIBRATION_CLIPS = 16


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """What `train` gives back.

    Attributes:
        summary: how the loop ended.
        model: the exported model, with its scores, if the run finished.
    """

    summary: RunSummary
    model: ModelInfo | None

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.summary.finished


def train(
    config: ExperimentConfig,
    workdir: Path,
    *,
    devices: Devices | None = None,
    log: Callable[[str], None] = print,
) -> TrainingRun:
    """Train, or resume, and export the best model into `workdir`.

    Args:
        config: the run.
        workdir: gets the data set, checkpoints/, metrics.jsonl, model.json and the head.
        devices: all of JAX's by default.
        say: told what happens, a line at a time.

    Raises:
        MrlError: whatever is wrong with the config, the data, the towers, a checkpoint.
    """
    devices, log = begin(config, devices, log)
    tokenizer = TextTokenizer(config.model.text_tower, max_tokens=config.data.batch.max_text_tokens)
    # What no device could hold alone is put together on the host.
    host = jax.local_devices(backend="cpu")[0] if devices.fsdp > 1 else None
    with jax.default_device(host):
        model = build_model(config, tokenizer)
    validation = read_retrieval_set(config.data.validation) if config.data.validation else None
    make_folder(workdir)
    with primary_first("data"):  # It builds, where something is to be built.
        folder, report = prepare_data(config, workdir)
    if report is not None and report.skipped:
        log(f"data: {len(report.skipped)} recordings left out, see {folder / BUILD_FILE}")
    examples = open_dataset(folder, config.data.split)
    assert_equal_across_hosts({"data": examples.digest, "towers": _tower_digests(config)})
    rate = model.speech.config.sample_rate
    if examples.sample_rate != rate:
        raise MrlError(
            f"the data set is at {examples.sample_rate} Hz, the speech tower hears {rate} Hz",
            where=folder,
            hint=f"set data.build.sample_rate={rate}, or build the data set again at that rate",
        )
    augment, stretch = resolve_augment(config.augment, config.stretch, rate)
    source_of = functools.partial(
        BatchSource,
        examples,
        tokenizer,
        config.data.batch,
        seed=config.seed,
        transform=ClipTransform(
            prepare=normalize_clip if model.speech.config.normalize_clips else None,
            min_samples=model.min_samples,
            augment=augment,
            stretch=stretch,
        ),
        shard=host_shard(),
    )
    source = source_of()
    steps = config.train.total_steps(source.plan.batches_per_epoch)
    resuming = any(found.name.isdigit() for found in (workdir / "checkpoints").glob("*"))
    if config.model.calibrate:
        _calibrate(model, source, workdir, resuming=resuming)
    if isinstance(model, LateFusion) and config.model.start == "ctc" and not resuming:
        some = range(-(-CLIPS // source.plan.batch_size))
        heard = (source.rows(step, 0, source.plan.batch_size) for step in some)
        init_from_ctc(model, Path(config.model.speech_tower), tokenizer, heard)
    split = param_tree.split(model)
    optimizer = make_optimizer(config.optim, steps)
    frozen = devices.place_frozen(split.frozen)
    state = devices.replicate(init_state(split.trained, optimizer))
    encoder = Encoder(
        param_tree.Split(
            devices.to_global(state.trained), devices.to_global(frozen), split.rebuild
        ),
        model,
        tokenizer,
        prompts=config.data.batch.prompts,
        sharding=devices.global_batch_sharding,
        batch_size=32,
    )
    vectors, speech = None, None
    if config.data.store:
        vectors = cached_documents(config, encoder, examples.texts, log)
    if config.data.speech_cache:
        speech = cached_speech(config, model.speech, examples, log)
    if vectors is not None or speech is not None:
        source = source_of(vectors=vectors, speech=speech)
    identity = {
        "trained leaves": {k: list(v) for k, v in trained_leaves(split.trained).items()},
        "speech tower": tower_reference(Path(config.model.speech_tower), workdir).digest,
        "text tower": tower_reference(Path(config.model.text_tower), workdir).digest,
        "end token": model.end_token,
        "padding": config.model.padding,
        "calibration": _factors(model),
    }
    log(
        f"{config.name}: {param_tree.count(param_tree.flatten(split.trained)):,} trained of "
        f"{param_tree.count(param_tree.flat_weights(model)):,} parameters, "
        f"{len(source.plan.bucket_of):,} pairs, {steps:,} steps of "
        f"{config.data.batch.batch_size} on {len(devices.global_devices)} device(s) by "
        f"{devices.parallel}; clips padded to "
        f"{', '.join(f'{size / rate:.1f}' for size in source.plan.sizes)} s"
    )
    validate = None
    if validation is not None:
        validate = _validator(config, encoder, validation, rate, devices)

    def batches(start: int) -> Generator[Batch, None, None]:
        return read_batches(source, start=start, config=config.data.batch)

    found = run_steps(
        config,
        workdir,
        devices,
        devices.compile_step(
            split.rebuild,
            optimizer,
            config.loss,
            accumulation_steps=config.optim.accumulation_steps,
        ),
        state,
        frozen,
        batches,
        steps=steps,
        dims=config.loss.dims,
        identity=identity,
        data_digest=examples.digest,
        validate=validate,
        score=SCORE,
        log=log,
    )
    if not found.summary.finished:
        return TrainingRun(found.summary, None)
    run_on_primary(lambda: _export(config, workdir, model, split, found))
    info = read_model_info(workdir)
    wait = found.summary.input_wait
    log(f"model of step {found.step} in {workdir}; input wait {wait:.1%} of the time")
    return TrainingRun(found.summary, info)


def _calibrate(model: TwoTowers, source: BatchSource, workdir: Path, *, resuming: bool) -> None:
    """Fit the head's fixed factors to the first clips; a resumed run reads them back."""
    path, head = workdir / CALIBRATION_FILE, model.head
    if resuming and path.is_file():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            for name, factor in head.factors().items():
                factor[...] = jnp.asarray(stored[name], jnp.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise MrlError(
                f"cannot be read as the factors of the head ({error})",
                where=path,
                hint="begin the run anew in another --workdir",
            ) from error
        return
    batch = source.rows(0, 0, min(CALIBRATION_CLIPS, source.plan.batch_size))
    graphdef, arrays = nnx.split(model)

    @jax.jit
    def fit(arrays: Any, samples: Any, lengths: Any) -> dict[str, Any]:
        fitted = nnx.merge(graphdef, arrays)
        fitted.calibrate(samples, lengths)
        return {name: factor[...] for name, factor in fitted.head.factors().items()}

    for name, value in fit(arrays, batch.samples, batch.lengths).items():
        head.factors()[name][...] = value
    if is_primary():
        write_json(path, _factors(model))


def _factors(model: TwoTowers) -> dict[str, Any]:
    """The head's fixed factors as JSON has them."""
    return {name: np.asarray(f[...]).tolist() for name, f in model.head.factors().items()}


def _validator(
    config: ExperimentConfig, encoder: Encoder, data: RetrievalSet, rate: int, devices: Devices
) -> Callable[[TrainState], Mapping[str, float]]:
    """Scores of the state on a retrieval set; documents are encoded once, as they never move."""
    data = data.judged_only()
    clips, tasks, prompts, names = load_queries(data.queries, rate)
    judgements = judgements_of(data)
    encoder.check_speech(clips, tasks=tasks, names=names)  # Before the run, not after it.
    documents: list[HostArray] = []

    def validate(state: TrainState) -> Mapping[str, float]:
        encoder.trained = devices.to_global(state.trained)
        if not documents:
            documents.append(encoder.text([document.text for document in data.corpus]))
        queries = encoder.speech(clips, tasks=tasks, prompts=prompts, names=names)
        results = evaluate_retrieval(queries, documents[0], judgements, dims=config.loss.dims)
        return scores_of(results)

    return validate


def _export(
    config: ExperimentConfig,
    workdir: Path,
    model: TwoTowers,
    split: Split,
    found: Trained,
) -> None:
    # Later lines win: the head's weights with its fixed factors multiplied in.
    trained = {path: np.asarray(x) for path, x in param_tree.flatten(found.state.trained).items()}
    head = split.rebuild(found.state.trained, split.frozen).head
    trained.update({f"head.{path}": array for path, array in head.fold().items()})
    info = {
        "kind": config.model.kind,
        "speech": tower_reference(Path(config.model.speech_tower), workdir),
        "text": tower_reference(Path(config.model.text_tower), workdir),
        "fusion": model.config,
        "padding": config.model.padding,
        "dims": config.loss.dims,
        "prompts": dict(config.data.batch.prompts),
        "max_text_tokens": config.data.batch.max_text_tokens,
        "step": found.step,
        "scores": {} if found.score is None else {SCORE: found.score},
        "dtype": config.model.dtype,
    }
    save_model(workdir, info, trained)


def _tower_digests(config: ExperimentConfig) -> str:
    towers = (config.model.speech_tower, config.model.text_tower)
    return " ".join(read_info(Path(tower)).digest for tower in towers)
