"""Options of `mrl-jax eval transcribe`."""

from dataclasses import dataclass, field
from pathlib import Path

from mrl_jax.core.paths import user_path, user_text
from mrl_jax.evaluation.report.options import ReportOptions, option


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions(ReportOptions):
    """Which recogniser transcribes what."""

    model: Path = field(metadata=option("tower folder of a recogniser", type=user_path))
    data: Path | str = field(
        metadata=option(
            "folder of a set, or its name: fleurs:wo-fr, a manifest or a built data set",
            type=user_text,
        )
    )
    split: str = field(
        default="", metadata=option("of a manifest (all) or a built data set (test)")
    )
    plain: bool = field(
        default=False, metadata=option("compare without case and punctuation", action="store_true")
    )
