"""One training step of late fusion at full size, beside the same step in PyTorch.

    python benchmarks/train_step.py [--rounds 2] [--seconds 4 --batch 4 --tokens 32] [--bf16]
    python benchmarks/train_step.py --bf16 --compile --batch 64 --seconds 10 --profile    # on a GPU

HuBERT-base and Qwen3-0.6B architectures of random weights, frozen; the head, nested InfoNCE at
four dims and AdamW. PyTorch: transformers' towers (SDPA attention, no gradients of weights), the
same head, eager; with --compile also torch.compile. Each side runs in processes of its own, in
turn; peak memory is that of the process, or of the accelerator's allocator. On an accelerator that
is known, also model-FLOPs utilisation; with --profile what one more step spends its time on.
"""

import argparse
import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import published_config, record, summarize, timed

OURS = ("ours", "stored", "both")
"""The whole step; with cached document vectors; with cached speech states too, in bfloat16."""
DIMS = (1024, 512, 256, 128)
PEAKS = {"NVIDIA H100": 989e12, "NVIDIA H200": 989e12, "NVIDIA A100": 312e12, "TPU v5 lite": 197e12}
"""Published FLOP/s in bfloat16, dense, by the beginning of a device's name."""
RUNS = 3
RATE = 16_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="towers in bfloat16, on both sides")
    parser.add_argument("--compile", action="store_true", help="torch.compile as a third rival")
    parser.add_argument("--profile", action="store_true", help="name the ten largest kernels")
    parser.add_argument("--worker", choices=("torch", "compiled", *OURS))
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(run(args)))
        return
    sides = ["torch", *(["compiled"] if args.compile else []), *OURS]
    timings: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(args.rounds):
        for side in sides:
            timings[side].append(worker(side, args))
            print(side, timings[side][-1], flush=True)
    figures: dict[str, Any] = {
        side: {
            **summarize([second for one in runs for second in one["seconds"]]),
            "first_call": runs[0]["first_call"],
            "peak_bytes": max(one["peak_bytes"] for one in runs),
            "loss": runs[0]["loss"],
        }
        for side, runs in timings.items()
    }
    for side in sides[1:]:
        figures[f"torch_over_{side}"] = figures["torch"]["median"] / figures[side]["median"]
    device = timings["ours"][0]["device"]
    peak = next((flop for name, flop in PEAKS.items() if device.startswith(name)), None)
    if peak is not None and args.bf16:
        figures["utilisation"] = flops(args)["all"] / figures["ours"]["median"] / peak
    if args.profile:
        figures["kernels"] = timings["ours"][-1]["kernels"]
    result = {
        "device": device,
        "target": "PyTorch's time over ours at least 1.1, and 1.5 with both caches; memory no "
        "higher",
        "inputs": {
            "clips": args.batch,
            "seconds": args.seconds,
            "document_tokens": args.tokens,
            "dtype": "bfloat16" if args.bf16 else "float32",
            "dims": DIMS,
        },
        "flops_by_formula": flops(args),
        "figures": figures,
    }
    name = "train_step" + ("_bf16" if args.bf16 else "") + ("" if device == "cpu" else "_gpu")
    record(name, result)
    print(json.dumps(figures, indent=1))


def flops(args: argparse.Namespace) -> dict[str, float]:
    """Of a step, two a multiplication: what the towers need, forward and back to the head.

    HuBERT forward only; the text tower forward over speech and documents, and backward to its
    inputs over speech, which costs as much as forward. Attention's products are left out: at
    these lengths they are below a hundredth.
    """
    frames = args.batch * args.seconds * 50
    hubert = published_config("hubert-base")
    layers_of_convolution = zip(
        hubert["conv_dim"], hubert["conv_kernel"], hubert["conv_stride"], strict=True
    )
    rate, before, convolutions = float(RATE), 1, 0.0
    for channel, kernel, stride in layers_of_convolution:
        rate /= stride
        convolutions += 2 * args.batch * args.seconds * rate * channel * kernel * before
        before = channel
    layers = 2 * frames * 12 * (4 * 768**2 + 2 * 768 * 3072)
    block = 1024 * (2 * 2048 + 2 * 1024) + 3 * 1024 * 3072
    text = 2 * 28 * block
    speech_tokens, documents = frames / 2, args.batch * args.tokens
    counts = {
        "speech tower": convolutions + layers,
        "text tower, speech": 2 * text * speech_tokens,
        "text tower, documents": text * documents,
    }
    return {**counts, "all": sum(counts.values())}


def inputs(args: argparse.Namespace) -> tuple[Any, Any]:
    """Clips of unit variance, and ids of documents."""
    rng = np.random.default_rng(0)
    samples = rng.standard_normal((args.batch, int(args.seconds * RATE)), dtype=np.float32)
    return samples, rng.integers(0, 151_000, (args.batch, args.tokens))


def run(args: argparse.Namespace) -> dict[str, Any]:
    step, device = (run_torch if args.worker in ("torch", "compiled") else run_ours)(args)
    losses: list[float] = []
    first = timed(lambda: losses.append(step()))
    seconds = [timed(lambda: losses.append(step())) for _ in range(RUNS)]
    kernels = profiled(step) if args.profile and args.worker in OURS else None
    return {
        "device": device,
        "kernels": kernels,
        "seconds": seconds,
        "first_call": first,
        "loss": losses[0],
        "peak_bytes": peak(args.worker),
    }


def profiled(step: Callable[[], float]) -> list[dict[str, Any]]:
    """The ten names that most of a step's time is spent under, in seconds."""
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            step()
        (path,) = Path(folder).rglob("*.xplane.pb")
        planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    spent: dict[str, float] = {}
    for plane in devices or [plane for plane in planes if plane.name == "/host:CPU"]:
        for line in plane.lines:
            for event in line.events:
                spent[event.name] = spent.get(event.name, 0.0) + event.duration_ns / 1e9
    largest = sorted(spent.items(), key=lambda item: -item[1])[:10]
    return [{"name": name, "seconds": seconds} for name, seconds in largest]


def peak(side: str) -> int:
    if side in ("torch", "compiled"):
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    else:
        import jax

        if seen := jax.devices()[0].memory_stats():
            return int(seen["peak_bytes_in_use"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run_torch(args: argparse.Namespace) -> tuple[Callable[[], float], str]:
    """transformers' towers and a head of torch's own layers."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if args.bf16 else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        speech_config = transformers.HubertConfig(**published_config("hubert-base"))
        text_config = transformers.Qwen3Config(**published_config("qwen3-0.6b"))
        speech = transformers.HubertModel(speech_config)
        text = transformers.Qwen3Model(text_config)
        projection = torch.nn.Linear(12 * 768, 1024, bias=False)
        conv = torch.nn.Conv1d(1024, 1024, kernel_size=2, stride=2)
    towers: list[Any] = [speech, text]
    for tower in towers:
        tower.to(dtype).eval().requires_grad_(False)
    head = torch.nn.ModuleList([projection, conv])
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-4)
    samples, ids = (torch.from_numpy(x).to(device) for x in inputs(args))

    def pooled(output: Any) -> Any:
        return torch.nn.functional.normalize(output.last_hidden_state[:, -1].float(), dim=-1)

    def loss_of() -> Any:
        with torch.no_grad():
            states = speech(samples.to(dtype), output_hidden_states=True).hidden_states[1:]
            documents = pooled(text(ids, use_cache=False))
        frames = projection(torch.cat(states, dim=-1).float())
        tokens = conv(frames.transpose(1, 2)).transpose(1, 2)
        queries = pooled(text(inputs_embeds=tokens.to(dtype), use_cache=False))
        target = torch.arange(args.batch, device=device)
        parts = [
            torch.nn.functional.cross_entropy(
                torch.nn.functional.normalize(queries[:, :dim], dim=-1)
                @ torch.nn.functional.normalize(documents[:, :dim], dim=-1).T
                / 0.05,
                target,
            )
            for dim in DIMS
        ]
        return sum(parts) / len(DIMS)

    compiled = torch.compile(loss_of) if args.worker == "compiled" else loss_of

    def step() -> float:
        optimizer.zero_grad()
        loss = compiled()
        loss.backward()
        optimizer.step()
        return float(loss)

    return step, device


def run_ours(args: argparse.Namespace) -> tuple[Callable[[], float], str]:
    """The project's own step, compiled as `train.py` compiles it."""
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from mrl_jax.core.batch import Batch
    from mrl_jax.losses.config import LossConfig
    from mrl_jax.models.hubert import HubertConfig, HubertEncoder
    from mrl_jax.models.late_fusion import LateFusion, LateFusionConfig
    from mrl_jax.models.qwen3 import Qwen3Config, Qwen3Encoder
    from mrl_jax.nn import param_tree
    from mrl_jax.training.contrastive.step import make_train_step
    from mrl_jax.training.devices import Devices
    from mrl_jax.training.optim import OptimConfig, make_optimizer
    from mrl_jax.training.state import init_state

    dtype = jnp.bfloat16 if args.bf16 else jnp.float32
    rngs = nnx.Rngs(0)
    text = Qwen3Encoder(Qwen3Config.embedding_0_6b(), dtype=dtype, param_dtype=dtype, rngs=rngs)
    speech = HubertEncoder(HubertConfig.base(), dtype=dtype, param_dtype=dtype, rngs=rngs)
    model = LateFusion(
        param_tree.freeze(speech), param_tree.freeze(text), config=LateFusionConfig(), rngs=rngs
    )
    split = param_tree.split(model)
    place = Devices("pmap", jax.devices()[:1])
    optimizer = make_optimizer(OptimConfig(warmup_fraction=0.0), 100)
    state = place.replicate(init_state(split.trained, optimizer))
    frozen = place.replicate(split.frozen)
    samples, ids = inputs(args)
    rows = np.arange(args.batch, dtype=np.int32)
    lengths = np.full(args.batch, samples.shape[1], np.int32)
    rng = np.random.default_rng(1)
    tokens, vectors, cache = ids.astype(np.int32), None, None
    if args.worker in ("stored", "both"):
        tokens = tokens[:, :0]
        vectors = rng.standard_normal((args.batch, 1024), np.float32)
    if args.worker == "both":
        cache = speech_cache(rng, args.batch, HubertConfig.base().frame_count(samples.shape[1]))
        samples = samples[:, :0]
    host = Batch(
        samples=samples,
        lengths=lengths,
        prompt=np.zeros((args.batch, 0), np.int32),
        prompt_mask=np.zeros((args.batch, 0), bool),
        document=tokens,
        document_mask=np.ones(tokens.shape, bool),
        query_ids=rows,
        document_ids=rows,
        rows=np.ones(args.batch, bool),
        document_vectors=vectors,
    )
    batch = place.put_batch(host)
    compiled = place.compile(
        make_train_step(split.rebuild, optimizer, LossConfig(dims=DIMS), axis_name=place.axis_name)
    )

    def step() -> float:
        nonlocal state
        # States are far larger than samples, so reading and moving them is timed.
        given = batch
        if cache is not None:
            speech = cache.rows(np.arange(args.batch), cache.frames[0])
            given = place.put_batch(dataclasses.replace(host, speech=speech))
        state, metrics = compiled(state, frozen, given)
        return float(metrics["loss"])

    return step, jax.devices()[0].device_kind


def speech_cache(rng: np.random.Generator, clips: int, frames: int) -> Any:
    """A cache of random states in bfloat16, as `data.speech_cache` writes it."""
    import ml_dtypes

    from mrl_jax.data.cache.speech import open_speech_cache, speech_cache_key, write_speech_cache

    key = speech_cache_key(clips="", split="", tower="", dtype="", cache_dtype="bfloat16")
    shape = (np.full(clips, frames, np.int64), 12, 768)
    states = rng.standard_normal((frames, 12, 768), np.float32).astype(ml_dtypes.bfloat16)
    with tempfile.TemporaryDirectory() as name:  # Open memory maps outlive the folder.
        write_speech_cache(Path(name), key, *shape, ((clip, states, None) for clip in range(clips)))
        return open_speech_cache(Path(name), key, *shape)


def worker(side: str, args: argparse.Namespace) -> dict[str, Any]:
    """One side in a process of its own."""
    time.sleep(1)  # Let the other side's threads go.
    command = [sys.executable, str(Path(__file__)), "--worker", side]
    for name in ("batch", "seconds", "tokens"):
        command += [f"--{name}", str(getattr(args, name))]
    command += [f"--{name}" for name in ("bf16", "profile") if getattr(args, name)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    main()
