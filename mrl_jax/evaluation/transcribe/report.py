"""`eval.py transcribe`: from a recogniser and recordings to error rates and transcripts."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mrl_jax.checkpoints.towers import load_hubert_ctc, read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.files import check_apart
from mrl_jax.data.build.utterances import Utterance, need_transcripts, read_utterances
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.evaluation.encoded_set import set_name
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import figure, markdown_table, save
from mrl_jax.evaluation.report.records import Record, Source, write_jsonl
from mrl_jax.evaluation.transcribe.tables import error_columns, error_records, error_table
from mrl_jax.inference.asr import Recogniser, unspelled
from mrl_jax.metrics.error_rates import Comparison, compare_transcripts
from mrl_jax.metrics.intervals import Clusters

PICTURE = "errors.png"


WORST = 10


SPEAKERS = 20


def report_transcribe(
    model: Path,
    data: Path | str,
    out: Path,
    *,
    split: str = "",
    plain: bool = False,
    overwrite: bool = False,
) -> str:
    """Transcribe, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, transcripts.jsonl (one
    line an utterance: what was said, what was heard, errors by kind) and a picture.

    Args:
        model: tower folder of a recogniser.
        data: a retrieval set or its name, a manifest, or a built data set.
        out: the report folder.
        split: of a manifest or a built data set.
        plain: compare in lower case and without punctuation.
        overwrite: replace an earlier report.

    Raises:
        MrlError: no recogniser; a recording without a transcript, or with an empty one;
            a broken recording.
    """
    info = read_info(model, expected=("hubert_ctc",))
    utterances = read_utterances(data, split=split)
    ids = [utterance.id for utterance in utterances]
    said = need_transcripts(ids, [u.transcript for u in utterances], data, column="transcript")
    check_apart(model, out)
    with report_folder(out, overwrite=overwrite) as staging:
        recogniser = Recogniser(load_hubert_ctc(model))
        clips = [utterance.load(recogniser.config.sample_rate) for utterance in utterances]
        heard = recogniser.transcribe(clips, names=ids, progress="recordings")
        compared = (said, heard)
        if plain:
            plainly = need_transcripts(ids, list(map(plain_text, said)), data, column="transcript")
            compared = (plainly, list(map(plain_text, heard)))
        comparison = compare_transcripts(*compared)
        write_jsonl(staging / "transcripts.jsonl", transcript_rows(utterances, heard, comparison))
        setting: dict[str, str | int | float] = {"text": "plain" if plain else "as written"}
        records = error_records(comparison, clusters_of_utterances(utterances, said), setting)
        _plot(staging / PICTURE, comparison)
        table = error_table(records)
        write_report(
            staging,
            title=f"Transcripts: {set_name(data)}",
            summary=_summary(utterances, heard, unspelled(compared[0], recogniser.vocabulary)),
            records=records,
            source=Source(
                data=str(data),
                data_digest=_digest(utterances, clips),
                model=str(model),
                model_digest=info.digest,
                commit=library_commit(),
            ),
            tables={
                "Error rates": table,
                "Kinds of errors": _kinds_table(records),
                "Speakers": _speaker_table(utterances, comparison),
                "Utterances with the most errors": _worst_table(utterances, heard, comparison),
            },
            pictures=[(PICTURE, "Utterances by their number of word errors")],
        )
        return table


def transcript_rows(
    utterances: Sequence[Utterance], heard: Sequence[str], comparison: Comparison
) -> list[dict[str, object]]:
    """What was said, what was heard, and the errors between them."""
    return [
        {
            "id": utterance.id,
            "speaker": utterance.speaker,
            "reference": utterance.transcript,
            "hypothesis": text,
            **error_columns(comparison, row),
        }
        for row, (utterance, text) in enumerate(zip(utterances, heard, strict=True))
    ]


def clusters_of_utterances(utterances: Sequence[Utterance], said: Sequence[str]) -> Clusters:
    """Utterances of the same words, or by the same speaker, succeed and fail together."""
    speakers = [(u.speaker, None) if u.speaker else u.id for u in utterances]
    named = any(utterance.speaker for utterance in utterances)
    return Clusters(texts=list(said), speakers=speakers if named else None)


def _summary(utterances: Sequence[Utterance], heard: Sequence[str], unknown: Sequence[str]) -> str:
    speakers = {u.speaker for u in utterances if u.speaker}
    ways = f"their words and {len(speakers)} speakers" if len(speakers) > 1 else "their words"
    told = (
        f"{len(utterances)} recordings, decoded greedily. A rate is all errors over all words "
        "(characters, spaces among them) that were said, as jiwer counts them. Intervals hold it "
        f"in 95 of 100 such samples: bootstrap over {ways}."
    )
    silent = sum(not text.strip() for text in heard)
    if silent:
        told += f"\n\nNothing was heard in {silent} recordings."
    if unknown:
        told += (
            f"\n\nThe recogniser cannot write {', '.join(map(repr, unknown))}, which the "
            "transcripts hold; --plain compares without case and punctuation."
        )
    return told


def _kinds_table(records: Sequence[Record]) -> str:
    counts = {record.metric: record.value for record in records}
    kinds = ("substitutions", "deletions", "insertions")
    rows = [
        [
            f"{unit}s",
            *(f"{counts[f'{unit} {kind}']:.0f}" for kind in kinds),
            f"{counts[f'{unit}s']:.0f}",
        ]
        for unit in ("word", "character")
    ]
    return markdown_table(["", *kinds, "said"], rows)


def _speaker_table(utterances: Sequence[Utterance], comparison: Comparison) -> str:
    """Those with the highest rates first."""
    rows: dict[str, list[int]] = {}
    for row, utterance in enumerate(utterances):
        rows.setdefault(utterance.speaker or "(not named)", []).append(row)
    found = []
    for speaker, of in rows.items():
        part = Comparison(
            words=[comparison.words[row] for row in of],
            characters=[comparison.characters[row] for row in of],
        )
        found.append(
            (part.wer, [speaker, f"{100 * part.wer:.1f}", f"{100 * part.cer:.1f}", str(len(of))])
        )
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    return markdown_table(
        ["speaker", "WER, %", "CER, %", "utterances"], [cells for _, cells in found[:SPEAKERS]]
    )


def _worst_table(
    utterances: Sequence[Utterance], heard: Sequence[str], comparison: Comparison
) -> str:
    order = sorted(range(len(heard)), key=lambda row: (-comparison.words[row].rate, row))[:WORST]
    rows = [
        [
            utterances[row].id,
            utterances[row].transcript or "",
            heard[row],
            str(comparison.words[row].total),
        ]
        for row in order
    ]
    return markdown_table(["id", "said", "heard", "word errors"], rows)


def _plot(path: Path, comparison: Comparison) -> None:
    totals = np.asarray([errors.total for errors in comparison.words])
    made, axes = figure()
    axes.bar(np.arange(totals.max() + 1), np.bincount(totals))
    axes.set_xlabel("word errors in an utterance")
    axes.set_ylabel("utterances")
    save(made, path)


def _digest(utterances: Sequence[Utterance], clips: Sequence[HostArray]) -> str:
    """SHA-256 of what is heard and what is said."""
    total = hashlib.sha256()
    for utterance, clip in zip(utterances, clips, strict=True):
        total.update(repr((utterance.id, utterance.transcript, utterance.speaker)).encode())
        total.update(np.ascontiguousarray(clip, np.float32).tobytes())
    return total.hexdigest()
