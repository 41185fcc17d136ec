"""docs/claims.md and its figure, from results/claims.json; `report.py` writes them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_tables import markdown_table

METRIC = "ndcg@10"
CASCADE = "cascade"
NAMES = {
    "linear": "linear (published), InfoNCE",
    "regression": "linear, regression",
    "dual": "dual encoder",
    "soft": "soft tokens, untrained",
    "soft_all": "soft tokens, nothing dropped",
    "soft_trained": "soft tokens, trained",
    CASCADE: "cascade",
}
LOOKS = {
    "linear": ("#777777", "s"),
    "soft": ("#0072b2", "o"),
    "soft_trained": ("#56b4e9", "D"),
    CASCADE: ("#d55e00", "^"),
}
"""Colour and marker of each curve."""
INTRODUCTION = """Does late fusion beat the pipeline of recogniser and text tower, on real speech,
with the same towers on both sides? Four worlds, each from nothing but its own data; every system of
a world has the same speech tower and the same text tower, which reads the transcripts' language
itself, so that no translator is between them. Written by `python benchmarks/report.py`; the
measurements are made by `python benchmarks/claims.py`, whose `--help` says how.

In brackets 95 % intervals over sentences crossed with speakers. Scores of trained heads are means
over the seeds (at most {seeds} a head), query by query. *Against the cascade*
is the mean of the differences on the same queries. *Tokens a second* are those that the text tower
reads for a second of speech."""


def claims_page(result: Mapping[str, Any]) -> str:
    """The whole page."""
    worlds = result["worlds"]
    seeds = max(world["seeds"] for world in worlds.values())
    parts = ["# Claims on real speech", INTRODUCTION.format(seeds=seeds)]
    parts += ["## All systems in all worlds", systems_table(worlds)]
    parts += [
        "## Against the cascade",
        f"nDCG@10 less the cascade's at each dimension; the last rows are over the queries of "
        f"{', '.join(result['pooled']['worlds'])} together.",
        differences_table(worlds, result["pooled"]),
    ]
    degraded = [name for name, world in worlds.items() if len(world["conditions"]) > 1]
    if degraded:
        parts += [
            "## Against the word error rate",
            "![nDCG@10 against the word error rate](claims.png)",
            "At full width, first seed, in noise, in a room, through a telephone and with a "
            "recogniser of a quarter of the steps. A crossing is the word error rate at which "
            "a system and the cascade are equal, on straight lines between conditions; its "
            "interval is over sentences.",
            crossings_table(worlds, degraded),
            conditions_table(worlds, degraded),
        ]
    if any(world["components"] for world in worlds.values()):
        parts += [
            "## How few numbers",
            "The fewest numbers that keep 99 % of nDCG@10 at full width.",
            components_table(worlds),
        ]
    if any(world["matrix"] for world in worlds.values()):
        parts += ["## Each language against each", *matrix_tables(worlds)]
    parts += ["## The worlds", *map(world_text, worlds, worlds.values())]
    return "\n\n".join(parts) + "\n\n"


def systems_table(worlds: Mapping[str, Any]) -> str:
    """One row a world and system."""
    rows = []
    for name, world in worlds.items():
        dims = dims_of(world)
        for place, (system, of) in enumerate(world["systems"].items()):
            gap = world["differences"].get(system)
            tokens = of["speech tokens a second"]
            rows.append(
                [
                    name if place == 0 else "",
                    NAMES[system],
                    *(with_interval(of[METRIC][dim]) for dim in dims),
                    with_interval(gap[dims[0]], sign="+") if gap else "",
                    "" if tokens is None else f"{tokens:.1f}",
                    f"{of['parameters']:,.0f}",
                    f"{of['trained parameters']:,.0f}",
                    f"{of['milliseconds a query']:.1f}",
                ]
            )
        errors = world["recognition"]
        if errors:
            rates = f"WER {percent(errors['wer'])}, CER {percent(errors['cer'])}"
            rows.append(["", rates, *[""] * (len(dims) + 5)])
        rows.append(["", "chance", *[f"{world['chance']:.3f}"] * len(dims), *[""] * 5])
    dims = dims_of(next(iter(worlds.values())))
    header = ["world", "system", *(f"nDCG@10 at {dim}" for dim in dims), "against the cascade"]
    costs = ["tokens a second", "parameters", "trained", "ms a query"]
    return markdown_table([*header, *costs], rows)


def differences_table(worlds: Mapping[str, Any], pooled: Mapping[str, Any]) -> str:
    """One row a world and system, and the pool in the last rows."""
    groups = {name: world["differences"] for name, world in worlds.items()}
    groups["all together"] = pooled["differences"]
    rows = [
        [name, NAMES[system], *(with_interval(test, sign="+") for test in tests.values())]
        for name, systems in groups.items()
        for system, tests in systems.items()
    ]
    dims = dims_of(next(iter(worlds.values())))
    return markdown_table(["world", "system", *(f"at {dim}" for dim in dims)], rows)


def crossings_table(worlds: Mapping[str, Any], names: Sequence[str]) -> str:
    """Where each system and the cascade are equal."""
    rows = []
    for name in names:
        for system, crossing in worlds[name]["crossings"].items():
            gaps = [
                point["differences"][system]["difference"] for point in worlds[name]["conditions"]
            ]
            if crossing["wer"] is None:
                where = f"none: {'above' if gaps[0] > 0 else 'below'} in every condition"
            else:
                where = f"{crossing['wer']:.1%}"
            ends = ""
            if crossing["low"] is not None:
                ends = f"{crossing['low']:.1%} to {crossing['high']:.1%}"
            rows.append([name, NAMES[system], where, ends, f"{crossing['without']:.0%}"])
    header = ["world", "system", "crosses the cascade at", "95 %", "resamples without a crossing"]
    return markdown_table(header, rows)


def conditions_table(worlds: Mapping[str, Any], names: Sequence[str]) -> str:
    """One row a world and condition."""
    systems = [s for s in LOOKS if any(s in worlds[n]["conditions"][0]["systems"] for n in names)]
    rows = []
    for name in names:
        for place, point in enumerate(worlds[name]["conditions"]):
            cells = [
                with_interval(point["systems"][system]) if system in point["systems"] else ""
                for system in systems
            ]
            label = [name if place == 0 else "", point["condition"], f"{point['wer']:.1%}"]
            rows.append([*label, *cells])
    return markdown_table(["world", "condition", "WER", *(NAMES[s] for s in systems)], rows)


def components_table(worlds: Mapping[str, Any]) -> str:
    """One row a world and system, one column a way of choosing numbers."""
    views = list(
        dict.fromkeys(
            view for world in worlds.values() for of in world["components"].values() for view in of
        )
    )
    rows = [
        [name, NAMES[system], *(str(of.get(view, "")) for view in views)]
        for name, world in worlds.items()
        for system, of in world["components"].items()
    ]
    return markdown_table(["world", "system", *views], rows)


def matrix_tables(worlds: Mapping[str, Any]) -> list[str]:
    """One table a world and system: a row a language of the query, a column one of documents."""
    tables = []
    for world in worlds.values():
        pairs = {tuple(key.split("-")): of for key, of in world["matrix"].items()}
        languages = list(dict.fromkeys(query for query, _ in pairs))
        for system in next(iter(pairs.values()), {}):
            rows = [
                [one, *(f"{pairs[one, other][system]:.3f}" for other in languages)]
                for one in languages
            ]
            tables += [
                f"nDCG@10 at full width, {NAMES[system]}; rows speak, columns are written.",
                markdown_table(["speech", *languages], rows),
            ]
    return tables


def world_text(name: str, world: Mapping[str, Any]) -> str:
    """What a world is: its counts and rules, as a list."""
    counts = ", ".join(f"{value:,} {kind}" for kind, value in world["counts"].items())
    parts = f" Parts: {', '.join(world['parts'])}." if len(world["parts"]) > 1 else ""
    rules = "\n".join(f"- {rule}" for rule in world["rules"])
    first = "; of its first part" if parts else ""
    return f"**{name}**: {world['title']}.{parts} Counts{first}: {counts}.\n\n{rules}"


def draw_claims(result: Mapping[str, Any], path: Path) -> None:
    """nDCG@10 at full width against the word error rate, a panel a world."""
    from mrl_jax.evaluation.report.plotting import figure, save

    worlds = {n: w for n, w in result["worlds"].items() if len(w["conditions"]) > 1}
    if not worlds:
        return
    drawing, panels = figure(panels=len(worlds), width=4.0, height=3.6)
    panels = list(panels) if len(worlds) > 1 else [panels]
    for panel, (name, world) in zip(panels, worlds.items(), strict=True):
        points = sorted(world["conditions"], key=lambda point: point["wer"])
        for system, (colour, marker) in LOOKS.items():
            shown = [point for point in points if system in point["systems"]]
            if not shown:
                continue
            rates = [point["wer"] for point in shown]
            values = [point["systems"][system] for point in shown]
            means = [value["mean"] for value in values]
            ends = [[value[end] for value in values] for end in ("low", "high")]
            style = {"color": colour, "marker": marker, "markersize": 4}
            panel.plot(rates, means, label=NAMES[system], linewidth=1.3, **style)
            if all(end is not None for some in ends for end in some):
                panel.fill_between(rates, *ends, color=colour, alpha=0.12, linewidth=0)
        panel.axhline(world["chance"], color="grey", linestyle=":", linewidth=1)
        panel.set_title(name)
        panel.set_xlabel("word error rate of the recogniser")
        panel.xaxis.set_major_formatter("{x:.0%}")
        panel.set_ylim(bottom=0)
    panels[0].set_ylabel("nDCG@10 at full width")
    handles, labels = panels[0].get_legend_handles_labels()
    drawing.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    save(drawing, path)


def dims_of(world: Mapping[str, Any]) -> list[str]:
    """Dimensions, the widest first."""
    return list(next(iter(world["systems"].values()))[METRIC])


def with_interval(of: Mapping[str, float | None], *, sign: str = "") -> str:
    """ ".531 (.49 to .57)" of a mean or a difference."""
    value = of["mean"] if "mean" in of else of["difference"]
    if of["low"] is None:
        return f"{value:{sign}.3f}"
    return f"{value:{sign}.3f} ({of['low']:{sign}.3f} to {of['high']:{sign}.3f})"


def percent(of: Mapping[str, float]) -> str:
    return f"{of['mean']:.1%} ({of['low']:.1%} to {of['high']:.1%})"
