"""What eight-bit frozen towers cost in quality, on trained models and their test sets.

    python benchmarks/int8_towers.py WORLD=MODEL=TESTSET ...

Each model is loaded three times: its towers in float32, in bfloat16, and in bfloat16 with the
kernels of their layers in eight bits. nDCG@10 at every dim of the model, the cosine of each vector
with that of bfloat16, and the bytes of the weights.
"""

import argparse
from typing import Any

import jax
import numpy as np
from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.data.sets.retrieval_set import read_retrieval_set
from mrl_jax.evaluation.encoded_set import encode_set
from mrl_jax.evaluation.scoring import evaluate_retrieval, judgements_of
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.vectors import numbers_of
from mrl_jax.nn import param_tree

FORMS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "int8": True},
}
TARGET = "nDCG at most .005 below bfloat16's on two real worlds, half of its memory"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("worlds", nargs="+", metavar="WORLD=MODEL=TESTSET")
    args = parser.parse_args()
    figures = {}
    for world in args.worlds:
        name, model, data = world.split("=")
        figures[name] = measure(model, data)
        print(name, figures[name], flush=True)
    record("int8_towers", {"target": TARGET, "figures": figures})


def measure(model: str, folder: str) -> dict[str, Any]:
    """nDCG@10 by dim, cosines with bfloat16, and bytes, of each form of one model."""
    data = read_retrieval_set(user_path(folder))
    judgements = judgements_of(data)
    result: dict[str, Any] = {"queries": len(data.queries), "documents": len(data.corpus)}
    vectors = {}
    for form, options in FORMS.items():
        embedder = Embedder.load(model, **options)
        queries, documents = encode_set(embedder, data)
        vectors[form] = np.concatenate((numbers_of(queries), documents))
        found = evaluate_retrieval(queries, documents, judgements, dims=embedder.info.dims)
        weights = param_tree.split(embedder.model).frozen
        kernels = {path: x for path, x in weights.items() if path.endswith("kernel")}
        result[form] = {
            "ndcg": {str(one.dim): one.means["ndcg@10"] for one in found},
            "bytes": nbytes(weights),
            "kernel_bytes": nbytes(kernels),
        }
    for form in ("float32", "int8"):
        cosines = np.sum(vectors[form] * vectors["bfloat16"], axis=1)
        result[form] |= {"cosine": float(cosines.mean()), "least_cosine": float(cosines.min())}
    return result


def nbytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


if __name__ == "__main__":
    main()
