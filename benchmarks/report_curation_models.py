"""The sections on the stages of curation that use models; `report.py` puts them together."""

from collections.abc import Callable
from typing import Any

from markdown_tables import markdown_table


def curation_alignment(result: dict[str, Any]) -> list[str]:
    swapped = [
        [
            name,
            f"{one['rows']:,}",
            f"{one['swapped']:,}",
            f"{one['recall']:.3f}",
            f"{one['precision']:.3f}",
            f"{one['auc']:.4f}",
            f"{one['right_scores']['5%']:.2f}",
            f"{one['swapped_scores']['95%']:.2f}",
        ]
        for name, one in result["swapped"].items()
    ]
    longs = {**result["long"], **({"mboshi, an hour": hour} if (hour := result["hour"]) else {})}
    rows = [
        [
            name,
            f"{one['minutes']:g}",
            f"{one['sentences']:,}",
            f"{one['starts_within']:.1%}",
            f"{one['ends_within']:.1%}",
            f"{one['neighbours_left_out']:.1%}",
            f"{one['start_errors']['50%']:.2f}",
            f"{one['end_errors']['50%']:.2f}",
            f"{one['seconds']:,.0f}",
            f"{one['peak_memory_gb']:.1f}",
        ]
        for name, one in longs.items()
    ]
    return [
        "## Transcripts against recordings",
        "A tenth of the transcripts trade places; rows below the stage's default of "
        f"{result['default_threshold']:g} nats a token are dropped. Recordings and sentences are "
        "new to the recognisers; that of Mboshi has a character error rate of 0.34.",
        markdown_table(
            [
                "data",
                "clips",
                "swapped",
                "recall",
                "precision",
                "AUC",
                "5% of right ones",
                "95% of swapped ones",
            ],
            swapped,
        ),
        "The same clips, joined with pauses of 0.3 to 1 s, and their transcripts in order as one "
        "text. A start and an end are the first and last sound of a clip no more than 20 dB below "
        "its loudest, and count within 0.2 s; errors are medians in seconds. The last but two "
        "columns hold the share of sentences without sound of a neighbour.",
        markdown_table(
            [
                "recording",
                "minutes",
                "sentences",
                "starts",
                "ends",
                "neighbours left out",
                "start, s",
                "end, s",
                "seconds",
                "peak GB",
            ],
            rows,
        ),
    ]


def curation_speakers(result: dict[str, Any]) -> list[str]:
    parts = [
        "## Groups of voices",
        "Clips grouped by the stage `speakers`, at its default distance of "
        f"{result['default_distance']:g} and with the true number of speakers given. Completeness "
        "matters more: a speaker in two groups may be in two splits.",
    ]
    for name, one in result["sets"].items():
        rows = [
            [
                vectors,
                f"{own['groups']}",
                f"{own['purity']:.2f}",
                f"{own['completeness']:.2f}",
                f"{own['known_count_purity']:.2f}",
                f"{own['known_count_completeness']:.2f}",
                f"{own['nearest_is_of_speaker']:.2f}",
            ]
            for vectors, own in one["vectors"].items()
        ]
        headings = ["vectors", "groups", "purity", "completeness", "purity, number known"]
        headings += ["completeness, number known", "nearest clip is the speaker's"]
        parts += [
            f"`{name}`: {one['clips']} clips of {one['speakers']} speakers, "
            f"{one['mean_seconds']:g} s each.",
            markdown_table(headings, rows),
        ]
    return parts


def curation_mining(result: dict[str, Any]) -> list[str]:
    parts = [
        "## Mined pairs",
        "Clips without texts, and their texts among others, shuffled; the default of the stage "
        f"`mine` is a margin of {result['default_threshold']:g}.",
    ]
    for name, one in result["worlds"].items():
        rows = [
            [
                least,
                f"{own['pairs']:,}",
                "" if own["precision"] is None else f"{own['precision']:.3f}",
                f"{own['recall']:.3f}",
            ]
            for least, own in one["at"].items()
        ]
        parts += [
            f"`{name}`: {one['clips']} clips, {one['true_texts']} texts of theirs and "
            f"{one['distractors']:,} others, in {one['seconds']:.0f} s.",
            markdown_table(["least margin", "pairs", "precision", "recall"], rows),
        ]
    return parts


TABLES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "curation_alignment": curation_alignment,
    "curation_speakers": curation_speakers,
    "curation_mining": curation_mining,
}
"""Result name -> the function that writes its section."""
