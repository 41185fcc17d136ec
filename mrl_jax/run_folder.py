"""What every run keeps in its folder, and how its scores are named."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mrl_jax import param_tree
from mrl_jax.errors import MrlError
from mrl_jax.evaluation.retrieval import RetrievalResult

SCORE = "ndcg@10"
CONFIG_FILE = "experiment.json"


def check_whole(fsdp: int) -> None:
    """Raises an `MrlError` where weights are to be shared out: frozen ones only can be."""
    if fsdp != 1:
        raise MrlError(
            f"train.fsdp is {fsdp}, and shares out frozen weights: this stage trains its own",
            mend="leave train.fsdp out",
        )


def make_folder(workdir: Path) -> None:
    """The run's folder, made if it is not there."""
    if workdir.exists() and not workdir.is_dir():
        raise MrlError(
            "is a file, expected a folder", where=workdir, mend="choose another --workdir"
        )
    workdir.mkdir(parents=True, exist_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, path)


def tell_changes(record: Mapping[str, Any], workdir: Path, say: Callable[[str], None]) -> None:
    """A resumed run may have another config or data; what differs is said, never just taken."""
    path = workdir / CONFIG_FILE
    if not path.is_file():
        return
    try:
        before = param_tree.flatten(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        return
    now = param_tree.flatten(record)
    changed = [name for name in now if before.get(name) != now[name]]
    if changed:
        told = ", ".join(f"{name} {before.get(name)} → {now[name]}" for name in changed)
        say(f"note: the config has changed since the run began: {told}")


def scores_of(results: Sequence[RetrievalResult]) -> dict[str, float]:
    """nDCG@10 at each dimension; that of the widest also by its bare name."""
    widest = max(results, key=lambda result: result.dim)
    return {
        SCORE: widest.means[SCORE],
        **{f"{SCORE}/{result.dim}": result.means[SCORE] for result in results},
    }
