"""The paper's claims on real speech: four worlds, the same towers for every system.

    python benchmarks/claims.py --data DATA                            everything
    python benchmarks/claims.py --data DATA --world mboshi --only text,ctc
    python benchmarks/claims.py --world digits --part theo --seed 0
    python benchmarks/claims.py --only record                          results/claims.json alone
    python benchmarks/claims.py --smoke --out runs/smoke               does everything run?

Steps, in their order: {steps}.
Each runs commands of mrl-jax and is left out where its result is there already; a training that
was stopped goes on. `degraded` measures in noise, in a room and through a telephone, `less` with
a recogniser of a quarter of the steps, `matrix` each language of asterisk against each. `record`
writes benchmarks/results/claims.json from all reports that are there, and docs/claims.md and its
figure come from that by `python benchmarks/report.py`.

Worlds: {worlds}.
Their data are not part of the project; the folder of --data has one folder for each.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from claims_worlds.record import measure_claims
from claims_worlds.steps import STEPS, Job
from claims_worlds.worlds import SYSTEMS, WORLDS
from common import record

from mrl_jax.core.cli import CommandParser, run_command
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import write_json
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.core.paths import user_path

ROOT = Path(__file__).resolve().parent.parent
RECORD = "record"
ALL_STEPS = (*STEPS, RECORD)


def main(argv: Sequence[str]) -> int:
    description = (__doc__ or "").format(steps=", ".join(ALL_STEPS), worlds=", ".join(WORLDS))
    parser = CommandParser(prog="python benchmarks/claims.py", description=description)
    parser.add_argument("--world", default=",".join(WORLDS), help="comma-separated; default: all")
    parser.add_argument("--only", default=",".join(ALL_STEPS), help="steps, comma-separated")
    text = "steps or systems that are left out everywhere, comma-separated"
    parser.add_argument("--skip", default="", help=text)
    parser.add_argument("--part", help="one part of the world: a speaker of digits")
    parser.add_argument("--seed", type=int, help="one seed of the heads; default: 0, 1 and 2")
    text = "folder of the data sets; default: %(default)s"
    parser.add_argument(
        "--data", type=user_path, default=ROOT.parent / "shared" / "data", help=text
    )
    parser.add_argument("--out", type=user_path, default=ROOT / "runs" / "claims")
    parser.add_argument("--redo", action="store_true", help="make reports again")
    parser.add_argument("--smoke", action="store_true", help="small data, two steps a training")
    args = parser.parse_args(argv)
    worlds = chosen("--world", args.world, tuple(WORLDS))
    only = chosen("--only", args.only, ALL_STEPS)
    skipped = frozenset(chosen("--skip", args.skip, (*ALL_STEPS, *SYSTEMS)))
    out, data = args.out.resolve(), args.data.resolve()
    parts = [(name, part) for name in worlds for part in parts_of(name, args.part)]
    os.chdir(ROOT)  # The configs import benchmarks.claims_worlds from there.
    for name, part in parts:
        world = WORLDS[name]
        job = Job(
            name=name,
            world=world,
            part=part,
            out=out,
            data=data,
            skipped=skipped,
            seeds=world.seeds if args.seed is None else (args.seed,),
            smoke=args.smoke,
            redo=args.redo,
        )
        run_steps(job, [step for step in only if step in STEPS and step not in skipped])
    if RECORD in only and RECORD not in skipped:
        claims = measure_claims(out)
        if args.smoke:
            write_json(out / "claims.json", claims)
        else:
            record("claims", claims)
    return 0


def run_steps(job: Job, steps: Sequence[str]) -> None:
    """The steps in their order, each with a line before it and one after it."""
    for step in (step for step in STEPS if step in steps):
        if job.smoke:
            job = dataclasses.replace(job, seeds=job.seeds[:1])
        print(f"[{job.name}/{job.part}] {step}", flush=True)
        begun = time.monotonic()
        STEPS[step](job)
        print(f"[{job.name}/{job.part}] {step}: {time.monotonic() - begun:.0f} s", flush=True)


def chosen(option: str, words: str, known: Sequence[str]) -> list[str]:
    """The names of a comma-separated list.

    Raises:
        MrlError: one that is not known; the nearest is named.
    """
    names = [word for word in words.split(",") if word]
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known, otherwise=f"choose among {', '.join(known)}")
            raise MrlError(f"{name!r} is not known", where=option, hint=hint)
    return names


def parts_of(name: str, part: str | None) -> tuple[str, ...]:
    """All parts of a world, or the one named.

    Raises:
        MrlError: the world has no such part.
    """
    parts = WORLDS[name].parts
    if part is None:
        return parts
    if part not in parts:
        hint = did_you_mean(part, parts, otherwise="leave --part out, or name one world")
        raise MrlError(f"{name} has no part {part!r}", where="--part", hint=hint)
    return (part,)


if __name__ == "__main__":
    sys.exit(run_command(main))
