"""The collectives of a training step on more devices, beside the bytes that the loss needs.

    python benchmarks/scaling.py [--heads linear soft]

The full-size step of late fusion (HuBERT-base and Qwen3-0.6B in bfloat16) is compiled for
simulated devices from shapes alone, with the linear head and the soft one, by pmap and over a
mesh; collectives are read from the compiled program. From their bytes and the step's FLOPs
follows an estimate on paper for pods.
"""

import argparse
import itertools
import json
from typing import Any

from collectives import collectives
from common import RESULTS, record, run_worker
from fsdp import compile_step
from late_fusion_step import Sizes, flops

HEADS = ["linear", "soft"]
ROWS, SECONDS, TOKENS, WIDTH = 4, 4, 32, 1024
CHIP = {"name": "TPU v5e", "flops": 197e12, "link_bytes": 90e9, "latency": 1e-6, "utilisation": 0.4}
"""Published peak in bfloat16; both directions of a ring on one axis of the torus, 45 GB/s each;
an assumed microsecond a hop; and an assumed fraction of the peak that a step reaches alone."""
POD = {"rows": 16, "seconds": 10.0, "tokens": 64}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=HEADS)
    parser.add_argument("--worker", nargs=3, metavar=("HEAD", "PARALLEL", "DEVICES"))
    args = parser.parse_args()
    if args.worker:
        head, parallel, devices = args.worker
        print(json.dumps(counted(head, parallel, int(devices))))
        return
    # Nothing is timed, so that heads may be counted one by one: others stay as they are.
    figures: dict[str, Any] = {}
    if args.heads != HEADS:
        figures = json.loads((RESULTS / "scaling.json").read_text())["figures"]
    for head, parallel in itertools.product(args.heads, ("pmap", "mesh")):
        for devices in (1, 2, 4):
            counts = run_worker(__file__, head, parallel, str(devices), devices=devices)
            name = f"{parallel}, {devices}" + (", soft head" if head == "soft" else "")
            figures[name] = counts
            print(name, counts, flush=True)
    trained = figures["pmap, 4"]["trained_bytes"]
    record(
        "scaling",
        {
            "target": "what the loss needs: the gradient once, and every row's document",
            "inputs": {"rows_a_device": ROWS, "seconds": SECONDS, "tokens": TOKENS},
            "figures": figures,
            "estimate": {
                "chip": CHIP,
                "pod": POD,
                "chips": {str(chips): on_paper(chips, trained) for chips in (8, 64, 256)},
            },
        },
    )


def counted(head: str, parallel: str, devices: int) -> dict[str, Any]:
    """Collectives of one compiled step, and the bytes that it could not do without."""
    sizes = Sizes(batch=ROWS * devices, seconds=SECONDS, tokens=TOKENS)
    program, trained = compile_step("embedding_0_6b", parallel, devices, sizes, head=head)
    documents = ROWS * devices * WIDTH * 4
    return {
        "collectives": collectives(program.as_text()),
        "trained_bytes": trained,
        "needed_bytes": trained + documents if devices > 1 else 0,
    }


def on_paper(chips: int, trained: int) -> dict[str, float]:
    """Step time on a pod, nothing overlapped: FLOPs as assumed, and the traffic of a ring."""
    sizes = Sizes(batch=POD["rows"], seconds=POD["seconds"], tokens=POD["tokens"])
    everyone = POD["rows"] * chips
    # Towers and head; and the loss, whose products of a device's rows with all others are made
    # once forward and twice backward, in float32 by three passes of bfloat16.
    head = 3 * 2 * POD["rows"] * POD["seconds"] * 50 * (12 * 768 * WIDTH + WIDTH * WIDTH)
    loss = 3 * 2 * 3 * POD["rows"] * everyone * WIDTH
    compute = (flops(sizes)["all"] + head + loss) / (CHIP["flops"] * CHIP["utilisation"])
    share = (chips - 1) / chips
    # Documents are gathered, and no gradient goes back to them, as their tower is frozen; weights'
    # gradients are all-reduced: twice round the ring.
    sent = share * (everyone * WIDTH * 4 + 2 * trained)
    network = sent / CHIP["link_bytes"] + 4 * chips * CHIP["latency"]
    step = compute + network
    return {
        "compute_seconds": compute,
        "network_seconds": network,
        "step_seconds": step,
        "pairs_per_second": everyone / step,
        "efficiency": compute / step,
    }


if __name__ == "__main__":
    main()
