"""Contrastive training: what `mrl-jax train` does with an `ExperimentConfig`."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mrl_jax.checkpoints.models import ModelInfo, read_model_info, save_model, tower_reference
from mrl_jax.checkpoints.towers import read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.distributed import assert_equal_across_hosts, host_shard
from mrl_jax.core.paths import user_path
from mrl_jax.data.audio.augment import resolve_augment
from mrl_jax.data.batches.clips import ClipTransform
from mrl_jax.data.batches.plan import read_batches
from mrl_jax.data.batches.speech import BatchSource
from mrl_jax.data.build.dataset import SpeechDataset
from mrl_jax.data.sets.issues import warn_issues
from mrl_jax.data.sets.retrieval_set import RetrievalSet, load_queries, read_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.encoder import Encoder
from mrl_jax.losses.registry import LOSSES
from mrl_jax.models.inputs import normalize_clip
from mrl_jax.models.late_fusion import LateFusion
from mrl_jax.models.soft_ctc import SoftCtc
from mrl_jax.models.two_towers import TwoTowers
from mrl_jax.nn import param_tree
from mrl_jax.training.contrastive.calibration import calibrate, check_room, factors_of
from mrl_jax.training.contrastive.config import ExperimentConfig, ModelConfig, build_model
from mrl_jax.training.contrastive.ctc_init import CLIPS, init_from_ctc
from mrl_jax.training.contrastive.step import make_train_step
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import Prepared
from mrl_jax.training.negatives import check_negatives
from mrl_jax.training.precompute import frozen_outputs
from mrl_jax.training.speech_data import check_rate, open_examples
from mrl_jax.training.state import Log, TrainState
from mrl_jax.training.trainer import Best, RunResult, has_checkpoint, run, scores_of


@checked
def train(
    config: ExperimentConfig, workdir: Path, *, devices: Devices | None = None, log: Log = print
) -> RunResult[ModelInfo]:
    """Train a head, or resume, and export the best model into `workdir`.

    Arguments are those of `trainer.run`. The workdir also gets the data set.

    Raises:
        MrlError: whatever is wrong with the config, the data, the towers, a checkpoint.
    """
    return run(ContrastiveTask(), config, workdir, devices=devices, log=log)


class ContrastiveTask:
    """A head is trained between two frozen towers."""

    def prepare(
        self, config: ExperimentConfig, workdir: Path, devices: Devices, log: Log
    ) -> Prepared:
        """Towers, head, calibration, caches and batches; see `trainer.Task`."""
        # First, so that a missing tower is named as one.
        folders = user_path(config.model.speech_tower), user_path(config.model.text_tower)
        digests = [read_info(folder).digest for folder in folders]
        max_tokens = config.data.batch.max_text_tokens
        tokenizer = TextTokenizer(config.model.text_tower, max_tokens=max_tokens)
        # Weights that no device could hold alone are loaded into the host's memory.
        host = jax.local_devices(backend="cpu")[0] if devices.fsdp > 1 else None
        with jax.default_device(host):
            model = build_model(config, tokenizer)
        validation = read_retrieval_set(config.data.validation) if config.data.validation else None
        warn_issues(validation.issues if validation else (), config.data.validation)
        examples = open_examples(config.data, workdir, log, verify=config.train.verify)
        assert_equal_across_hosts({"data": examples.digest, "towers": " ".join(digests)})
        rate = model.speech.config.sample_rate
        check_rate(examples, rate)
        source = _source(config, examples, tokenizer, model)
        if source.mix:
            log(source.mix)
        if LOSSES[config.loss.name].contrastive:
            check_negatives(source.identities_of, source.plan.batches_per_epoch, log)
        steps = config.train.total_steps(source.plan.batches_per_epoch)
        _init_head(config, model, source, tokenizer, workdir)
        if isinstance(model, SoftCtc) and model.may_lose:
            check_room(model, source)
        split = param_tree.split(model)
        frozen = devices.place_frozen(split.frozen)
        encoder = Encoder(
            param_tree.Split(
                devices.to_global(devices.replicate(split.trained)),
                devices.to_global(frozen),
                split.rebuild,
            ),
            model,
            tokenizer,
            prompts=config.data.batch.prompts,
            sharding=devices.global_batch_sharding,
            batch_size=32,
        )
        caches = frozen_outputs(config, examples, encoder, model, log)
        if caches:
            source = _source(config, examples, tokenizer, model, **caches)
        return Prepared(
            weights=lambda: split.trained,
            frozen=frozen,
            make_step=functools.partial(make_train_step, split.rebuild, config=config.loss),
            batches=lambda start: read_batches(source, start=start, config=config.data.batch),
            steps=steps,
            identity={
                "speech tower": digests[0],
                "text tower": digests[1],
                "end token": model.end_token,
                "padding": config.model.padding,
                "frozen dtype": config.model.frozen_dtype or None,  # None as before there was one.
                "calibration": factors_of(model),
                **_identity_of_tokens(config.model),
            },
            data_digest=examples.digest,
            dims=config.loss.dims,
            validate=None
            if validation is None
            else _validator(config, encoder, validation, rate, devices),
            parameters=param_tree.count(param_tree.flat_weights(model)),
            data=f"{len(source.plan.bucket_of):,} pairs",
            details="; clips padded to "
            f"{', '.join(f'{size / rate:.1f}' for size in source.plan.sizes)} s",
            parts=(model, split),
        )

    def export(
        self, config: ExperimentConfig, workdir: Path, prepared: Prepared, best: Best
    ) -> None:
        """The head, its fixed factors multiplied in, with references to its towers."""
        model, split = prepared.parts
        assert isinstance(model, TwoTowers)
        assert isinstance(split, param_tree.Split)
        flat = param_tree.flatten(best.state.trained)
        trained = {path: np.asarray(x) for path, x in flat.items()}
        head = split.rebuild(best.state.trained, split.frozen).head
        trained.update({f"head.{path}": array for path, array in head.fold().items()})
        info = {
            "kind": config.model.head_kind,
            "speech": tower_reference(user_path(config.model.speech_tower), workdir),
            "text": tower_reference(user_path(config.model.text_tower), workdir),
            "fusion": model.config,
            "padding": config.model.padding,
            "dims": config.loss.dims,
            "prompts": dict(config.data.batch.prompts),
            "max_text_tokens": config.data.batch.max_text_tokens,
            "step": best.step,
            "scores": best.scores(),
            "dtype": config.model.dtype,
            "frozen_dtype": config.model.frozen_dtype,
        }
        save_model(workdir, info, trained)

    def exported(self, workdir: Path) -> tuple[Path, ModelInfo]:
        """The workdir itself is the model's folder."""
        return workdir, read_model_info(workdir)


def _identity_of_tokens(config: ModelConfig) -> dict[str, Any]:
    """What a soft head's weights were trained for."""
    names = ("compress_blank", "blank_weight", "residual")
    return {name: getattr(config, name) for name in names} if config.head == "soft_ctc" else {}


def _source(
    config: ExperimentConfig,
    examples: SpeechDataset,
    tokenizer: TextTokenizer,
    model: TwoTowers,
    **caches: Any,
) -> BatchSource:
    """Batches of the examples; `caches` are the `vectors` and `speech` of `BatchSource`."""
    rate = model.speech.config.sample_rate
    augment, stretch = resolve_augment(config.augment, config.stretch, rate)
    return BatchSource(
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
        **caches,
    )


def _init_head(
    config: ExperimentConfig,
    model: TwoTowers,
    source: BatchSource,
    tokenizer: TextTokenizer,
    workdir: Path,
) -> None:
    """Fixed factors, and weights other than random ones where the config asks for them."""
    resuming = has_checkpoint(workdir)
    if config.model.calibrate:
        calibrate(model, source, workdir, resuming=resuming)
    if config.model.head_init == "ctc" and not resuming:
        assert isinstance(model, LateFusion)  # `ModelConfig` refuses it for other kinds.
        size = source.plan.batch_size
        batches = (source.rows(step, 0, size) for step in range(-(-CLIPS // size)))
        folder, verify = user_path(config.model.speech_tower), config.train.verify
        init_from_ctc(model, folder, tokenizer, batches, verify=verify)


def _validator(
    config: ExperimentConfig, encoder: Encoder, data: RetrievalSet, rate: int, devices: Devices
) -> Callable[[TrainState], Mapping[str, float]]:
    """Scores of the state on a retrieval set; documents are encoded once, by a frozen tower."""
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
