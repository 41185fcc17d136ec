"""The text stage on real sentences: Wolof and French news, a tower from random weights.

python benchmarks/text_stage.py --data FOLDER     FOLDER: wol.txt and fra.txt of NTREX-128

The first 1,400 lines are trained on, the next 200 are the test: each Wolof sentence is
a query over the 200 French ones. Nothing is chosen by the test: the last step is measured.
Also the export: sentence-transformers embeds the test with it, and should agree.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import record

from converters.export import export
from mrl_jax.checkpoints.towers import load_qwen3
from mrl_jax.core.paths import user_path
from mrl_jax.data.batches.text import TextBatchConfig
from mrl_jax.data.sets.retrieval_set import Document, Query, RetrievalSet, write_retrieval_set
from mrl_jax.data.text.tokenizer import TextTokenizer, pad_tokens
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.losses.config import LossConfig
from mrl_jax.training.loop import LoopConfig
from mrl_jax.training.metrics_log import METRICS_FILE, read_metrics
from mrl_jax.training.optim import OptimConfig
from mrl_jax.training.text_tower.config import (
    NewTowerConfig,
    TextDataConfig,
    TextModelConfig,
    TextStageExperiment,
)
from mrl_jax.training.text_tower.run import train_text

TRAIN, TEST = 1400, 200
DIMS = (128, 64, 32, 16)
METRIC = "ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=user_path, required=True, help="folder of NTREX-128")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=user_path, help="keeps the run; default: a temporary folder")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(args.data, args.out or Path(temporary), args.steps)


def measure(data: Path, out: Path, steps: int) -> None:
    wolof, french = (
        (data / f"{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("wol", "fra")
    )
    out.mkdir(parents=True, exist_ok=True)
    rows = [
        {"query": query, "document": document, "task_type": "translation"}
        for query, document in zip(wolof[:TRAIN], french[:TRAIN], strict=True)
    ]
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (out / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    test = write_retrieval_set(
        out / "test",
        [Query(id=f"q{i}", text=text) for i, text in enumerate(wolof[TRAIN : TRAIN + TEST])],
        [Document(id=f"d{i}", text=text) for i, text in enumerate(french[TRAIN : TRAIN + TEST])],
        {f"q{i}": {f"d{i}": 1} for i in range(TEST)},
    )
    config = experiment(out, steps)
    begun = time.perf_counter()
    run = train_text(config, out / "run")
    seconds = time.perf_counter() - begun
    assert run.folder is not None
    before, _ = scores(test, out / "run" / "initial")
    after, vectors = scores(test, run.folder)
    trained = [x for x in read_metrics(out / "run" / METRICS_FILE) if x["kind"] == "train"]
    record(
        "text_stage",
        {
            "target": "nDCG@10 of Wolof to French well above chance",
            "data": f"NTREX-128, lines 1 to {TRAIN} to train, the next {TEST} to test",
            "parameters": _parameters(run.folder),
            "tokenizer": f"{config.model.new.max_pieces if config.model.new else 0} byte pieces",
            "steps": steps,
            "batch": f"{config.data.batch.batch_size} pairs in "
            f"{config.optim.accumulation_steps} parts",
            "seconds": round(seconds, 1),
            "pairs_per_second": round(float(np.median([x["pairs_per_second"] for x in trained]))),
            "loss": {"first": trained[0]["loss"], "last": trained[-1]["loss"]},
            METRIC: {"chance": chance(TEST), "before": before, "after": after},
            "export_largest_difference": difference(run.folder, out / "export", test, vectors),
        },
    )


def experiment(out: Path, steps: int) -> TextStageExperiment:
    optim = OptimConfig(learning_rate=1e-3, schedule="cosine", accumulation_steps=2)
    optim = dataclasses.replace(optim, warmup_fraction=0.1, weight_decay=0.1)
    return TextStageExperiment(
        name="ntrex",
        model=TextModelConfig(
            new=NewTowerConfig(units="pieces", max_pieces=2000, width=128, mlp_width=256),
            dtype="float32",
            remat=False,
        ),
        data=TextDataConfig(
            train=str(out / "pairs.jsonl"),
            batch=TextBatchConfig(batch_size=64, max_tokens=64),
        ),
        loss=LossConfig(dims=DIMS, symmetric=True),
        optim=optim,
        train=LoopConfig(steps=steps, checkpoint_every=0, tensorboard=False),
    )


def chance(documents: int) -> float:
    """Mean nDCG@10 of a random order, one document of them being relevant."""
    return float(np.sum(1 / np.log2(np.arange(2, 12))) / documents)


def scores(test: RetrievalSet, tower: Path) -> tuple[dict[str, float], Any]:
    """nDCG@10 at each dimension, and the vectors of queries and documents."""
    import jax
    from flax import nnx

    tokenizer = TextTokenizer(tower, max_tokens=64)
    graphdef, state = nnx.split(load_qwen3(tower))

    @jax.jit
    def embed(state: Any, tokens: Any) -> Any:
        return nnx.merge(graphdef, state).embed(*tokens)

    texts = [[str(query.text) for query in test.queries], [doc.text for doc in test.corpus]]
    sides = [np.asarray(embed(state, pad_tokens(tokenizer.encode(side), 64))) for side in texts]
    results = evaluate_retrieval(sides[0], sides[1], judgements_of(test), dims=DIMS)
    return {str(result.dim): round(result.means[METRIC], 4) for result in results}, sides


def difference(tower: Path, out: Path, test: RetrievalSet, ours: Any) -> float | None:
    """Largest difference to what sentence-transformers makes of the exported folder."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError:
        return None
    export(tower, out, overwrite=True)
    model = SentenceTransformer(str(out), device="cpu", local_files_only=True)
    texts = [[str(query.text) for query in test.queries], [doc.text for doc in test.corpus]]
    theirs = [model.encode(side) for side in texts]
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


def _parameters(tower: Path) -> int:
    from mrl_jax.checkpoints.towers import read_info

    shapes = read_info(tower).groups["encoder"].values()
    return sum(int(np.prod(shape)) for shape in shapes)


if __name__ == "__main__":
    main()
