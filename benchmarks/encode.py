"""A corpus of texts and of clips encoded at full size on a CPU, beside PyTorch.

    python benchmarks/encode.py --texts-from FILE... [--dtype bfloat16] [--texts 2000 --clips 500]
        [--calls 2] [--rounds 1] [--folder models]

Texts are lines of the files, whose tokens are about as many as Qwen3's own tokenizer makes of them;
clips are noise of 1 to 15 s. Ours is `Embedder` with its defaults. PyTorch's side is
sentence-transformers for texts; for clips a loop over transformers' HuBERT-base, the linear head
and Qwen3-0.6B (SDPA): sorted by length, padded to the longest of the batch. Of its batch sizes the
fastest on a sample is taken. Both sides use all cores, in processes of their own, in turn. The
first call of ours traces and compiles a program for each shape, which is a large part of the time
for few items; with two calls the second is compared. Results are encode_DTYPE.json.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import record, summarize
from full_size_models import learned_merges, make_models
from late_fusion_step import Sizes, TorchSide

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError, existing_file

RATE = 16_000
SIDES = ("ours", "torch")
DTYPES = ("float32", "bfloat16")
MERGES = 4000
"""Merges learned from the texts: tokens of Wolof and French are then as many as Qwen3's, which were
counted once (46.7 a sentence of NTREX-128)."""
TEXT_BATCHES, CLIP_BATCHES = (8, 32), (1, 4, 16)
SAMPLE = 16, 6
"""Texts and clips by which the batch sizes are chosen."""
Rounds = dict[str, list[dict[str, Any]]]
"""Of each side, what its processes measured."""


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python benchmarks/encode.py", description=__doc__)
    parser.add_argument("--texts-from", type=Path, nargs="+", required=True)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--clips", type=int, default=500)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--calls", type=int, choices=(1, 2), default=2, help="of ours")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where models are made, or were made before")
    parser.add_argument("--worker", choices=SIDES)
    args = parser.parse_args(argv)
    if min(args.texts, args.clips, args.rounds) < 1:
        raise MrlError("--texts, --clips and --rounds are 1 or more", hint="give larger numbers")
    if args.worker:
        print(json.dumps({"ours": ours, "torch": torch_side}[args.worker](args)))
        return 0
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory() as cache:
        args.folder = (args.folder or Path(scratch)).absolute()
        prepare(args)
        rounds: Rounds = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                rounds[side].append(one := run_side(side, args, cache))
                print(side, {**one, "vectors": len(one["vectors"])}, flush=True)
        inputs = describe(args)
    target = "PyTorch's time over ours at least 1.3"
    record(
        f"encode_{args.dtype}", {"inputs": inputs, "figures": figures_of(rounds), "target": target}
    )
    return 0


def prepare(args: argparse.Namespace) -> None:
    """Make the models, or check that those in the folder have the tokenizer of these texts."""
    merges = learned_merges(lines_of(args), MERGES)
    kept = args.folder / "merges.json"
    if not (args.folder / "model").is_dir():
        make_models(args.folder, merges)
        kept.write_text(json.dumps(merges))
    elif not kept.is_file() or json.loads(kept.read_text()) != [list(pair) for pair in merges]:
        problem = "the models have the tokenizer of other texts"
        raise MrlError(problem, where=args.folder, hint="give another --folder")


def run_side(side: str, args: argparse.Namespace, cache: str) -> dict[str, Any]:
    counts = ["--texts", str(args.texts), "--clips", str(args.clips), "--calls", str(args.calls)]
    command = [sys.executable, __file__, "--worker", side, "--dtype", args.dtype, *counts]
    command += ["--folder", str(args.folder)]
    command += ["--texts-from", *map(str, args.texts_from)]
    environment = {**os.environ, "XDG_CACHE_HOME": cache, "HF_HUB_OFFLINE": "1"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def figures_of(rounds: Rounds) -> dict[str, Any]:
    """Times, PyTorch's over ours, and how alike the vectors are."""
    vectors = [np.asarray(rounds[side][0]["vectors"]) for side in SIDES]
    return {
        **{kind: compare(kind, *(rounds[side] for side in SIDES)) for kind in ("texts", "clips")},
        "smallest_cosine_of_texts": float((vectors[0] * vectors[1]).sum(1).min()),
    }


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
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(args.folder / "text-source" / "tokenizer.json"))
    tokens = [len(text.ids) for text in tokenizer.encode_batch(texts_of(args))]
    seconds = [len(clip) / RATE for clip in clips_of(args)]
    return {
        "calls": args.calls,
        "texts": {"count": len(tokens), "tokens": sum(tokens), "longest": max(tokens)},
        "clips": {"count": len(seconds), "seconds": sum(seconds), "longest": max(seconds)},
    }


def lines_of(args: argparse.Namespace) -> list[str]:
    """Distinct lines of all files."""
    lines = [line for path in args.texts_from for line in lines_of_file(path)]
    return list(dict.fromkeys(line.strip() for line in lines if line.strip()))


def lines_of_file(path: Path) -> list[str]:
    hint = "give files of texts in UTF-8, one a line"
    try:
        return existing_file(path, hint=hint).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise MrlError("is not UTF-8", where=path, hint=hint) from error


def texts_of(args: argparse.Namespace) -> list[str]:
    """Lines drawn evenly."""
    distinct = lines_of(args)
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
        again = args.calls == 2
        result[kind] = timed_result(run)[0] if again else result[f"{kind}, first"]
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
    sys.exit(run_command(main))
