"""The model card: metadata for the hub, and a page made from what is on record."""

import json
import math
from collections.abc import Sequence

from huggingface_hub import ModelCard

from mrl_jax.checkpoints.models import ModelInfo
from mrl_jax.core.arguments import checked
from mrl_jax.core.hub import HubName
from mrl_jax.core.presets import preset_names
from mrl_jax.evaluation.report.page import Table, as_markdown
from mrl_jax.evaluation.report.records import Record
from mrl_jax.evaluation.report.statistics import metric_title
from mrl_jax.publishing.metadata import card_data, intent_scores, retrieval_scores
from mrl_jax.publishing.provenance import Evaluation, Provenance, TowerSource, public_name

HEADLINE = ("ndcg@10", "mrr@10", "accuracy@1", "recall@10")
"""Metrics of the table; all where a report has none of them."""
PAPER = """@misc{sy2026crosslingual,
  title         = {Cross-lingual Matryoshka Representation Learning across Speech and Text},
  author        = {Sy and Doucour{\\'e} and Cerisara and Illina},
  year          = {2026},
  eprint        = {2602.19991},
  archivePrefix = {arXiv}
}"""


@checked
def make_card(
    name: HubName,
    info: ModelInfo,
    known: Provenance,
    *,
    with_towers: bool = True,
    licence: str | None = None,
    languages: Sequence[str] = (),
) -> ModelCard:
    """The card of a model.

    Args:
        name: that it will have on the hub.
        info: its description.
        known: what is on record.
        with_towers: the repository holds them.
        licence, languages: see `card_data`.
    """
    short = name.hub_id.partition("/")[2]
    data = card_data(short, known, licence=licence, languages=languages)
    sections = [
        f"# {as_markdown(short)}",
        _what_it_is(info, known),
        "## Use",
        _use(name, info, known, with_towers=with_towers),
        "## Results",
        _results(known),
        "## Training",
        _training(info, known),
        "## Limits",
        _limits(info, known),
        "## Citation",
        f"The method is that of\n\n```bibtex\n{PAPER}\n```",
    ]
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _what_it_is(info: ModelInfo, known: Provenance) -> str:
    dims = ", ".join(map(str, sorted(info.dims, reverse=True)))
    rows = [(side, *_tower_cells(tower)) for side, tower in known.towers.items()]
    table = Table(("tower", "from", "commit", "parameters", "weights"), rows)
    origin = f" It was converted from {as_markdown(known.converted)}." if known.converted else ""
    return (
        "Speech and text become unit vectors that are compared by their dot product: a spoken "
        "question finds the texts that answer it, without a transcript. The first "
        f"{dims} coordinates of a vector were each trained to serve alone.{origin}\n\n"
        f"Head `{info.kind}`, step {info.step}, digest `{info.digest[:16]}`, trained between "
        f"frozen towers:\n\n{table}"
    )


def _tower_cells(tower: TowerSource) -> tuple[str, str, str, str]:
    source = tower.hub_id or "not recorded as published"
    source += ", with a merged adapter" if tower.adapter else ""
    count = "" if tower.parameters is None else f"{tower.parameters / 1e6:,.1f} M"
    return source, (tower.revision or "")[:12], count, tower.dtype or ""


def _use(name: HubName, info: ModelInfo, known: Provenance, *, with_towers: bool) -> str:
    task = next((task for task, prompt in info.prompts.items() if task and prompt), None)
    options = "" if task is None else f", task={_quoted(task)}"
    place, before = str(name), ""
    if not with_towers:
        place = name.hub_id.partition("/")[2]
        before = _tower_commands(name, place, known)
    least = min(info.dims)
    return f"""```
pip install 'mrl_jax[text,audio]'
{before}```

```python
import mrl_jax

embedder = mrl_jax.Embedder.load({_quoted(place)})
documents = embedder.embed_text(["un texte", "un autre texte"])
queries = embedder.embed_speech(["question.wav"]{options})
scores = queries @ documents.T
```

With `dim={least}` both give vectors of {least} coordinates. An index of a folder of texts, and a
search in it:

```
mrl-jax index build --model {place} --corpus texts/ --out my_index
mrl-jax search my_index --audio question.wav
```"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _tower_commands(name: HubName, place: str, known: Provenance) -> str:
    """What puts the published towers beside a model that was uploaded without them."""
    revision = "" if name.revision is None else f" --revision {name.revision}"
    lines = [f"hf download {name.hub_id}{revision} --local-dir {place}"]
    for side, family in (("speech", "speech"), ("text", "qwen3")):
        tower = known.towers[side]
        language = "" if tower.language is None else f" --language {tower.language}"
        dtype = "" if tower.dtype in (None, "mixed") else f" --dtype {tower.dtype}"
        options = f"--revision {tower.revision}{dtype}{language}"
        lines.append(f"mrl-jax convert {family} {tower.hub_id} {place}/{side} {options}")
    return "".join(f"{line}\n" for line in lines)


def _results(known: Provenance) -> str:
    parts = []
    for one in known.evaluations:
        tables = [
            table
            for table in (
                _retrieval_table(retrieval_scores(one)),
                _intent_table(intent_scores(one)),
            )
            if table is not None
        ]
        if tables:
            parts += [f"### {as_markdown(public_name(one.source.data))}", _measured(one)]
            parts += map(str, tables)
    if not parts:
        return "No evaluation of this model is on record."
    if any(record.low is not None for one in known.evaluations for record in one.records):
        parts.append("In brackets: 95 % confidence intervals, from a bootstrap over clusters.")
    return "\n\n".join(parts)


def _measured(evaluation: Evaluation) -> str:
    settings = evaluation.records[0].setting if evaluation.records else {}
    sizes = [f"{settings[key]} {key}" for key in ("queries", "documents") if key in settings]
    sizes += [f"{settings[key]} {key}" for key in ("relevance",) if key in settings]
    asked = [key for key in ("split", "task", "prompt") if key in settings]
    sizes += [f"{key} {as_markdown(_quoted(str(settings[key])))}" for key in asked]
    data = f"data digest `{evaluation.source.data_digest[:16]}`"
    commit = evaluation.source.commit
    return ", ".join([*sizes, data, *([f"mrl_jax at commit `{commit[:12]}`"] if commit else [])])


def _retrieval_table(records: Sequence[Record]) -> Table | None:
    names = list(dict.fromkeys(one.metric for one in records))
    names = [name for name in HEADLINE if name in names] or names
    cells = {(one.dim, one.metric): _score(one) for one in records}
    dims = dict.fromkeys(dim for dim, _ in cells)
    rows = [[str(dim), *(cells.get((dim, name), "") for name in names)] for dim in dims]
    return Table(["coordinates", *map(metric_title, names)], rows) if rows else None


def _intent_table(records: Sequence[Record]) -> Table | None:
    cells: dict[tuple[str, ...], dict[str, str]] = {}
    for one in records:
        key = tuple(str(x) for x in (one.dim, one.setting["shots"], one.setting["method"]))
        cells.setdefault(key, {})[one.metric] = _score(one)
    names = list(dict.fromkeys(one.metric for one in records))
    rows = [[*key, *(scores.get(name, "") for name in names)] for key, scores in cells.items()]
    heading = ["coordinates", "examples a class", "classifier", *names]
    return Table(heading, rows) if rows else None


def _score(record: Record) -> str:
    if not math.isfinite(record.value):
        return ""
    if record.low is None or record.high is None:
        return f"{record.value:.3f}"
    return f"{record.value:.3f} ({record.low:.3f} to {record.high:.3f})"


def _training(info: ModelInfo, known: Provenance) -> str:
    if known.run is None:
        return "The config of the training run is not on record."
    run = json.dumps(known.run, indent=1, ensure_ascii=False).replace("```", "'''")
    run_name, data = str(known.run.get("name", "")), known.run.get("data", {})
    train = data.get("train") if isinstance(data, dict) else None
    command = ""
    if run_name in preset_names():
        command = f"\n\n```\nmrl-jax train --config {run_name} --workdir runs/{run_name}\n```\n\n"
        command += "with the fields below, where they are not the preset's own."
    scores = ", ".join(f"{name} {score:.4f}" for name, score in info.scores.items())
    chosen = f" That step has the best validation score: {scores}." if scores else ""
    digest = known.run.get("data_digest")
    about = f"Trained on `{as_markdown(str(train))}`" if train else "Trained on data without a name"
    about += f", digest `{str(digest)[:16]}`" if digest else ""
    return (
        f"{about}, for {info.step} steps.{chosen}{command}\n\n<details><summary>Config of the run"
        f"</summary>\n\n```json\n{run}\n```\n\n</details>"
    )


def _limits(info: ModelInfo, known: Provenance) -> str:
    lines = []
    if not any(retrieval_scores(one) or intent_scores(one) for one in known.evaluations):
        lines.append("No evaluation is on record, so how well it works is not known.")
    for one in known.evaluations:
        scores = retrieval_scores(one)
        if scores and scores[0].n is not None:
            name = as_markdown(public_name(one.source.data))
            lines.append(
                f"Scores on {name} are means over {scores[0].n} queries; other speakers, subjects "
                "and recordings may give others than the intervals say."
            )
    if info.scores:
        lines.append("The validation score chose the step, and is higher than on unseen data.")
    dims = ", ".join(map(str, sorted(info.dims, reverse=True)))
    lines.append(f"Prefixes other than {dims} were not trained.")
    lines.append(f"Of texts beyond {info.max_text_tokens} tokens the rest is not read.")
    if info.padding == "reference":
        lines.append("Padding is read as speech: a recording is to be embedded alone.")
    if known.run is None:
        lines.append("What it was trained on is not on record.")
    return "\n".join(f"- {line}" for line in lines)
