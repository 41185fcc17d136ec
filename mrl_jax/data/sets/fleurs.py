"""FLEURS as a retrieval set: recordings or sentences of one language, answered in another.

Two published forms are read. Parquet of the hub's `google/fleurs`, whose branch
refs/convert/parquet has a folder a language with `test/0000.parquet` and so on; earlier
`fleurs-test.parquet` or `fleurs-test-00000-of-00002.parquet`. And TFDS's `xtreme_s`
(`fleurs.wo_sn`, version 2.0.0), which decodes audio to whole numbers. Both have the columns
`id`, `audio`, `raw_transcription`, `transcription`, `num_samples`, `gender` and others
(huggingface.co/datasets/google/fleurs; tensorflow.org/datasets/catalog/xtreme_s). `id` is
the number of a sentence: the same in all languages, and repeated within one, as a sentence
is read by up to three speakers.
"""

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrl_jax.core.errors import MrlError, first_line
from mrl_jax.core.records import parse_json
from mrl_jax.data.audio.encode import flac_bytes
from mrl_jax.data.sets.hub import download_dataset
from mrl_jax.data.sets.retrieval_set import Document, Query, RetrievalSet
from mrl_jax.data.sets.tables import Row, read_rows, row_audio, row_id, row_text

HUB_ID, HUB_REVISION = "google/fleurs", "refs/convert/parquet"
SAMPLE_RATE = 16_000
_CLASS_FIELDS = ("pythonClassName", "python_class_name", "type", "proto_cls")
"""Of a features.json of TFDS: what it imports, in its formats old and new."""
_CODES = (
    "af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq "
    "cmn_hans_cn cs_cz cy_gb da_dk de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph "
    "fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in hr_hr hu_hu hy_am id_id ig_ng is_is it_it "
    "ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg lb_lu lg_ug ln_cd lo_la "
    "lt_lt luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np nl_nl "
    "nso_za ny_mw oc_fr om_et or_in pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si "
    "sn_zw so_so sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua umb_ao ur_pk uz_uz "
    "vi_vn wo_sn xh_za yo_ng yue_hant_hk zu_za"
)
LANGUAGES: Mapping[str, str] = {code.rpartition("_")[0]: code for code in _CODES.split()}
"""The short name of each language, and its code in FLEURS."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FleursPairs:
    """A retrieval set, and how much of each language is not in it for want of a counterpart."""

    data: RetrievalSet
    dropped_queries: int
    dropped_documents: int


def load_fleurs(
    source: str, target: str, *, folder: Path | None, speech: bool = True, split: str = "test"
) -> FleursPairs:
    """Join two languages by their sentences' numbers.

    Every recording of the source is a query, the documents are the distinct sentences of
    the target as they were written (`raw_transcription`), and the one that a recording's
    sentence is a translation of is relevant. Sentences of the target with the same words
    are one document.

    Args:
        source: language of the queries, such as `wo`.
        target: language of the documents, such as `fr`.
        folder: parquet of the hub or TFDS's data folder; None downloads from the hub.
        speech: queries are recordings; otherwise the distinct sentences of the source.
        split: of both languages.

    Raises:
        MrlError: a language has no tables there, or tables of another format; no sentence
            is in both; what TFDS or pyarrow take is not installed.
    """
    spoken = [_code(source), _code(target)]
    if folder is None:
        forms = (f"{split}/*", f"fleurs-{split}*")
        patterns = [f"{code}/{form}" for code in spoken for form in forms]
        hint = "check the network, or name a folder that holds it: `fleurs:wo-fr@FOLDER`"
        folder = download_dataset(HUB_ID, patterns=patterns, revision=HUB_REVISION, hint=hint)
    rows = list(_rows(folder, spoken[0], split, speech=speech))
    answers: dict[str, str] = {}
    for where, row in _rows(folder, spoken[1], split, speech=False):
        answers.setdefault(row_id(where, row, "id"), _raw(where, row))
    queries: list[Query] = []
    numbers: dict[str, str] = {}
    known: Counter[str] = Counter()
    dropped = 0
    for where, row in rows:
        number = row_id(where, row, "id")
        taken = known[number]
        if not speech and taken:
            continue
        known[number] += 1
        if number not in answers:
            dropped += 1
            continue
        name = f"{spoken[0]}-{number}-{taken}" if speech else f"{spoken[0]}-{number}"
        numbers[name] = number
        queries.append(_query(name, where, row, folder, speech=speech))
    if not queries:
        problem = f"no sentence of {spoken[0]} has a counterpart in {spoken[1]}"
        hint = "take both languages from one release of FLEURS"
        raise MrlError(problem, where=folder, hint=hint)
    first: dict[str, str] = {}
    for number, text in answers.items():
        if number in known:
            first.setdefault(text, f"{spoken[1]}-{number}")
    data = RetrievalSet(
        queries=tuple(queries),
        corpus=tuple(Document(id=name, text=text) for text, name in first.items()),
        qrels={name: {first[answers[number]]: 1} for name, number in numbers.items()},
    )
    left_out = sum(number not in known for number in answers)
    return FleursPairs(data=data, dropped_queries=dropped, dropped_documents=left_out)


def _code(language: str) -> str:
    if language in LANGUAGES.values():
        return language
    if language not in LANGUAGES:
        near = difflib.get_close_matches(language, (*LANGUAGES, *LANGUAGES.values()), 3, 0.6)
        hint = f"did you mean {' or '.join(near)}" if near else "name it as in `fleurs:wo-fr`"
        raise MrlError(f"has no language {language!r}", where="FLEURS", hint=hint)
    return LANGUAGES[language]


def _raw(where: str, row: Mapping[str, Any]) -> str:
    return row_text(where, row, "raw_transcription", required=True).strip()


def _query(name: str, where: str, row: Mapping[str, Any], folder: Path, *, speech: bool) -> Query:
    if not speech:
        return Query(id=name, text=_raw(where, row))
    audio = row_audio(where, row.get("audio"), folder)
    if audio is None:
        problem = f"has no `audio` for sentence {row['id']}"
        raise MrlError(problem, where=where, hint="download the table again")
    return Query(id=name, audio=audio, transcript=_raw(where, row))


def _rows(folder: Path, code: str, split: str, *, speech: bool) -> Iterator[Row]:
    """The rows of a language, in whichever form the folder has it."""
    columns = ("id", "raw_transcription", "audio")[: 3 if speech else 2]
    for place in (folder / code, folder / "data" / code, folder / "parquet-data" / code):
        for pattern in (f"{split}/*.parquet", f"fleurs-{split}*.parquet", f"{split}-*.parquet"):
            if files := sorted(place.glob(pattern)):
                for file in files:
                    yield from read_rows(file, columns=columns)
                return
    for place in (folder / "xtreme_s", folder):
        if versions := sorted((place / f"fleurs.{code}").glob("*/features.json")):
            yield from _tfds_rows(versions[-1].parent, split)
            return
    raise MrlError(
        f"has no {split} split of {code}: neither {code}/{split}/*.parquet nor "
        f"{code}/fleurs-{split}*.parquet as on the hub, nor xtreme_s/fleurs.{code} of TFDS",
        where=folder,
        hint=f"download both languages of {HUB_ID}, or prepare them with TFDS",
    )


def _tfds_rows(folder: Path, split: str) -> Iterator[Row]:
    """Rows of a prepared TFDS builder, with audio as FLAC and text as text."""
    try:
        import tensorflow_datasets as tfds

        _check_features(folder / "features.json")
        builder: Any = tfds.builder_from_directory(str(folder))
        source: Sequence[Any] = builder.as_data_source(split=split)
    except MrlError:
        raise
    except Exception as error:  # TFDS raises many kinds.
        problem = f"cannot be read by TFDS ({type(error).__name__}: {first_line(error)})"
        hint = 'prepare it with `file_format="array_record"`'
        if isinstance(error, ImportError):  # Its feature of audio takes TensorFlow.
            problem = f"reading audio of TFDS takes {error.name}, which is not installed"
            hint = f"install it, or use the parquet files of {HUB_ID}"
        raise MrlError(problem, where=folder, hint=hint) from error
    for number, example in enumerate(source):
        where = f"{folder}, {split} example {number}"
        row = {key: _plain(value) for key, value in example.items()}
        audio = row.get("audio")
        if not isinstance(audio, np.ndarray) or audio.ndim != 1 or audio.dtype.kind not in "iu":
            problem = "`audio` is not one row of whole numbers, as xtreme_s has it"
            raise MrlError(problem, where=where, hint="prepare tfds's xtreme_s again")
        # Recordings of 16 bits, or of 32 where the values do not fit.
        wide = audio.size and max(int(audio.max()), -int(audio.min())) > 1 << 15
        samples = np.clip(audio >> 16 if wide else audio, -(1 << 15), (1 << 15) - 1)
        yield where, row | {"audio": flac_bytes(samples.astype(np.int16), SAMPLE_RATE)}


def _check_features(path: Path) -> None:
    """Refuse features other than TFDS's own: it imports whatever module a folder names.

    Raises:
        MrlError: one of another module.
    """
    values = [parse_json(path.read_text(encoding="utf-8"))]
    for value in values:  # It grows by what is inside.
        values += value.values() if isinstance(value, dict) else []
        values += value if isinstance(value, list) else []
        for field in _CLASS_FIELDS if isinstance(value, dict) else ():
            name = value.get(field, "")
            if isinstance(name, str) and name and not name.startswith("tensorflow_datasets."):
                problem = f"names the class {name[:80]!r}, which is not imported"
                hint = f"use the parquet files of {HUB_ID}"
                raise MrlError(problem, where=path, hint=hint)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.item() if isinstance(value, np.generic) else value
