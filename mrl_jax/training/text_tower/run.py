"""A run of the text stage: what `train.py` does with a `TextStageExperiment`."""

import dataclasses
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
    write_text_tower,
)
from mrl_jax.checkpoints.towers import TowerInfo, load_qwen3, read_checked_weights, read_info
from mrl_jax.core.array_types import DTYPES, HostArray
from mrl_jax.core.distributed import (
    assert_equal_across_hosts,
    host_shard,
    is_primary,
    primary_first,
    replicated,
    run_on_primary,
)
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import make_folder
from mrl_jax.data.batches.text import TextPairSource, prompt_of
from mrl_jax.data.sets.retrieval_set import Query, read_retrieval_set
from mrl_jax.data.sets.text_pairs import pairs_digest, read_pairs
from mrl_jax.data.text.tokenizer import TextTokenizer, query_prompt, tokenizer_digest
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.text_encoder import embed_tokens
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.nn import param_tree
from mrl_jax.training.devices import Devices
from mrl_jax.training.loop import RunSummary
from mrl_jax.training.optim import kernels_by_name, make_optimizer
from mrl_jax.training.state import TrainState, init_state, trained_leaves
from mrl_jax.training.text_tower.config import INITIAL, TextStageExperiment, prepare_tower
from mrl_jax.training.text_tower.step import (
    RebuildText,
    make_text_step,
    text_embedder,
    tower_rebuilder,
)
from mrl_jax.training.trainer import SCORE, begin, check_dims, check_whole, run_steps, scores_of

TOWER = "tower"


@dataclasses.dataclass(frozen=True)
class TextStageRun:
    """What `train_text` gives back.

    Attributes:
        summary: how the loop ended.
        tower: folder of the trained tower, if the run finished.
        info: what it holds.
    """

    summary: RunSummary
    tower: Path | None
    info: TowerInfo | None

    @property
    def finished(self) -> bool:
        """Whether all steps were done."""
        return self.summary.finished


def train_text(
    config: TextStageExperiment,
    workdir: Path,
    *,
    devices: Devices | None = None,
    log: Callable[[str], None] = print,
) -> TextStageRun:
    """Train a text tower whole, or resume, and write the best as a tower folder.

    Args:
        config: the run.
        workdir: gets checkpoints/, metrics.jsonl, tower/, and initial/ for a new tower.
        devices: all of JAX's by default.
        say: told what happens, a line at a time.

    Raises:
        MrlError: whatever is wrong with the config, the pairs, the tower, a checkpoint.
    """
    check_whole(config.train.fsdp)
    devices, log = begin(config, devices, log)
    batching, parts = config.data.batch, config.optim.accumulation_steps
    pairs = read_pairs(config.data.train)
    validation = config.data.validation
    make_folder(workdir)
    with primary_first("tower"):  # A new one is made by the first, and found by the others.
        made = config.model.new is None or is_primary()
        folder = prepare_tower(config, pairs, workdir) if made else workdir / INITIAL
    begun = read_info(folder, expected=("qwen3",))
    assert isinstance(begun.config, Qwen3Config)
    check_dims(config.loss.dims, begun.config.width, folder)
    tokenizer = TextTokenizer(folder, max_tokens=batching.max_tokens)
    digest = pairs_digest(pairs)
    assert_equal_across_hosts(
        {"data": digest, "tower": begun.digest, "tokenizer": tokenizer_digest(folder)}
    )
    source = TextPairSource(pairs, tokenizer, batching, seed=config.seed, shard=host_shard())
    _check_ids(source.largest_id, begun.config.vocab_size, folder)
    rebuild = tower_rebuilder(begun.config, DTYPES[config.model.dtype], remat=config.model.remat)
    validate = None
    if validation:
        validate = _validator(config, rebuild, tokenizer, begun.config.vocab_size, devices)
    steps = config.train.total_steps(source.batches_per_epoch)
    optimizer = make_optimizer(config.optim, steps, decayed=kernels_by_name)
    state = devices.replicate(init_state(_weights(folder), optimizer))
    leaves = trained_leaves(state.trained)
    identity = {
        "trained leaves": {path: list(shape) for path, shape in leaves.items()},
        "first tower": begun.digest,
        "tokenizer": tokenizer_digest(folder),
        "optimiser": config.optim.name,
    }
    log(
        f"{config.name}: {sum(int(np.prod(x)) for x in leaves.values()):,} parameters, "
        f"{len(pairs):,} pairs, {steps:,} steps of {batching.batch_size} in {parts} part(s) on "
        f"{len(devices.global_devices)} device(s) by {devices.parallel}; {source.cut:,} texts fill "
        f"{batching.max_tokens} tokens or are cut there"
    )
    step = make_text_step(
        rebuild,
        optimizer,
        config.loss,
        dtype=DTYPES[config.model.dtype],
        accumulation_steps=parts,
        axis_name=devices.axis_name,
    )
    found = run_steps(
        config,
        workdir,
        devices,
        devices.compile(step),
        state,
        {},
        source.from_step,
        steps=steps,
        dims=config.loss.dims,
        identity=identity,
        data_digest=digest,
        validate=validate,
        score=SCORE,
        log=log,
    )
    if not found.summary.finished:
        return TextStageRun(found.summary, None, None)
    report = {
        "made_by": "the text stage",
        "run": config.name,
        "first_tower": begun.digest,
        "data_digest": digest,
        "step": found.step,
        "scores": {} if found.score is None else {SCORE: found.score},
    }
    tower = workdir / TOWER
    run_on_primary(
        lambda: _export(config, tower, folder, begun, tokenizer.end_id, found.state, report)
    )
    log(f"tower of step {found.step} in {tower}")
    return TextStageRun(found.summary, tower, read_info(tower, expected=("qwen3",)))


def _weights(folder: Path) -> dict[str, Any]:
    tower = load_qwen3(folder, dtype=jnp.float32, trainable=True)
    return param_tree.split(tower).trained


def _check_ids(largest: int, vocab_size: int, where: Path) -> None:
    if largest >= vocab_size:
        raise MrlError(
            f"the tokenizer gives the id {largest}, and the tower has {vocab_size} embeddings",
            where=where,
            hint="put the tokenizer.json of its own checkpoint beside it",
        )


def _validator(
    config: TextStageExperiment,
    rebuild: RebuildText,
    tokenizer: TextTokenizer,
    vocab_size: int,
    devices: Devices,
) -> Callable[[TrainState], Mapping[str, float]]:
    """Scores of the state on a retrieval set; all is encoded anew, as all is trained."""
    data = read_retrieval_set(config.data.validation).judged_only()
    where, prompts = config.data.validation, config.data.batch.prompts
    queries = tokenizer.encode([_asked(query, prompts, where) for query in data.queries])
    documents = tokenizer.encode([document.text for document in data.corpus])
    largest = max(max(ids) for ids in (*queries, *documents))
    _check_ids(largest, vocab_size, Path(where))
    judgements = judgements_of(data)
    rows = devices.global_batch_sharding
    embed = jax.jit(
        text_embedder(rebuild, DTYPES[config.model.dtype]), out_shardings=replicated(rows)
    )

    def validate(state: TrainState) -> Mapping[str, float]:
        trained = devices.to_global(state.trained)

        def encode(tokens: Sequence[Sequence[int]]) -> HostArray:
            return embed_tokens(lambda ids, mask: embed(trained, ids, mask), tokens, sharding=rows)

        asked, held = encode(queries), encode(documents)
        return scores_of(evaluate_retrieval(asked, held, judgements, dims=config.loss.dims))

    return validate


def _asked(query: Query, prompts: Mapping[str, str], where: str) -> str:
    name = f"{where}, query {query.id!r}"
    written = query.text or query.transcript
    if written is None:
        raise MrlError(
            "has neither `text` nor `transcript`",
            where=name,
            hint="the text stage asks in writing: choose a set with written queries",
        )
    return prompt_of(query.task or "", prompts, name) + written


def _export(
    config: TextStageExperiment,
    out: Path,
    source: Path,
    begun: TowerInfo,
    end_id: int,
    state: TrainState,
    report: Mapping[str, Any],
) -> None:
    """The tower as it was computed with: in its dtype, with its tokenizer and prompts."""
    assert isinstance(begun.config, Qwen3Config)
    dtype = np.dtype(DTYPES[config.model.dtype])
    flat = param_tree.flatten(state.trained)
    weights = {"encoder": {path: np.asarray(flat.pop(path)).astype(dtype) for path in [*flat]}}
    if "unused_tensors" in begun.groups:
        carried = read_checked_weights(source, begun)["unused_tensors"]
        weights["unused_tensors"] = {path: array.astype(dtype) for path, array in carried.items()}
    batching = config.data.batch
    before = {
        task: query_prompt(sentence) for task, sentence in batching.prompts.items() if sentence
    }
    files: dict[str, str | bytes] = {
        **small_files(source),
        **sentence_files(begun.config.width, batching.max_tokens, before),
        "report.json": json.dumps(report, indent=1) + "\n",
    }
    tokenizer = (source / "tokenizer.json").read_bytes()
    files["tokenizer.json"] = appending_end(tokenizer, end_id, where=source / "tokenizer.json")
    write_text_tower(out, begun.config, weights, files, naming=begun.naming)
