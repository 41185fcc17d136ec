"""The paper's systems side by side in the demo world: `make compare`, after `make demo`.

Late fusion and the dual encoder, each by nested InfoNCE and by regression, and the pipeline of
recogniser and text tower. What is there already is not trained again.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.demo.commands import ROOT, run_python
from mrl_jax.errors import CommandParser, MrlError, run_command
from mrl_jax.model_folder import MODEL_FILE
from mrl_jax.pipeline_folder import PIPELINE_FILE

TRAINED = ("regression", "dual_encoder", "dual_encoder_regression")


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m mrl_jax.demo.compare", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--out", type=Path, default=Path("demo"), help="of the demo: ./demo")
    out: Path = parser.parse_args(argv).out
    if not (out / "model" / MODEL_FILE).is_file():
        raise MrlError("has no trained model", where=out, mend="run `make demo` first")
    begun = time.monotonic()
    speech, text = out / "towers" / "speech", out / "towers" / "text"
    for name in TRAINED:
        if (out / name / MODEL_FILE).is_file():
            continue
        run_python(
            ROOT / "train.py",
            *("--config", ROOT / "configs" / f"demo_{name}.py", "--workdir", out / name),
            f"model.speech_tower={speech}",
            f"model.text_tower={text}",
            f"data.train={out / 'model' / 'data'}",
            f"data.validation={out / 'world' / 'validation'}",
        )
    if not (out / "pipeline" / PIPELINE_FILE).is_file():
        run_python(
            ROOT / "train.py",
            *("--config", ROOT / "configs" / "demo_pipeline.py", "--workdir", out / "pipeline"),
            f"recogniser={speech}",
            f"text_tower={text}",
        )
    report = out / "compare"
    names = ("model", *TRAINED, "pipeline")
    run_python(
        ROOT / "eval.py",
        "compare",
        *("--models", f"late_fusion={out / 'model'}", *(f"{n}={out / n}" for n in names[1:])),
        *("--data", out / "world" / "test", "--out", report, "--overwrite"),
    )
    print(f"\nReport with pictures: {report} ({time.monotonic() - begun:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
