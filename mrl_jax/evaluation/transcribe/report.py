"""`mrl-jax eval transcribe`: from a recogniser and recordings to error rates and transcripts."""

import hashlib
from collections.abc import Sequence

import numpy as np

from mrl_jax.checkpoints.towers import load_hubert_ctc, read_info
from mrl_jax.core.array_types import HostArray
from mrl_jax.data.audio.decode import load_each
from mrl_jax.data.build.utterances import Utterance, need_transcripts, read_utterances
from mrl_jax.data.text.normalize import plain_text
from mrl_jax.evaluation.report.folder import library_commit, report_folder, write_report
from mrl_jax.evaluation.report.page import FigureFile
from mrl_jax.evaluation.report.records import Source, write_jsonl
from mrl_jax.evaluation.report.statistics import clusters_by
from mrl_jax.evaluation.transcribe import figures
from mrl_jax.evaluation.transcribe.measure import error_records
from mrl_jax.evaluation.transcribe.options import TranscribeOptions
from mrl_jax.inference.asr import Recogniser, unspelled
from mrl_jax.metrics.error_rates import compare_transcripts
from mrl_jax.models.towers import RECOGNISERS

FIGURE = FigureFile("errors.png", "Utterances by their number of word errors")


def report_transcribe(options: TranscribeOptions) -> str:
    """Transcribe, write the report folder, and return its table.

    The folder appears whole: report.md, report.html, results.jsonl, transcripts.jsonl (one
    line an utterance: reference, hypothesis, errors by kind) and a figure.

    Raises:
        MrlError: no recogniser; a recording without a transcript, or with an empty one;
            a broken recording.
    """
    info = read_info(options.model, expected=RECOGNISERS)
    utterances = read_utterances(options.data, split=options.split)
    ids = [utterance.id for utterance in utterances]
    transcripts = [utterance.transcript for utterance in utterances]
    references = need_transcripts(ids, transcripts, options.data, column="transcript")
    with report_folder(options, options.model) as staging:
        recogniser = Recogniser(load_hubert_ctc(options.model, verify=options.verify))
        clips = load_each(lambda one: one.load(recogniser.config.sample_rate), utterances)
        hypotheses = recogniser.transcribe(clips, names=ids, progress="recordings")
        compared = (references, hypotheses)
        if options.plain:
            plain = list(map(plain_text, references))
            plain = need_transcripts(ids, plain, options.data, column="transcript")
            compared = (plain, list(map(plain_text, hypotheses)))
        comparison = compare_transcripts(*compared)
        rows = figures.transcript_rows(utterances, hypotheses, comparison)
        write_jsonl(staging / "transcripts.jsonl", rows)
        clusters = clusters_by(ids, references, [utterance.speaker for utterance in utterances])
        setting = {"text": "plain" if options.plain else "as written"}
        records = error_records(comparison, clusters, setting)
        figures.plot_errors(staging / FIGURE.name, comparison)
        worst = figures.worst_table(utterances, hypotheses, comparison)
        unknown = unspelled(compared[0], recogniser.vocabulary)
        return write_report(
            staging,
            title=f"Transcripts: {options.set_name}",
            summary=_summary(utterances, hypotheses, unknown),
            records=records,
            source=Source(
                data=str(options.data),
                data_digest=_digest(utterances, clips),
                model=str(options.model),
                model_digest=info.digest,
                commit=library_commit(),
            ),
            tables={
                "Error rates": figures.error_table(records),
                "Kinds of errors": figures.kinds_table(records),
                "Speakers": figures.speaker_table(utterances, comparison),
                "Utterances with the most errors": worst,
            },
            figures=[FIGURE],
        )


def _summary(
    utterances: Sequence[Utterance], hypotheses: Sequence[str], unknown: Sequence[str]
) -> str:
    speakers = {u.speaker for u in utterances if u.speaker}
    ways = f"their words and {len(speakers)} speakers" if len(speakers) > 1 else "their words"
    text = (
        f"{len(utterances)} recordings, decoded greedily. A rate is all errors over all words "
        "(characters, spaces among them) of the references, as jiwer counts them. Intervals are "
        f"95 % confidence intervals, from a bootstrap over {ways}."
    )
    empty = sum(not hypothesis.strip() for hypothesis in hypotheses)
    if empty:
        text += f"\n\nThe transcript of {empty} recordings is empty."
    if unknown:
        text += (
            f"\n\nThe recogniser cannot write {', '.join(map(repr, unknown))}, which the "
            "references hold; --plain compares without case and punctuation."
        )
    return text


def _digest(utterances: Sequence[Utterance], clips: Sequence[HostArray]) -> str:
    """SHA-256 of recordings, references and speakers."""
    total = hashlib.sha256()
    for utterance, clip in zip(utterances, clips, strict=True):
        total.update(repr((utterance.id, utterance.transcript, utterance.speaker)).encode())
        total.update(np.ascontiguousarray(clip, np.float32).tobytes())
    return total.hexdigest()
