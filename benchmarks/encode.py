"""A corpus of texts and of clips encoded at full size on a CPU, beside PyTorch.

    python benchmarks/encode.py --texts-from FILE... [--texts 2000 --clips 500] [--rounds 3]
        [--folder models]

Texts are lines of the files, in their real lengths; clips are noise of 1 to 15 s. Ours is
`Embedder` with its defaults. PyTorch's side is sentence-transformers for texts; for clips a loop
over transformers' HuBERT-base, the linear head and Qwen3-0.6B (SDPA): sorted by length, padded to
the longest of the batch. Of its batch sizes the fastest on a sample is taken. Both sides use
float32 and then bfloat16, and all cores, in processes of their own, in turn. Ours embeds everything
twice: the first call of a process traces and compiles a program for each shape, which is a large
part of the time for few items and a small one for many.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize
from full_size_models import make_models
from late_fusion_step import Sizes, TorchSide

RATE = 16_000
SIDES = ("ours", "torch")
DTYPES = ("float32", "bfloat16")
TEXT_BATCHES, CLIP_BATCHES = (8, 32), (1, 4, 16)
SAMPLE = 16, 6
"""Texts and clips by which the batch sizes are chosen."""
Rounds = dict[tuple[str, str], list[dict[str, Any]]]
"""Of each dtype and side, what its processes measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--texts-from", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where models are made, or were made before")
    parser.add_argument("--worker", choices=SIDES)
    parser.add_argument("--dtype", choices=DTYPES)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps({"ours": ours, "torch": torch_side}[args.worker](args)))
        return
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as cache:
        args.folder = (args.folder or Path(scratch)).absolute()
        if not (args.folder / "model").is_dir():
            make_models(args.folder)
        sides = list(itertools.product(DTYPES, SIDES))
        rounds: Rounds = {side: [] for side in sides}
        for _ in range(args.rounds):
            for dtype, side in sides:
                rounds[dtype, side].append(one := run_side(side, dtype, args, cache))
                print(dtype, side, {**one, "vectors": len(one["vectors"])}, flush=True)
    target = "PyTorch's time over ours at least 1.3"
    record("encode", {"inputs": describe(args), "figures": figures_of(rounds), "target": target})


def run_side(side: str, dtype: str, args: argparse.Namespace, cache: str) -> dict[str, Any]:
    counts = ["--texts", str(args.texts), "--clips", str(args.clips)]
    command = [sys.executable, __file__, "--worker", side, "--dtype", dtype, *counts]
    command += ["--folder", str(args.folder)]
    command += ["--texts-from", *map(str, args.texts_from)]
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def figures_of(rounds: Rounds) -> dict[str, Any]:
    """Times in each dtype, PyTorch's over ours, and the fastest of PyTorch's over ours."""
    figures: dict[str, Any] = {}
    for kind in ("texts", "clips"):
        both = {dtype: compare(kind, *(rounds[dtype, side] for side in SIDES)) for dtype in DTYPES}
        fastest_of = {side: min(one[side]["median"] for one in both.values()) for side in SIDES}
        ratio = fastest_of["torch"] / fastest_of["ours"]
        figures[kind] = {**both, "fastest_torch_over_fastest_ours": ratio}
    exact = np.asarray(rounds["float32", "torch"][0]["vectors"])
    cosines = {
        dtype: float((np.asarray(rounds[dtype, "ours"][0]["vectors"]) * exact).sum(1).min())
        for dtype in DTYPES
    }
    return {**figures, "smallest_cosine_of_texts": cosines}


def compare(kind: str, ours: list[dict[str, Any]], torch: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians, the first call beside them, and PyTorch's time over ours."""
    mine, theirs = (summarize([one[kind] for one in side]) for side in (ours, torch))
    return {
        "ours": mine,
        "ours, first": ours[0][f"{kind}, first"],
        "torch": theirs,
        "torch_over_ours": theirs["median"] / mine["median"],
        "torch_batch": [one[f"{kind}_batch"] for one in torch],
    }


def describe(args: argparse.Namespace) -> dict[str, Any]:
    words = [len(text.split()) for text in texts_of(args)]
    seconds = [len(clip) / RATE for clip in clips_of(args)]
    return {
        "texts": {"count": len(words), "words": sum(words), "longest": max(words)},
        "clips": {"count": len(seconds), "seconds": sum(seconds), "longest": max(seconds)},
    }


def texts_of(args: argparse.Namespace) -> list[str]:
    """Distinct lines of all files, drawn evenly."""
    lines = [line for path in args.texts_from for line in path.read_text().splitlines()]
    distinct = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    order = np.random.default_rng(0).permutation(len(distinct))
    return [distinct[place] for place in order[: args.texts]]


def clips_of(args: argparse.Namespace) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    lengths = rng.integers(RATE, 15 * RATE, args.clips)
    return [rng.standard_normal(length, dtype=np.float32) * 0.1 for length in lengths]


def ours(args: argparse.Namespace) -> dict[str, Any]:
    from mrl_jax import Embedder
    from mrl_jax.core.compilation_cache import keep_compiled

    keep_compiled()
    embedder = Embedder.load(args.folder / "model", dtype=args.dtype)
    texts, clips = texts_of(args), [(clip, RATE) for clip in clips_of(args)]
    runs = {
        "texts": lambda: embedder.embed_text(texts),
        "clips": lambda: embedder.embed_speech(clips),
    }
    result: dict[str, Any] = {}
    for kind, run in runs.items():
        result[f"{kind}, first"], vectors = timed_result(run)
        result[kind], _ = timed_result(run)
        if kind == "texts":
            result["vectors"] = vectors[:8].tolist()
    return result


def torch_side(args: argparse.Namespace) -> dict[str, Any]:
    import torch
    from sentence_transformers import SentenceTransformer

    options = {"dtype": args.dtype}
    model = SentenceTransformer(
        str(args.folder / "text-source"), device="cpu", model_kwargs=options
    )
    texts, clips = texts_of(args), sorted(clips_of(args), key=len, reverse=True)

    def encode(given: list[str], batch: int) -> Any:
        return model.encode(given, batch_size=batch, normalize_embeddings=True)

    side = TorchSide(Sizes(bf16=args.dtype == "bfloat16"))

    def encode_clips(given: list[np.ndarray], batch: int) -> None:
        for start in range(0, len(given), batch):
            embed_padded(side, given[start : start + batch])

    with torch.inference_mode():
        batch = fastest(encode, texts[: SAMPLE[0]], TEXT_BATCHES)
        seconds, vectors = timed_result(lambda: encode(texts, batch))
        result = {"texts": seconds, "texts_batch": batch}
        sample = clips[:: max(1, len(clips) // SAMPLE[1])]
        batch = fastest(encode_clips, sample, CLIP_BATCHES)
        seconds, _ = timed_result(lambda: encode_clips(clips, batch))
        result |= {"clips": seconds, "clips_batch": batch}
    return {**result, "vectors": np.asarray(vectors[:8], np.float32).tolist()}


def timed_result(run: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and what was returned."""
    begun = time.perf_counter()
    result = run()
    return time.perf_counter() - begun, result


def fastest(run: Callable[[Any, int], Any], given: Any, batches: tuple[int, ...]) -> int:
    """The batch size that takes the least time, after one call to warm up."""
    run(given[:2], 2)
    seconds = {}
    for batch in batches:
        begun = time.perf_counter()
        run(given, batch)
        seconds[batch] = time.perf_counter() - begun
    return min(seconds, key=lambda batch: seconds[batch])


def embed_padded(side: TorchSide, clips: list[np.ndarray]) -> Any:
    """Unit vectors of clips, the longest first, whose padding is masked in both towers."""
    import torch

    longest = len(clips[0])
    samples = np.stack([np.pad(clip, (0, longest - len(clip))) for clip in clips])
    mask = np.arange(longest)[None] < np.array([[len(clip)] for clip in clips])
    states = side.speech(
        torch.from_numpy(samples).to(side.dtype),
        torch.from_numpy(mask).long(),
        output_hidden_states=True,
    ).hidden_states[1:]
    frames = side.projection(torch.cat(states, dim=-1).float())
    tokens = side.conv(frames.transpose(1, 2)).transpose(1, 2)
    counts = (np.array([len(clip) for clip in clips]) * tokens.shape[1]) // longest
    token_mask = torch.arange(tokens.shape[1])[None] < torch.from_numpy(counts)[:, None]
    tokens = tokens.to(side.dtype)
    output = side.text(inputs_embeds=tokens, attention_mask=token_mask.long(), use_cache=False)
    last = output.last_hidden_state[torch.arange(len(clips)), torch.from_numpy(counts) - 1]
    return torch.nn.functional.normalize(last.float(), dim=-1)


if __name__ == "__main__":
    main()
