"""What a run of the text stage leaves: a text tower like any other, and the factors of a LoRA."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.checkpoints.adapters import save_adapter
from mrl_jax.checkpoints.new_towers import appending_end, sentence_files, small_files, write_tower
from mrl_jax.checkpoints.towers import read_checked_weights
from mrl_jax.core.array_types import DTYPES, HostArray
from mrl_jax.core.records import DAMAGED, read_object
from mrl_jax.data.text.prompts import query_prompt
from mrl_jax.models.lora import LoraConfig, merge_factors
from mrl_jax.nn import param_tree
from mrl_jax.training.text_tower.config import TextStageExperiment
from mrl_jax.training.text_tower.initial import InitialTower
from mrl_jax.training.trainer import Best

TOWER, ADAPTER = "tower", "adapter"
"""Folders of a run: the trained tower, and the factors that were merged into it."""


def export_tower(
    config: TextStageExperiment, workdir: Path, tower: InitialTower, data_digest: str, best: Best
) -> None:
    """The tower as it was computed with, in its dtype, with its tokenizer and prompts.

    Trained factors are merged into the weights of the folder that the run began with, whatever they
    were held in meanwhile, and stay beside it as workdir/adapter.
    """
    dtype, lora = np.dtype(DTYPES[config.model.dtype]), config.train.text_lora
    trained = {path: np.asarray(x) for path, x in param_tree.flatten(best.state.trained).items()}
    stored = read_checked_weights(tower.folder, tower.info) if _reads_base(lora, tower) else {}
    if lora.rank:
        named: dict[str, Any] = {"tower": tower.info.digest, **_source(tower.folder)}
        save_adapter(workdir / ADAPTER, trained, lora=lora, config=tower.config, **named)
        trained = merge_factors(stored["encoder"], trained, lora, dtype=dtype)
    groups = {"encoder": trained}
    if "unused_tensors" in stored:
        groups["unused_tensors"] = stored["unused_tensors"]
    weights = {
        group: {path: x.astype(dtype, copy=False) for path, x in arrays.items()}
        for group, arrays in groups.items()
    }
    report = {
        "made_by": "mrl-jax train",
        "run": config.name,
        "first_tower": tower.info.digest,
        "data_digest": data_digest,
        "step": best.step,
        "scores": best.scores(),
    }
    _write(config, workdir, tower, weights, report)


def _write(
    config: TextStageExperiment,
    workdir: Path,
    tower: InitialTower,
    weights: dict[str, dict[str, HostArray]],
    report: dict[str, Any],
) -> None:
    """The folder workdir/tower."""
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


def _reads_base(lora: LoraConfig, tower: InitialTower) -> bool:
    return lora.rank > 0 or "unused_tensors" in tower.info.groups


def _source(folder: Path) -> dict[str, str]:
    """`source` and `revision`: the checkpoint that a tower folder is a conversion of, as it was
    named, and its commit; "" if it is none."""
    try:
        report = read_object(folder / "report.json")
    except DAMAGED:
        report = {}  # A note for the user of the adapter is all that is lost.
    if "adapter" in report:  # The weights are not those of the source.
        report = {}
    found = {name: report.get(name) for name in ("source", "revision")}
    return {name: value if isinstance(value, str) else "" for name, value in found.items()}
