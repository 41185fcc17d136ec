"""Fit a rotation after which short prefixes carry most: `mrl-jax rotate`.

No training: the model embeds training data once, and the principal directions become its
coordinates. Cosines of whole vectors do not change; `mrl-jax eval spectrum` shows what the
prefixes gain on other data.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.hub import refuse_snapshot
from mrl_jax.core.paths import user_path, user_text
from mrl_jax.data.audio.decode import load_clip, load_each
from mrl_jax.data.build.builder import BUILD_FILE
from mrl_jax.data.build.dataset import open_dataset
from mrl_jax.data.sets.digests import digest_lines, digest_retrieval_set
from mrl_jax.data.sets.manifest import read_manifest
from mrl_jax.data.sets.named_sets import load_retrieval_set
from mrl_jax.evaluation.encoded_set import encode_corpus, encode_queries, need_prefixes
from mrl_jax.inference.embedder import Embedder
from mrl_jax.inference.search.rotation import (
    Rotation,
    check_absent,
    fit_rotation,
    save_rotation,
    text_keys,
)
from mrl_jax.inference.search.vectors import numbers_of

FITS = ("documents", "speech", "joint")
EXAMPLES = 5000


def fit_model_rotation(
    model: Path,
    data: Path | str,
    *,
    fit: str = "documents",
    centred: bool = True,
    split: str = "train",
    examples: int = EXAMPLES,
    overwrite: bool = False,
    verify: bool = True,
) -> str:
    """Fit, write the rotation into the model's folder, and report what leading coordinates keep.

    Args:
        model: folder of a trained model.
        data: a built data set, a manifest, or a retrieval set (also by name).
        fit: the vectors whose principal directions count.
        centred: subtract their mean while fitting; never when the rotation is used.
        split: of a data set or manifest.
        examples: of a data set or manifest, at most so many, drawn evenly from it.
        overwrite: replace a rotation that is there.
        verify: compare the model's files with their digests.

    Raises:
        MrlError: a model or data that cannot be read; a rotation that is there; no examples; the
            model is the hub's cached copy.
    """
    if fit not in FITS:
        raise MrlError(f"{fit!r}, expected one of {', '.join(FITS)}", where="--fit")
    if examples < 2:
        raise MrlError(f"{examples}, expected 2 or more", where="--examples")
    refuse_snapshot(model, by="a rotation")
    embedder = Embedder.load(model, verify=verify)
    need_prefixes(embedder, model)
    check_absent(model, overwrite=overwrite)
    vectors, digest, texts = _embed(embedder, data, split, examples, fit)
    rotation = Rotation(
        matrix=fit_rotation(vectors, centred=centred),
        head_digest=embedder.info.head_digest,
        data=str(data),
        data_digest=digest,
        fitted_on=fit,
        centred=centred,
        rows=len(vectors),
        texts=text_keys(dict.fromkeys(texts)),
    )
    path = save_rotation(model, rotation, overwrite=overwrite)
    lines = [f"rotation: {path}, fitted on {len(vectors)} vectors ({fit}) of {data}"]
    lines += [
        f"the first {dim} coordinates keep {_kept(vectors, dim):.1%} of the energy as they are, "
        f"{_kept(vectors @ rotation.matrix, dim):.1%} rotated"
        for dim in sorted(embedder.info.dims)
    ]
    return "\n".join(lines)


def _embed(
    embedder: Embedder, data: Path | str, split: str, examples: int, fit: str
) -> tuple[Float32[HostArray, "R E"], str, Sequence[str]]:
    """Vectors of the wanted side, or of both; the source's digest, and its documents' texts."""
    path, rate = Path(user_text(data)), embedder.model.speech.config.sample_rate
    speech = documents = np.zeros((0, embedder.width), np.float32)
    if (path / BUILD_FILE).is_file():
        source = open_dataset(path, split)
        if fit != "documents" and source.sample_rate != rate:
            raise MrlError(
                f"has {source.sample_rate} samples a second, and the model takes {rate}",
                where=path,
                hint=f"build it with --sample-rate {rate}",
            )
        rows = _evenly(len(source), examples)
        texts, tasks = ([column[i] for i in rows] for column in (source.texts, source.tasks))
        names, digest = [source.ids[i] for i in rows], source.digest
        clips = [source.clip(i) for i in rows] if fit != "documents" else []
    elif path.is_file():
        chosen = [example for example in read_manifest(path) if example.split == split]
        if not chosen:
            raise MrlError(
                f"has no example of the split {split!r}", where=path, hint="pass another --split"
            )
        chosen = [chosen[i] for i in _evenly(len(chosen), examples)]
        texts, tasks = [e.text for e in chosen], [e.task for e in chosen]
        names = [e.id for e in chosen]
        digest = digest_lines((e.id, e.text) for e in chosen)
        wanted = chosen if fit != "documents" else []
        clips = load_each(lambda e: load_clip(Path(str(e.audio)), rate), wanted)
    else:
        retrieval = load_retrieval_set(data)
        if fit != "documents":
            speech = numbers_of(encode_queries(embedder, retrieval))
        if fit != "speech":
            documents = encode_corpus(embedder, retrieval)
        corpus = [document.text for document in retrieval.corpus]
        return np.concatenate((speech, documents)), digest_retrieval_set(retrieval), corpus
    if fit != "documents":
        encoded = embedder.encoder.speech(clips, tasks=tasks, names=names, progress="speech")
        speech = numbers_of(encoded)
    if fit != "speech":
        documents = embedder.encoder.text(list(dict.fromkeys(texts)), progress="documents")
    return np.concatenate((speech, documents)), digest, texts


def _evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` of `count` rows, evenly apart."""
    wanted = min(count, wanted)
    return [place * count // wanted for place in range(wanted)]


def _kept(vectors: HostArray, dim: int) -> float:
    squares = vectors.astype(np.float64) ** 2
    return float(squares[:, :dim].sum() / squares.sum())


def main(argv: Sequence[str], *, prog: str = "mrl-jax rotate") -> int:
    parser = CommandParser(
        prog=prog,
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", type=user_path, required=True, help="folder of a trained model")
    text = "training data: a built data set, a manifest, or a retrieval set"
    parser.add_argument("--data", type=user_text, required=True, help=text)
    default = "default: %(default)s"
    parser.add_argument("--fit", choices=FITS, default="documents", help=default)
    text = "fit without subtracting the mean first (it is never subtracted in use)"
    parser.add_argument("--uncentred", action="store_true", help=text)
    parser.add_argument("--split", default="train", help=f"of a data set or manifest; {default}")
    text = f"at most so many of a data set or manifest; {default}"
    parser.add_argument("--examples", type=int, default=EXAMPLES, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier rotation")
    text = "load without comparing the model's files with their digests"
    parser.add_argument("--no-verify", dest="verify", action="store_false", help=text)
    options = vars(parser.parse_args(argv))
    print(fit_model_rotation(centred=not options.pop("uncentred"), **options))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
