"""The paper's systems side by side, in the demo world or on the spoken digits.

    python -m mrl_jax.demo.compare           after `make demo`; the same as `make compare`
    python -m mrl_jax.demo.compare digits    after `python -m mrl_jax.demo.spoken_digits`

Late fusion and the dual encoder, each by nested InfoNCE and by regression, and the pipeline of
recogniser and text tower. What is there already is not trained again.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.demo.commands import ROOT, run_python
from mrl_jax.inference.cascade_config import PIPELINE_FILE

CONFIGS = ROOT / "configs"


REGRESSION = "loss.name=l1_cosine"


DUAL = "model.kind=dual_encoder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Where one world's parts lie, and how its systems are trained.

    Attributes:
        runs: folder of the trained systems; `runs/model` is late fusion, and is there.
        speech: the speech tower, which is the recogniser too.
        text: the text tower.
        test: the retrieval set they are compared on.
        first: the command that makes all this.
        trained: system → config and changes to it.
        pipeline: changes to the demo's pipeline.
        overrides: changes to each of `trained`.
    """

    runs: Path
    speech: Path
    text: Path
    test: Path
    first: str
    trained: dict[str, tuple[str, ...]]
    pipeline: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


def demo_world(out: Path) -> World:
    return World(
        runs=out,
        speech=out / "towers" / "speech",
        text=out / "towers" / "text",
        test=out / "world" / "test",
        first="make demo",
        trained={
            "regression": ("demo_regression.py",),
            "dual_encoder": ("demo_dual_encoder.py",),
            "dual_encoder_regression": ("demo_dual_encoder_regression.py",),
        },
        overrides=(f"data.validation={out / 'world' / 'validation'}",),
    )


def digits_world(out: Path) -> World:
    known = out / "known"
    return World(
        runs=known,
        speech=known / "speech",
        text=out / "text",
        test=known / "test",
        first="python -m mrl_jax.demo.spoken_digits",
        trained={
            "regression": ("spoken_digits.py", REGRESSION),
            "dual_encoder": ("spoken_digits.py", DUAL),
            "dual_encoder_regression": ("spoken_digits.py", DUAL, REGRESSION),
        },
        pipeline=("name=digits_pipeline", "max_text_tokens=48"),
    )


WORLDS = {
    "demo": (demo_world, Path("demo")),
    "digits": (digits_world, Path("runs/spoken_digits")),
}


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(
        prog="python -m mrl_jax.demo.compare", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("world", nargs="?", choices=WORLDS, default="demo")
    parser.add_argument("--out", type=Path, help="of that world: ./demo or ./runs/spoken_digits")
    args = parser.parse_args(argv)
    make_world, usual = WORLDS[args.world]
    world = make_world(args.out or usual)
    if not (world.runs / "model" / MODEL_FILE).is_file():
        raise MrlError("has no trained model", where=world.runs, hint=f"run `{world.first}` first")
    begun = time.monotonic()
    for name, (config, *changes) in world.trained.items():
        if (world.runs / name / MODEL_FILE).is_file():
            continue
        run_python(
            ROOT / "train.py",
            *("--config", CONFIGS / config, "--workdir", world.runs / name),
            f"model.speech_tower={world.speech}",
            f"model.text_tower={world.text}",
            f"data.train={world.runs / 'model' / 'data'}",
            *world.overrides,
            *changes,
        )
    if not (world.runs / "pipeline" / PIPELINE_FILE).is_file():
        run_python(
            ROOT / "train.py",
            *("--config", CONFIGS / "demo_pipeline.py", "--workdir", world.runs / "pipeline"),
            f"recogniser={world.speech}",
            f"text_tower={world.text}",
            *world.pipeline,
        )
    report = world.runs / "compare"
    names = {"late_fusion": "model", **{name: name for name in (*world.trained, "pipeline")}}
    run_python(
        ROOT / "eval.py",
        "compare",
        *("--models", *(f"{system}={world.runs / name}" for system, name in names.items())),
        *("--data", world.test, "--out", report, "--overwrite"),
    )
    print(f"\nReport with pictures: {report} ({time.monotonic() - begun:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
