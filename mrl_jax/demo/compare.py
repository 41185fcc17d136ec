"""Soft tokens beside the paper's systems, in the demo world or on the spoken digits.

    python -m mrl_jax.demo.compare           after `mrl-jax demo`; the same as `make compare`
    python -m mrl_jax.demo.compare digits    after `python -m mrl_jax.demo.spoken_digits`

Late fusion with soft tokens; with the linear head and the dual encoder, each trained by nested
InfoNCE and by regression; and the cascade of recogniser and text tower. Systems that are trained
already are kept.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.paths import local_path
from mrl_jax.demo.commands import run_mrl_jax
from mrl_jax.inference.cascade_config import CASCADE_FILE

REGRESSION = "loss.name=l1_cosine"
DUAL = "model.kind=dual_encoder"
SOFT = ("model.head=soft_ctc", "train.steps=0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class World:
    """Where the data and models of one world are, and how its systems are trained.

    Attributes:
        runs: folder of the trained systems; `runs/model` exists already.
        speech: the speech tower, which is also the recogniser.
        text: the text tower.
        test: the retrieval set on which the systems are compared.
        made_by: the command that makes all this.
        model: name of the system in `runs/model`.
        trained: system → preset and changes to it.
        cascade: changes to the demo's cascade.
        overrides: changes to each of `trained`.
    """

    runs: Path
    speech: Path
    text: Path
    test: Path
    made_by: str
    model: str
    trained: dict[str, tuple[str, ...]]
    cascade: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()


def demo_world(out: Path) -> World:
    return World(
        runs=out,
        speech=out / "towers" / "speech",
        text=out / "towers" / "text",
        test=out / "world" / "test",
        made_by="mrl-jax demo",
        model="soft",
        trained={
            name: (f"demo_{name}",)
            for name in ("linear", "regression", "dual_encoder", "dual_encoder_regression")
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
        made_by="python -m mrl_jax.demo.spoken_digits",
        model="linear",
        trained={
            "soft": ("spoken_digits", *SOFT),
            "regression": ("spoken_digits", REGRESSION),
            "dual_encoder": ("spoken_digits", DUAL),
            "dual_encoder_regression": ("spoken_digits", DUAL, REGRESSION),
        },
        cascade=("name=digits_cascade", "max_text_tokens=48"),
    )


WORLDS = {
    "demo": (demo_world, Path("demo")),
    "digits": (digits_world, Path("runs/spoken_digits")),
}


def main(argv: Sequence[str]) -> int:
    parser = CommandParser(prog="python -m mrl_jax.demo.compare", description=__doc__)
    parser.add_argument("world", nargs="?", choices=WORLDS, default="demo")
    parser.add_argument(
        "--out", type=local_path("--out"), help="of that world: ./demo or ./runs/spoken_digits"
    )
    args = parser.parse_args(argv)
    make_world, default = WORLDS[args.world]
    world = make_world(args.out or default)
    if not (world.runs / "model" / MODEL_FILE).is_file():
        hint = f"run `{world.made_by}` first"
        raise MrlError("has no trained model", where=world.runs, hint=hint)
    begun = time.monotonic()
    for name, (preset, *changes) in world.trained.items():
        if (world.runs / name / MODEL_FILE).is_file():
            continue
        run_mrl_jax(
            *("train", "--config", preset, "--workdir", world.runs / name),
            f"model.speech_tower={world.speech}",
            f"model.text_tower={world.text}",
            f"data.train={world.runs / 'model' / 'data'}",
            *world.overrides,
            *changes,
        )
    if not (world.runs / "cascade" / CASCADE_FILE).is_file():
        run_mrl_jax(
            *("cascade", "--config", "demo_cascade", "--out", world.runs / "cascade"),
            f"recogniser={world.speech}",
            f"text_tower={world.text}",
            *world.cascade,
        )
    report = world.runs / "compare"
    folders = {world.model: "model", **{name: name for name in (*world.trained, "cascade")}}
    run_mrl_jax(
        *("eval", "compare"),
        *("--models", *(f"{system}={world.runs / name}" for system, name in folders.items())),
        *("--data", world.test, "--out", report, "--overwrite"),
    )
    print(f"\nReport with figures: {report} ({time.monotonic() - begun:.0f} s in all)")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
