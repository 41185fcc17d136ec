"""Text tower training: what `mrl-jax train` does with a `TextStageExperiment`."""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrl_jax.checkpoints.new_towers import (
    appending_end,
    sentence_files,
    small_files,
    write_tower,
)
from mrl_jax.checkpoints.towers import TowerInfo, load_qwen3, read_checked_weights, read_info
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import DTYPES, HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    host_shard,
    is_primary,
    primary_first,
    replicated,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.core.paths import user_path
from mrl_jax.data.batches.text import TextPairSource
from mrl_jax.data.sets.issues import warn_issues
from mrl_jax.data.sets.retrieval_set import Query, read_retrieval_set
from mrl_jax.data.sets.text_pairs import TextPair, pairs_digest, read_pairs
from mrl_jax.data.text.prompts import prompt_of, query_prompt
from mrl_jax.data.text.tokenizer import TextTokenizer, tokenizer_digest
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.text_encoder import embed_tokens
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.towers import kinds_of
from mrl_jax.nn import param_tree
from mrl_jax.training.config import check_dims
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import Prepared
from mrl_jax.training.negatives import check_negatives
from mrl_jax.training.state import Log, TrainState
from mrl_jax.training.text_tower.config import INITIAL, TextStageExperiment, prepare_tower
from mrl_jax.training.text_tower.step import (
    RebuildText,
    make_text_step,
    text_embedder,
    tower_rebuilder,
)
from mrl_jax.training.trainer import Best, RunResult, run, scores_of

TOWER = "tower"


@checked
def train_text(
    config: TextStageExperiment, workdir: Path, *, devices: Devices | None = None, log: Log = print
) -> RunResult[TowerInfo]:
    """Train a text tower whole, or resume, and write the best as the folder workdir/tower.

    Arguments and errors are those of `trainer.run`. The workdir also gets a new tower, in initial/.
    """
    return run(TextTask(), config, workdir, devices=devices, log=log)


@dataclasses.dataclass(frozen=True)
class InitialTower:
    """The tower that a run begins with: its folder, description and tokenizer.

    Attributes:
        verify: compare its files with their digests when the weights are loaded.
    """

    folder: Path
    info: TowerInfo
    tokenizer: TextTokenizer
    verify: bool

    @property
    def config(self) -> Qwen3Config:
        assert isinstance(self.info.config, Qwen3Config)
        return self.info.config

    def weights(self) -> dict[str, Any]:
        """In float32, as a nested dict."""
        options: Any = {"dtype": jnp.float32, "trainable": True, "verify": self.verify}
        tower = load_qwen3(self.folder, **options)
        return param_tree.split(tower).trained

    def check_ids(self, largest: int, where: Path) -> None:
        """Raises an `MrlError` for a token id that the tower has no embedding for."""
        if largest >= self.config.vocab_size:
            raise MrlError(
                f"the tokenizer gives the id {largest}, and the tower has "
                f"{self.config.vocab_size} embeddings",
                where=where,
                hint="put the tokenizer.json of its own checkpoint beside it",
            )


class TextTask:
    """All of a text tower is trained, on pairs of texts."""

    def prepare(
        self, config: TextStageExperiment, workdir: Path, devices: Devices, log: Log
    ) -> Prepared:
        """Pairs, tower and batches; see `trainer.Task`."""
        pairs = read_pairs(config.data.train)
        tower = _initial_tower(config, pairs, workdir)
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
        tower.check_ids(source.largest_id, tower.folder)
        check_negatives(source.identities_of, source.batches_per_epoch, log)
        rebuild = tower_rebuilder(tower.config, dtype, remat=config.model.remat)
        validate = _validator(config, rebuild, tower, devices) if config.data.validation else None
        return Prepared(
            weights=tower.weights,
            frozen={},
            make_step=functools.partial(make_text_step, rebuild, config=config.loss, dtype=dtype),
            batches=source.from_step,
            steps=config.train.total_steps(source.batches_per_epoch),
            identity={
                "first tower": tower.info.digest,
                "tokenizer": tokenizer_id,
                "optimiser": config.optim.name,
            },
            data_digest=digest,
            dims=config.loss.dims,
            validate=validate,
            data=f"{len(pairs):,} pairs",
            details=f"; {source.cut:,} texts fill {longest} tokens or are cut there",
            parts=tower,
        )

    def export(
        self, config: TextStageExperiment, workdir: Path, prepared: Prepared, best: Best
    ) -> None:
        """The tower as it was computed with: in its dtype, with its tokenizer and prompts."""
        tower = prepared.parts
        assert isinstance(tower, InitialTower)
        report = {
            "made_by": "mrl-jax train",
            "run": config.name,
            "first_tower": tower.info.digest,
            "data_digest": prepared.data_digest,
            "step": best.step,
            "scores": best.scores(),
        }
        dtype = np.dtype(DTYPES[config.model.dtype])
        flat = param_tree.flatten(best.state.trained)
        weights = {"encoder": {path: np.asarray(flat.pop(path)).astype(dtype) for path in [*flat]}}
        if "unused_tensors" in tower.info.groups:
            unused = read_checked_weights(tower.folder, tower.info)["unused_tensors"]
            weights["unused_tensors"] = {path: x.astype(dtype) for path, x in unused.items()}
        prompts, max_tokens = config.data.batch.prompts, tower.tokenizer.max_tokens
        before = {task: query_prompt(sentence) for task, sentence in prompts.items() if sentence}
        path = tower.folder / "tokenizer.json"
        tokenizer = path.read_bytes()
        if not tower.tokenizer.adds_own_tokens:
            assert tower.tokenizer.end_id is not None
            tokenizer = appending_end(tokenizer, tower.tokenizer.end_id, where=path)
        files: dict[str, str | bytes] = {
            **small_files(tower.folder),
            **sentence_files(
                tower.config, max_tokens, before, document_prompt=tower.tokenizer.document_prompt
            ),
            "report.json": json.dumps(report, indent=1) + "\n",
            path.name: tokenizer,
        }
        info = tower.info
        write_tower(workdir / TOWER, info.kind, info.config, weights, files, naming=info.naming)

    def exported(self, workdir: Path) -> tuple[Path, TowerInfo]:
        """workdir/tower."""
        return workdir / TOWER, read_info(workdir / TOWER, expected=kinds_of(Qwen3Config))


def _initial_tower(
    config: TextStageExperiment, pairs: Sequence[TextPair], workdir: Path
) -> InitialTower:
    """The tower of the config; a new one is made by the first host, and read by the others."""
    make_folder(workdir)
    with primary_first("tower"):
        made_here = config.model.new is None or is_primary()
        folder = prepare_tower(config, pairs, workdir) if made_here else workdir / INITIAL
    info = read_info(folder, expected=kinds_of(Qwen3Config))
    assert isinstance(info.config, Qwen3Config)
    check_dims(config.loss.dims, info.config.embed_width, folder)
    tokenizer = TextTokenizer(folder, max_tokens=config.data.batch.max_tokens)
    return InitialTower(folder, info, tokenizer, config.train.verify)


def _validator(
    config: TextStageExperiment, rebuild: RebuildText, tower: InitialTower, devices: Devices
) -> Callable[[TrainState], Mapping[str, float]]:
    """Scores of the state on a retrieval set; all is encoded anew, as all is trained."""
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
        text_embedder(rebuild, DTYPES[config.model.dtype]), out_shardings=replicated(rows)
    )

    def validate(state: TrainState) -> Mapping[str, float]:
        trained = devices.to_global(state.trained)

        def encode(tokens: Sequence[Sequence[int]]) -> HostArray:
            return embed_tokens(lambda ids, mask: embed(trained, ids, mask), tokens, sharding=rows)

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
