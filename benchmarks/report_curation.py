"""The sections on curation in docs/benchmarks.md; `report.py` puts them together."""

from collections.abc import Callable
from typing import Any

from markdown_tables import markdown_table


def curation_segments(result: dict[str, Any]) -> list[str]:
    figures, inputs = result["figures"], result["inputs"]
    errors = figures["boundary_error_s"]
    names = ("clips", "recall", "precision", "within 0.2 s", "median, s", "90%, s", "99%, s")
    cells = [
        f"{figures['clips']:,}",
        f"{figures['recall']:.1%}",
        f"{figures['precision']:.1%}",
        f"{figures['within_0.2_s']:.1%}",
        *(f"{errors[name]:.3f}" for name in ("median", "p90", "p99")),
    ]
    speeds = [
        [stage["stage"], f"{stage['seconds']:.1f}", f"{stage['hours_an_hour']:,.0f}"]
        for stage in result["stages"]
        if stage["hours_an_hour"]
    ]
    return [
        "## Segments",
        f"Clips of `{inputs['clips']}` joined to {inputs['hours']:g} hours in "
        f"{inputs['recordings']} recordings, with {', '.join(inputs['between'])} between them "
        f"over noise of {inputs['floor_db']:g} dB, and cut again by the stage `segment`. The "
        "errors are those of beginnings and ends, against where a clip's energy begins and ends.",
        markdown_table(list(names), [cells]),
        f"The stages of that run with {inputs['workers']} processes, their start included:",
        markdown_table(["stage", "seconds", "hours of audio an hour"], speeds),
    ]


def curation_faults(result: dict[str, Any]) -> list[str]:
    rows = []
    for world, one in result["figures"].items():
        for kind, found in one["kinds"].items():
            cells = [f"{found['recall']:.3f}", f"{found['precision']:.3f}"]
            rows.append([world, kind, found["stage"], f"{found['planted']:,}", *cells])
    worlds = result["figures"]
    names = next(iter(worlds.values()))["stage_seconds"]
    speeds = [
        [name]
        + [f"{one['hours'] * 3600 / one['stage_seconds'][name]:,.0f}" for one in worlds.values()]
        for name in names
    ]
    dropped = ", ".join(
        f"{one['all']['good_rows_dropped']:.2%} of {world}'s"
        for world, one in result["figures"].items()
    )
    return [
        "## Planted faults",
        "Texts swapped, rows said twice, texts of another language, noise as loud as the speech, "
        "and sentences of the held-out split, planted into the training rows of the demo and "
        "of Mboshi, and dropped by the stages of one pipeline. Swapped rows have the transcript "
        "and the text of another clip. Mboshi's recogniser was trained on those clips with their "
        "own transcripts, so its swapped rows are easier than new ones "
        f"([new ones](#transcripts-against-recordings)). Good rows that were dropped: {dropped}.",
        markdown_table(["data", "fault", "stage", "planted", "recall", "precision"], rows),
        "Hours of audio an hour of each stage of those runs, on one process, where the hours are "
        "those before the first stage: "
        + ", ".join(f"{one['hours']:g} of {world}" for world, one in worlds.items())
        + ".",
        markdown_table(["stage", *worlds], speeds),
    ]


def curation_languages(result: dict[str, Any]) -> list[str]:
    rows = [
        [world, name, f"{one['recall']:.3f}", f"{one['precision']:.3f}", f"{one['core_seconds']}"]
        for world, forms in result["figures"].items()
        for name, one in forms.items()
    ]
    return [
        "## Languages",
        "The stage `languages` alone on the texts of the planted faults.",
        markdown_table(["data", "identifier", "recall", "precision", "core seconds"], rows),
    ]


def curation_pays(result: dict[str, Any]) -> list[str]:
    figures = result["figures"]
    rows = [
        [
            name,
            f"{figures['rows'][name]:,}",
            ", ".join(f"{score:.3f}" for score in figures["ndcg@10"][name]),
            f"{mean:.3f}",
            f"{figures['of_clean'].get(name, 1.0):.3f}",
        ]
        for name, mean in figures["mean"].items()
    ]
    return [
        "## What curation gains",
        "Heads trained on the demo's clean rows, on those with planted faults, and on what the "
        f"pipeline kept of these: dual encoders, {result['steps']} steps each, three seeds, "
        "nDCG@10 on the demo's test.",
        markdown_table(["rows", "number", "by seed", "mean", "of the clean"], rows),
    ]


def curation_million(result: dict[str, Any]) -> list[str]:
    f = result["figures"]
    other = f["datasketch"]
    row = [
        f"{f['texts']:,}",
        f"{f['core_seconds']:.0f}",
        f"{f['peak_gb']:.2f}",
        f"{f['exact_recall']:.3f}",
        f"{f['near_recall']:.3f}",
        f"{f['precision']:.3f}",
    ]
    names = ("texts", "core seconds", "peak GB", "exact copies found", "near copies found")
    return [
        "## Duplicates of a million texts",
        f"Synthetic texts of real words, with {f['exact_copies']:,} exact and "
        f"{f['near_copies']:,} near copies; near is a Jaccard similarity of {f['threshold']}. "
        f"{f['peak_before_gb']} GB were taken before. Of {other['texts']:,} texts datasketch "
        f"takes {other['core_seconds']} core seconds, ours {other['ours']}.",
        markdown_table([*names, "precision"], [row]),
    ]


def curation_fingerprints(result: dict[str, Any]) -> list[str]:
    limits = list(next(iter(result["copies"].values()))["recall"])
    copies = [
        [name, f"{one['clips']:,}", f"{one['median_bit_errors']:.3f}"]
        + [f"{one['recall'][limit]:.3f}" for limit in limits]
        for name, one in result["copies"].items()
    ]
    others = [
        [name, f"{one['clips']:,}", f"{one['fewest_bit_errors']:.3f}"]
        + [f"{one['false'][limit]:,}" for limit in limits]
        for name, one in result["others"].items()
    ]
    core = " and ".join(f"{ms:g} to {name}" for name, ms in result["core_ms_a_clip"].items())
    return [
        "## Copies by their sound",
        f"Copies of clips of Mboshi's dev looked up by fingerprint among all its "
        f"{result['held_out_clips']:,}: the share that is found as a copy of its own clip, by the "
        f"largest share of bit errors; {result['default']:g} is the default. A clip of which less "
        "than a second of sound is left is never found. None was found as a copy of another.",
        markdown_table(["copy", "clips", "median errors", *limits], copies),
        "Clips that are no copies, and how many of them would be taken for one:",
        markdown_table(["clips", "number", "fewest errors", *limits], others),
        f"Core milliseconds a clip of {result['mean_seconds']:g} s: {core}.",
    ]


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "curation_segments": curation_segments,
    "curation_faults": curation_faults,
    "curation_languages": curation_languages,
    "curation_fingerprints": curation_fingerprints,
    "curation_pays": curation_pays,
    "curation_million": curation_million,
}
"""Result name -> the function that writes its section."""
