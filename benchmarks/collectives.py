"""What a compiled program sends between devices: how often, and how many bytes."""

import re
from collections import defaultdict
from typing import Any

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8}
CALL = re.compile(
    r"(?:body|to_apply|calls|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
TRIPS = re.compile(r'known_trip_count[^}]*"n":\s*"(\d+)"')


def collectives(program: str) -> dict[str, dict[str, Any]]:
    """Kinds of collectives in a program's text → times a run, and bytes of their results.

    Bodies of loops count as often as they run, where XLA knows it, and else once.
    """
    bodies = _computations(program)
    counts: dict[str, dict[str, Any]] = {}

    def visit(name: str, times: int) -> None:
        for line in bodies.get(name, ()):
            kind = re.search(rf"\s({'|'.join(KINDS)})(?:-start)?\(", line)
            if kind is not None:
                entry = counts.setdefault(kind[1], {"times": 0, "bytes": 0})
                entry["times"] += times
                entry["bytes"] += times * _bytes(line[: kind.start()].partition("=")[2])
                continue
            trips = TRIPS.search(line)
            for called in CALL.findall(line):
                visit(called, times * int(trips[1]) if trips else times)

    visit("ENTRY", 1)
    return counts


def _computations(program: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = defaultdict(list)
    name = ""
    for line in program.splitlines():
        begun = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if begun and not line.startswith(" "):
            name = "ENTRY" if begun[1] else begun[2]
        elif line.startswith(" "):
            bodies[name].append(line)
    return bodies


def _bytes(shapes: str) -> int:
    total = 0
    for dtype, sizes in re.findall(r"(\w+)\[([\d,]*)\]", shapes):
        number = 1
        for size in filter(None, sizes.split(",")):
            number *= int(size)
        total += number * BYTES.get(dtype, 4)
    return total
