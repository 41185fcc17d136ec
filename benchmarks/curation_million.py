"""A million texts deduplicated: seconds, peak memory, recall and precision.

    python benchmarks/curation_million.py --words DATA/ntrex/fra.txt
    python benchmarks/curation_million.py --words ... --texts 100000 --no-record

Texts are random words of a file of real ones, drawn by their frequency. One in twenty is a copy of
another text in capitals and with marks, one in twenty a copy with a word or some letters changed.
Of the latter those count whose true Jaccard similarity, of sets of Python, is the threshold or
more. datasketch is measured on fewer texts, on the same machine. Where other programs take most of
the machine compare seconds of cores rather than seconds.
"""

import argparse
import random
import resource
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from common import record

from mrl_jax.core.paths import user_path
from mrl_jax.curation.duplicates import Duplicates, DuplicatesConfig
from mrl_jax.curation.near_texts import NearConfig, band_shape, near_pairs
from mrl_jax.curation.rows import Row
from mrl_jax.data.text.normalize import plain_text

SHARE = 0.05
DATASKETCH_TEXTS = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--words", type=user_path, required=True)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-record", action="store_true", help="print only")
    args = parser.parse_args()
    config = NearConfig()
    texts, exact, near = make_texts(args.words, args.texts, args.seed)
    near = {copy: of for copy, of in near.items() if similarity(texts, copy, of, config) >= 0.85}
    rows = [Row(id=f"{place:07}", text=text) for place, text in enumerate(texts)]
    before = _peak()
    begun, core = time.perf_counter(), time.process_time()
    after = Duplicates(DuplicatesConfig(clips="none", near=config)).apply(rows)
    seconds, core = time.perf_counter() - begun, time.process_time() - core
    peak = _peak()
    figures = {
        "texts": len(texts),
        "threshold": config.threshold,
        "bands": band_shape(config),
        "seconds": round(seconds, 1),
        "core_seconds": round(core, 1),
        "peak_gb": round(peak, 2),
        "peak_before_gb": round(before, 2),
        **score(after, exact, near, texts, config),
        "datasketch": measure_datasketch(texts[:DATASKETCH_TEXTS], config),
    }
    if args.no_record:
        print(figures)
        return
    target = "a million texts in minutes, every exact copy and 0.99 of the near ones found"
    record("curation_million", {"target": target, "figures": figures})
    print(figures)


def make_texts(
    words: Path, count: int, seed: int
) -> tuple[list[str], dict[int, int], dict[int, int]]:
    """Texts, and of each exact and each near copy the place of its original."""
    rng = random.Random(seed)
    known = words.read_text(encoding="utf-8").split()
    copies = round(SHARE * count)
    originals = count - 2 * copies
    texts = [" ".join(rng.choices(known, k=rng.randint(6, 16))) for _ in range(originals)]
    exact, near = {}, {}
    for place in rng.sample(range(originals), copies):
        exact[len(texts)] = place
        texts.append(f"« {texts[place].upper()} »")
    for place in rng.sample(range(originals), copies):
        near[len(texts)] = place
        texts.append(_changed(texts[place], known, rng))
    return texts, exact, near


def _changed(text: str, known: list[str], rng: random.Random) -> str:
    """One word replaced, one left out, or one letter wrong."""
    parts = text.split()
    place, how = rng.randrange(len(parts)), rng.randrange(3)
    if how == 0:
        parts[place] = rng.choice(known)
    elif how == 1:
        del parts[place]
    else:
        at = rng.randrange(len(text))
        return f"{text[:at]}x{text[at + 1 :]}"
    return " ".join(parts)


def similarity(texts: list[str], first: int, second: int, config: NearConfig) -> float:
    """Jaccard of the texts' shingles as sets of Python."""
    a, b = (_shingles(plain_text(texts[place]), config.size) for place in (first, second))
    return len(a & b) / max(len(a | b), 1)


def _shingles(text: str, size: int) -> set[str]:
    edge = "#" * (size - 1)
    text = f"{edge}{text}{edge}"
    return {text[i : i + size] for i in range(max(len(text) - size + 1, 1))}


def score(
    after: list[Row],
    exact: dict[int, int],
    near: dict[int, int],
    texts: list[str],
    config: NearConfig,
) -> dict[str, Any]:
    """Copies that share their original's document, and documents that hold nothing else."""
    names = [row.document_id or row.id for row in after]
    family = list(range(len(texts)))
    for copy, of in (exact | near).items():
        family[copy] = of
    merged: dict[str, set[int]] = defaultdict(set)
    for place, name in enumerate(names):
        merged[name].add(place)
    groups = [places for places in merged.values() if len(places) > 1]
    right = wrong = unplanted = 0
    for places in groups:
        first = min(places)
        for place in places - {first}:
            if family[place] == family[first]:
                right += 1
            elif similarity(texts, place, first, config) >= config.threshold:
                unplanted += 1  # Near by chance.
            else:
                wrong += 1
    return {
        "exact_copies": len(exact),
        "exact_recall": sum(names[a] == names[b] for a, b in exact.items()) / len(exact),
        "near_copies": len(near),
        "near_recall": round(sum(names[a] == names[b] for a, b in near.items()) / len(near), 5),
        "merged": right + wrong + unplanted,
        "near_by_chance": unplanted,
        "precision": round((right + unplanted) / max(right + wrong + unplanted, 1), 5),
    }


def measure_datasketch(texts: list[str], config: NearConfig) -> dict[str, Any]:
    """datasketch with the same bands, beside ours, on a few texts."""
    from datasketch import MinHash, MinHashLSH

    plain = [plain_text(text) for text in texts]
    begun = time.process_time()
    sets = [[shingle.encode() for shingle in _shingles(text, config.size)] for text in plain]
    index = MinHashLSH(params=band_shape(config), num_perm=config.hashes)
    for place, one in enumerate(MinHash.bulk(sets, num_perm=config.hashes)):
        index.query(one)
        index.insert(place, one)
    theirs = time.process_time() - begun
    begun = time.process_time()
    near_pairs(plain, config)
    ours = time.process_time() - begun
    return {"texts": len(texts), "core_seconds": round(theirs, 2), "ours": round(ours, 2)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == "__main__":
    main()
