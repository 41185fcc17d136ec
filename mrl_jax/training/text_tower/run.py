"""Text tower training: what `mrl-jax train` does with a `TextStageExperiment`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from mrl_jax.checkpoints.towers import TowerInfo, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES, HostArray
from mrl_jax.core.distributed import assert_equal_across_hosts, host_shard, replicated
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import user_path
from mrl_jax.data.batches.packing import PackedPairSource
from mrl_jax.data.batches.text import TextPairSource
from mrl_jax.data.sets.issues import warn_issues
from mrl_jax.data.sets.retrieval_set import Query, read_retrieval_set
from mrl_jax.data.sets.text_pairs import pairs_digest, read_pairs
from mrl_jax.data.text.prompts import prompt_of
from mrl_jax.data.text.tokenizer import tokenizer_digest
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.text_encoder import embed_tokens
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.towers import kinds_of
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import Prepared
from mrl_jax.training.negatives import check_negatives
from mrl_jax.training.state import Log, TrainState
from mrl_jax.training.text_tower.config import TextStageExperiment
from mrl_jax.training.text_tower.export import TOWER, export_tower
from mrl_jax.training.text_tower.initial import (
    InitialTower,
    TrainedParts,
    initial_tower,
    trained_parts,
)
from mrl_jax.training.text_tower.step import make_text_step, text_embedder
from mrl_jax.training.trainer import Best, RunResult, run, scores_of


@checked
def train_text(
    config: TextStageExperiment, workdir: Path, *, devices: Devices | None = None, log: Log = print
) -> RunResult[TowerInfo]:
    """Train a text tower, or resume, and write the best as the folder workdir/tower.

    Arguments and errors are those of `trainer.run`. The workdir also gets a new tower, in initial/,
    and the factors of `train.text_lora`, in adapter/.
    """
    return run(TextTask(), config, workdir, devices=devices, log=log)


class TextTask:
    """A text tower is trained on pairs of texts: all of it, or factors beside it."""

    def prepare(
        self, config: TextStageExperiment, workdir: Path, devices: Devices, log: Log
    ) -> Prepared:
        """Pairs, tower and batches; see `trainer.Task`."""
        pairs = read_pairs(config.data.train)
        tower = initial_tower(config, pairs, workdir)
        digest, tokenizer_id = pairs_digest(pairs), tokenizer_digest(tower.folder)
        assert_equal_across_hosts(
            {"data": digest, "tower": tower.info.digest, "tokenizer": tokenizer_id}
        )
        batching, dtype = config.data.batch, DTYPES[config.model.dtype]
        longest = tower.tokenizer.max_tokens
        source = TextPairSource(
            pairs,
            tower.tokenizer,
            batching,
            seed=config.seed,
            noise=config.noise,
            shard=host_shard(),
        )
        batches = source.from_step
        if batching.pack:
            split = len(devices.global_devices), config.optim.accumulation_steps
            batches = PackedPairSource(source, split, shard=host_shard()).from_step
        tower.check_ids(source.largest_id, tower.folder)
        check_negatives(source.identities_of, source.batches_per_epoch, log)
        parts = trained_parts(config, tower, devices)
        validate = _validator(config, parts, tower, devices) if config.data.validation else None
        step_options: dict[str, Any] = {"config": config.loss, "dtype": dtype}
        return Prepared(
            weights=parts.weights,
            frozen=parts.frozen,
            make_step=functools.partial(make_text_step, parts.rebuild, **step_options),
            batches=batches,
            steps=config.train.total_steps(source.batches_per_epoch),
            identity={
                "first tower": tower.info.digest,
                "tokenizer": tokenizer_id,
                "optimiser": config.optim.name,
                **parts.identity,
            },
            data_digest=digest,
            dims=config.loss.dims,
            validate=validate,
            parameters=parts.parameters,
            data=f"{len(pairs):,} pairs",
            details=f"; {source.cut:,} texts fill {longest} tokens or are cut there{parts.details}",
            parts=tower,
        )

    def export(
        self, config: TextStageExperiment, workdir: Path, prepared: Prepared, best: Best
    ) -> None:
        """The tower, and before it the factors where those are what was trained."""
        tower = prepared.parts
        assert isinstance(tower, InitialTower)
        export_tower(config, workdir, tower, prepared.data_digest, best)

    def exported(self, workdir: Path) -> tuple[Path, TowerInfo]:
        """workdir/tower."""
        return workdir / TOWER, read_info(workdir / TOWER, expected=kinds_of(Qwen3Config))


def _validator(
    config: TextStageExperiment, parts: TrainedParts, tower: InitialTower, devices: Devices
) -> Callable[[TrainState], Mapping[str, float]]:
    """Scores of the state on a retrieval set; all is encoded anew, as both sides are trained."""
    data = read_retrieval_set(config.data.validation).judged_only()
    warn_issues(data.issues, config.data.validation)
    where, prompts = config.data.validation, config.data.batch.prompts
    texts = [_written(query, prompts, where) for query in data.queries]
    query_tokens = tower.tokenizer.encode(texts)
    document_tokens = tower.tokenizer.encode_documents([d.text for d in data.corpus])
    tower.check_ids(max(map(max, (*query_tokens, *document_tokens))), user_path(where))
    judgements = judgements_of(data)
    rows = devices.global_batch_sharding
    embed = jax.jit(
        text_embedder(parts.rebuild, DTYPES[config.model.dtype]), out_shardings=replicated(rows)
    )
    frozen = devices.to_global(parts.frozen)

    def validate(state: TrainState) -> Mapping[str, float]:
        trained = devices.to_global(state.trained)

        def encode(tokens: Sequence[Sequence[int]]) -> HostArray:
            return embed_tokens(
                lambda ids, mask: embed(trained, frozen, ids, mask), tokens, sharding=rows
            )

        queries, documents = encode(query_tokens), encode(document_tokens)
        return scores_of(evaluate_retrieval(queries, documents, judgements, dims=config.loss.dims))

    return validate


def _written(query: Query, prompts: Mapping[str, str], where: str) -> str:
    """A query's text after the prompt of its task."""
    name = f"{where}, query {query.id!r}"
    text = query.text or query.transcript
    if text is None:
        raise MrlError(
            "has neither `text` nor `transcript`",
            where=name,
            hint="a text tower is validated on written queries: choose a set that has them",
        )
    return prompt_of(query.task, prompts, name) + text
