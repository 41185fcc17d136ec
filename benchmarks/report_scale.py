"""The sections on scale and speed in docs/benchmarks.md; `report.py` puts them together."""

import functools
from collections.abc import Callable
from typing import Any

import report_padding
from markdown_tables import markdown_table, median_and_range

STEPS = {
    "torch": "PyTorch, eager",
    "ours": "ours",
    "stored": "ours, cached documents",
    "both": "ours, cached documents and speech",
}
LOOPS = {
    "step alone": "steps alone",
    "loop": "training loop, batches made before",
    "loop, grain": "training loop, Grain",
}


def nested_loss(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    ratios, memory = figures["over_plain"], figures["bytes_beside_the_vectors"]
    rows = [
        [kind, f"{figures[kind]['median']:.2f}", f"{ratio:.2f}"] for kind, ratio in ratios.items()
    ]
    names = {"plain": "full width, plain", "kept": "nested", "blockwise": "nested, blockwise"}
    large = [[name, f"{memory[kind] / 1e9:.2f}"] for kind, name in names.items()]
    dims = ", ".join(map(str, inputs["dims"]))
    return [
        "## Nested loss",
        f"Loss and both gradients of InfoNCE, batch {inputs['batch']:,}, on {result['device']}. "
        f"Nested: at {dims} coordinates. Plain: unit vectors, one product, logsumexp, "
        "differentiated by JAX; one by one: the same, once per dimension. Median of "
        f"{figures['nested']['repeats']}, alternating.",
        markdown_table(["loss", "seconds", "/ full width, plain"], rows),
        f"Peak memory beside the vectors at batch {inputs['large']:,}, each in its own process:",
        markdown_table(["loss", "GB"], large),
    ]


def train_step(result: dict[str, Any], where: str = "") -> list[str]:
    """`where`: on which of several processors, for the heading."""
    figures, inputs = result["figures"], result["inputs"]
    rows = []
    for side, name in STEPS.items():
        median, peak = figures[side]["median"], figures[side]["peak_bytes"] / 1e9
        ratio = figures["torch"]["median"] / median
        rows.append([name, f"{median:.2f}", f"{ratio:.2f}", f"{peak:.1f}"])
    work = result["flops_by_formula"]["all"] / 1e9
    return [
        f"## Training step{where}",
        f"Late fusion over HuBERT-base and Qwen3-0.6B, random weights, {inputs['clips']} clips of "
        f"{inputs['seconds']:g} s, documents of {inputs['document_tokens']} tokens, "
        f"{inputs['dtype']}, on {result['device']}; {work:.0f} GFLOP by formula. Each side in "
        f"processes of its own, alternating; median of {figures['ours']['repeats']}. "
        f"Peak memory is that of the process, {result.get('memory', 'drawing weights included')}.",
        markdown_table(["step", "seconds", "PyTorch's time /", "peak memory, GB"], rows),
    ]


def int8_towers(result: dict[str, Any]) -> list[str]:
    """A row for each world: scores of the three forms, cosines and bytes."""
    rows = []
    for world, one in result["figures"].items():
        dims = list(one["bfloat16"]["ndcg"])
        scores = [" ".join(f"{one[form]['ndcg'][dim]:.4f}" for dim in dims) for form in FORMS]
        lost = max(one["bfloat16"]["ndcg"][dim] - one["int8"]["ndcg"][dim] for dim in dims)
        share = one["int8"]["kernel_bytes"] / one["bfloat16"]["kernel_bytes"]
        cosine = f"{one['int8']['cosine']:.5f}; {one['int8']['least_cosine']:.4f}"
        rows.append(
            [f"{world}, {', '.join(dims)}", *scores, f"{lost:+.4f}", cosine, f"{share:.2f}"]
        )
    return [
        "## Towers in eight bits",
        "nDCG@10 of trained models at each dim on their test sets, with the towers' weights in "
        "float32, in bfloat16, and in bfloat16 with the kernels of the layers in eight bits. "
        "*Lost* is the most that eight bits lose to bfloat16 at any dim; *cosine* is of vectors "
        "with those of bfloat16, mean and least; *bytes* are those of the kernels over bfloat16's.",
        markdown_table(["world, dims", *FORMS, "lost", "cosine", "bytes"], rows),
    ]


FORMS = ("float32", "bfloat16", "int8")
RIVALS = {"linear": "step", "clips": "clips", "texts": "texts"}
"""Ours, and what PyTorch's parts call the same work."""


def gpu(result: dict[str, Any], *, explained: bool = True) -> list[str]:
    figures = result["figures"]
    timed = [x for x in figures if isinstance(x.get("seconds"), dict)]
    median = {(x["part"], x["name"]): x["seconds"]["median"] for x in timed}
    rows = []
    for entry in timed:
        rival = RIVALS.get(entry["name"]) if entry["part"] == "step" else None
        compiled = median.get(("pytorch", f"{rival}, compiled"))
        share = entry.get("utilisation")
        memory = entry.get("bytes", entry.get("program_bytes"))
        seconds = entry["seconds"]
        rows.append(
            [
                entry["part"],
                entry["name"],
                f"{1e3 * seconds['median']:.1f}",
                f"{1e3 * seconds['min']:.1f} to {1e3 * seconds['max']:.1f}",
                "" if compiled is None else f"{compiled / seconds['median']:.2f}",
                "" if share is None else f"{share:.1%}",
                "" if memory is None else f"{memory / 1e9:.1f}",
            ]
        )
    header = ["part", "what", "ms", "range", "compiled PyTorch's time / ours", "utilisation", "GB"]
    shapes = ["shape", "kernel", "forward, ms", "both, ms", "error"]
    stopped = [f"{x['part']} (status {x['stopped']})" for x in figures if "stopped" in x]
    return [
        f"## One GPU: {result['device']}",
        *([GPU_PARTS] if explained else []),
        markdown_table(header, rows),
        *([result["note"]] if "note" in result else []),
        *([GPU_ATTENTION] if explained else ["Attention by itself:"]),
        markdown_table(shapes, attention(figures)),
        *(
            [f"Broken off, by a time limit where the status is 124 or 137: {', '.join(stopped)}."]
            if stopped
            else []
        ),
    ]


GPU_PARTS = (
    "Bfloat16. *step*: a training step of late fusion at full size, 64 clips of 10 s and documents "
    "of 32 tokens (HuBERT-base, Qwen3-0.6B); *clips*: the same 64 embedded; *texts*: 512 texts of "
    "128 tokens; *large*: 256 texts of 128 tokens by a tower of 4B; *loss*: both gradients of "
    "InfoNCE, float32. PyTorch has SDPA and TF32. Utilisation is of 989 TFLOP/s, by the formula in "
    "benchmarks/late_fusion_step.py. *Cached* steps take the states and document vectors from the "
    "host in each step: ten in a row, of which the mean counts, three times; others are timed one "
    "by one, ten times, with their batch on the device."
)
GPU_ATTENTION = (
    "Attention by itself, bfloat16: forward alone, and forward with backward. Errors are relative "
    "to float32, the largest of result and gradients, over all places; in the Pallas kernel that "
    "comes with JAX padded places of speech attend to one another, and differ."
)


def attention(figures: list[dict[str, Any]]) -> list[list[str]]:
    rows = []
    for entry in figures:
        if "both_ms" in entry:
            shape, kernel = entry["name"].split(": ")
            times = [f"{entry[key]:.2f}" for key in ("forward_ms", "both_ms")]
            rows.append([shape, kernel, *times, f"{max(entry['errors']):.1e}"])
    return rows


def large_batch(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    base = figures["8"]["bytes"]
    rows = [
        [name, f"{figures[name]['bytes'] / 1e9:.2f}", f"{figures[name]['bytes'] / base:.2f}"]
        for name in inputs["cases"]
    ]
    return [
        "## Large batches in parts",
        "Peak memory that two training steps of late fusion add to a process that holds the same "
        f"model and batch and takes none; clips of {inputs['samples'] / 16000:g} s, towers of "
        "middling size. In parts the gradient is that of the whole batch "
        "(`optim.accumulation_steps`).",
        markdown_table(["batch", "GB", "/ batch of 8"], rows),
    ]


def scaling(result: dict[str, Any]) -> list[str]:
    inputs, estimate = result["inputs"], result["estimate"]
    rows = []
    for name, counts in result["figures"].items():
        kinds = counts["collectives"]
        sent = sum(kind["bytes"] for kind in kinds.values())
        needed = counts["needed_bytes"]
        rows.append(
            [
                name,
                ", ".join(f"{kind['times']} {what}" for what, kind in sorted(kinds.items())),
                f"{sent / 1e6:.2f}",
                f"{needed / 1e6:.2f}",
                f"{sent / needed:.3f}" if needed else "",
            ]
        )
    chip, pod = estimate["chip"], estimate["pod"]
    paper = []
    for chips, f in estimate["chips"].items():
        times = f"{1e3 * f['compute_seconds']:.0f}", f"{1e3 * f['network_seconds']:.1f}"
        paper.append([chips, *times, f"{f['pairs_per_second']:,.0f}", f"{f['efficiency']:.1%}"])
    return [
        "## Collectives of a training step",
        "Late fusion over HuBERT-base and Qwen3-0.6B in bfloat16, "
        f"{inputs['rows_a_device']} clips of {inputs['seconds']} s a device, compiled for "
        "simulated devices and not run. Bytes: the results of all collectives in the compiled "
        "program. Needed: the gradients of the trained weights once, and the document vectors "
        "of all rows. (Under pmap a single device exchanges with itself.) The head is the linear "
        "one where none is named.",
        markdown_table(["by, devices", "collectives", "MB", "needed, MB", "/ needed"], rows),
        f"On paper, for {chip['name']} and {pod['rows']} clips of {pod['seconds']:g} s a chip with "
        f"documents of {pod['tokens']} tokens. Assumed: {chip['utilisation']:.0%} of the published "
        f"{chip['flops'] / 1e12:.0f} TFLOP/s, {chip['link_bytes'] / 1e9:.0f} GB/s round a ring, "
        f"{chip['latency'] * 1e6:.0f} µs a hop, nothing overlapped, input on time: one chip takes "
        f"in {pod['rows'] * pod['seconds'] / 3600:.3f} hours of audio a step. Nothing of this was "
        "measured.",
        markdown_table(
            ["chips", "compute, ms", "network, ms", "pairs a second", "efficiency"], paper
        ),
    ]


def text_lora(result: dict[str, Any]) -> list[str]:
    inputs = result["inputs"]
    rows = []
    for name, counts in result["figures"].items():
        sent = sum(kind["bytes"] for kind in counts["collectives"].values())
        needed = counts["needed_bytes"]
        sizes = (counts["trained_bytes"], sent, needed)
        rows.append(
            [
                name,
                *(f"{size / 1e6:,.2f}" for size in sizes),
                f"{sent / needed:.3f}" if needed else "",
                f"{counts['argument_bytes'] / 1e9:.2f}",
            ]
        )
    return [
        "## LoRA in the text stage",
        f"The step of the text stage on Qwen3-0.6B in bfloat16, {inputs['rows_a_device']} pairs of "
        f"{inputs['tokens']} tokens a device, compiled for simulated devices and not run: factors "
        f"of rank {inputs['rank']} on every projection (`train.text_lora.rank={inputs['rank']}`), "
        "and for comparison the tower trained whole. Sent: the results of all collectives in the "
        "compiled program. Needed: the gradients of what is trained once, the document vectors of "
        "all rows, and their gradients. (Under pmap a single device exchanges with itself. Over a "
        "mesh XLA's CPU backend reduces the gradients of the queries' pass and of the documents' "
        "each for itself.) Held: weights, moments and batch of one device.",
        markdown_table(
            [
                "trained, by, devices",
                "trained, MB",
                "sent, MB",
                "needed, MB",
                "sent / needed",
                "held, GB",
            ],
            rows,
        ),
    ]


def growth(result: dict[str, Any]) -> list[str]:
    """A row for each part and size: time and memory, and both over what they should be."""
    rows = []
    repeats = result["figures"]["search"]["1"]["seconds"]["repeats"]
    for part, sizes in result["figures"].items():
        first = sizes["1"]
        for times, one in sizes.items():
            line = int(times) if result["lines"][part] == "linear" else 1
            over = one["core_seconds"] / (int(times) * first["core_seconds"])
            memory = one["bytes"] / (line * first["bytes"])
            rows.append(
                [
                    f"{part}, {times} times",
                    median_and_range(one["seconds"]),
                    f"{one['core_seconds']:.2f}",
                    f"{over:.2f}",
                    f"{one['bytes'] / 1e9:.2f}",
                    f"{memory:.2f}",
                ]
            )
    inputs = "; ".join(f"*{part}*: {what}" for part, what in result["inputs"].items())
    constant = ", ".join(part for part, line in result["lines"].items() if line == "constant")
    return [
        "## Growth with the work",
        f"One, two, four and eight times the work, each in a process of its own; towers of "
        f"middling size, float32. Once the work is {inputs}. Median of {repeats} calls after the "
        "first, and seconds of all cores for one, as other programs took a share of the machine. "
        "Memory is the peak of the process over what it held before the first call, compiling "
        "included. */ line*: seconds of cores over those of the work once, times how often "
        "it is done; memory likewise for a step, and over that of the work once for "
        f"{constant}, which take batches or blocks of one size.",
        markdown_table(
            ["work", "seconds", "of cores", "time / line", "memory, GB", "memory / line"], rows
        ),
    ]


def fsdp(result: dict[str, Any]) -> list[str]:
    inputs = result["inputs"]
    rows = []
    for name, step in result["figures"].items():
        kinds = step["collectives"]
        gathered, reduced = (
            kinds.get(kind, {"bytes": 0})["bytes"] for kind in ("all-gather", "all-reduce")
        )
        larger = step["collectives_of_larger_batch"]["all-gather"]["bytes"]
        sizes = (step["argument_bytes"], step["temporary_bytes"], gathered, larger, reduced)
        rows.append([name.replace("_", "-"), *(f"{size / 1e9:.2f}" for size in sizes)])
    header = [
        "text tower",
        "held, GB",
        "temporary, GB",
        "gathered, GB",
        "of 64 clips",
        "reduced, GB",
    ]
    return [
        "## Frozen weights sharded over devices",
        f"What one of {inputs['devices']} devices holds and sends in a step with "
        f"{inputs['rows_a_device']} clips of {inputs['seconds']} s each and documents of "
        f"{inputs['tokens']} tokens, in bfloat16, layers recomputed (`train.parallel=mesh "
        "train.fsdp=4 model.remat=true`), and what it gathers with 64 clips and documents of 256; "
        "compiled from shapes for simulated devices, and not run. "
        "XLA's CPU backend widens bfloat16 weights to float32 before products: temporaries and "
        "gathered bytes hold them so, and are about half of that where bfloat16 is multiplied "
        "as it is.",
        markdown_table(header, rows),
    ]


def host_overhead(result: dict[str, Any]) -> list[str]:
    figures = result["figures"]
    rows = [
        [
            LOOPS[name],
            median_and_range(f),
            f"{figures['added'][name]:.2f}" if name in figures["added"] else "",
        ]
        for name, f in figures["milliseconds_a_step"].items()
    ]
    return [
        "## What the loop adds to a step",
        f"An epoch of {figures['steps']} steps at toy size, clips of 0.2 to 2 s in "
        f"{figures['shapes']} shapes; metrics to file and TensorBoard in every step, a checkpoint "
        f"at the end. Compiled after the first epoch: {len(figures['compiled_again'])} programs.",
        markdown_table(["", "ms a step", "added"], rows),
    ]


def audio_input(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    names = {
        "datasets": "soundfile and librosa in a torch DataLoader, every epoch",
        "torchaudio": "soundfile and torchaudio in a torch DataLoader, every epoch",
        "build": "ours, built once",
        "ours": "ours, every epoch after",
    }
    rows = [
        [names[side], median_and_range(f), f"{over:.2f}"]
        for side, f in figures["hours_a_second"].items()
        for over in (figures["over_datasets"][side],)
    ]
    return [
        "## Audio input",
        f"Hours of audio a second of one core: {inputs['hours'] * 60:.0f} minutes of speech in "
        f"FLAC at {inputs['written_at'] / 1000:g} kHz to normalised, padded batches of "
        f"{inputs['batch']} at 16 kHz. The data set has paid for itself after "
        f"{figures['epochs_until_even']:.1f} epochs.",
        markdown_table(["loading", "hours a second", "/ DataLoader"], rows),
    ]


def query_tokens(result: dict[str, Any]) -> list[str]:
    rows = [[name, median_and_range(f["seconds"])] for name, f in result["figures"].items()]
    return [
        "## Fewer speech tokens",
        f"Seconds for one spoken query of {result['seconds']:g} s, HuBERT-base, a head and "
        "Qwen3-0.6B with random weights in float32. Soft tokens of 25 a second take "
        f"{result['ratio']:.2f} times as long as those of 12 (median over rounds).",
        markdown_table(["speech tokens", "s"], rows),
    ]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "nested_loss": nested_loss,
    "train_step": train_step,
    "train_step_intel": functools.partial(train_step, where=" on a processor with AMX"),
    "train_step_bf16_intel": functools.partial(
        train_step, where=" on a processor with AMX, in bfloat16"
    ),
    "gpu_h200": gpu,
    "gpu_h100": functools.partial(gpu, explained=False),
    "int8_towers": int8_towers,
    "query_tokens": query_tokens,
    "large_batch": large_batch,
    "growth": growth,
    "padding": report_padding.padding,
    "packing": report_padding.packing,
    "host_overhead": host_overhead,
    "input": audio_input,
    "scaling": scaling,
    "text_lora": text_lora,
    "fsdp": fsdp,
}
"""Result name -> the function that writes its section."""
