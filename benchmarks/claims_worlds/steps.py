"""The steps of one part of a world: each runs commands of the library, unless it is done.

runs/claims/WORLD/text/           the text tower
runs/claims/WORLD/PART/data/      manifests and sets
                       built/     decoded recordings
                       ctc/ NAME-SEED/ cascade/     recognisers, heads, cascade
                       compare-SEED/ transcribe/ spectrum-NAME/ degraded/ matrix/     reports
                       less/      recogniser, heads and report of fewer steps
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mrl_jax.checkpoints.models import MODEL_FILE
from mrl_jax.checkpoints.towers import TOWER_FILE
from mrl_jax.core.config import load_config, override
from mrl_jax.core.errors import MrlError
from mrl_jax.core.files import staged_folder
from mrl_jax.data.build.builder import BUILD_FILE
from mrl_jax.demo.commands import run_mrl_jax
from mrl_jax.inference.cascade_config import CASCADE_FILE
from mrl_jax.training.ctc.config import CtcExperiment

from .degraded import CONDITIONS, folder_of, write_degraded
from .files import PAIRS, WORLD_FILE
from .settings import MAX_SECONDS
from .tokens import TOKENS_FILE, write_token_counts
from .worlds import CASCADE, COMPARED_WHEN_DEGRADED, HEADS, SMALL, SYSTEMS, World

CONFIGS = Path(__file__).parent / "configs"
RESULTS = "results.jsonl"
CHANNEL = "augment=channel"
LESS = 0.25
"""Part of the recogniser's steps in `less`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One part of a world, and how to go about it.

    Attributes:
        name, world, part: what is run.
        out: folder of all worlds.
        data: folder of all data sets.
        skipped: steps and systems that are left out, here and in reports.
        seeds: of the heads.
        smoke: small data and two steps a training.
        redo: make reports again.
        less: of a recogniser trained for fewer steps.
    """

    name: str
    world: World
    part: str
    out: Path
    data: Path
    skipped: frozenset[str] = frozenset()
    seeds: Sequence[int] = (0,)
    smoke: bool = False
    redo: bool = False
    less: bool = False

    @property
    def text_tower(self) -> Path:
        return self.out / self.name / "text" / "tower"

    @property
    def whole(self) -> Path:
        """Folder of the part, with its data."""
        return self.out / self.name / self.part

    @property
    def base(self) -> Path:
        """Folder of what is trained: that of the part, or `less/` in it."""
        return self.whole / "less" if self.less else self.whole

    @property
    def speech_tower(self) -> Path:
        """The tower of every system: the recogniser's."""
        return self.base / "ctc" / "tower"

    @property
    def dataset(self) -> Path:
        return self.whole / "built" / "train"

    def systems(self, among: Sequence[str] = SYSTEMS) -> list[str]:
        """Those that are not left out."""
        return [name for name in among if name not in self.skipped]

    def folder(self, system: str, seed: int) -> Path:
        """Where a system is: its seed is 0 where none matters."""
        if system == CASCADE:
            return self.base / CASCADE
        return self.base / f"{system}-{seed if HEADS[system].seeded else 0}"

    def small(self, kind: str) -> tuple[str, ...]:
        return SMALL[kind] if self.smoke else ()


def make_data(job: Job) -> None:
    """Manifests and sets, checked for leaks."""
    out = job.whole / "data"
    if (out / WORLD_FILE).is_file():
        return
    with staged_folder(out, marker=WORLD_FILE) as staging:
        job.world.write(job.data / job.world.source, staging, job.part, small=job.smoke)


def build(job: Job) -> None:
    """Decoded recordings, once for all trainings."""
    for name in ("train", "recogniser"):
        manifest = job.whole / "data" / f"{name}.jsonl"
        out = job.whole / "built" / name
        if manifest.is_file() and not (out / BUILD_FILE).is_file():
            options = ("--sample-rate", job.world.sample_rate, "--max-seconds", f"{MAX_SECONDS:g}")
            run_mrl_jax("build", manifest, out, *options)


def train_text(job: Job) -> None:
    """The text tower, of the first part's pairs: those of all parts are the same."""
    if (job.text_tower / TOWER_FILE).is_file():
        return
    data = job.whole / "data"
    _train(
        job.text_tower.parent,
        "text",
        f"data.train={data / PAIRS}",
        f"data.validation={data / 'validation'}",
        *job.world.text,
        *job.small("text"),
    )


def train_ctc(job: Job) -> None:
    """The recogniser, over characters or over the text tower's tokens."""
    folder = job.base / "ctc"
    if (folder / "tower" / TOWER_FILE).is_file():
        return
    changes = (
        *_recordings(job, recogniser=True),
        *(_shared_tokens(job) if job.world.shared_tokens else ()),
        *job.world.ctc,
        *job.small("ctc"),
    )
    _train(folder, f"ctc_{_rate(job)}", *_fewer(job, changes))


def train_head(name: str) -> Callable[[Job], None]:
    """The step that trains one kind of head with every seed."""

    def step(job: Job) -> None:
        for seed in job.seeds if HEADS[name].seeded else (0,):
            folder = job.folder(name, seed)
            if (folder / MODEL_FILE).is_file():
                continue
            trains = "train.steps=0" not in HEADS[name].changes
            smoke = ("train.steps=2",) if job.smoke and trains else ()
            _train(
                folder,
                f"head_{_rate(job)}",
                f"seed={seed}",
                *_recordings(job, recogniser=False),
                f"data.document_cache={job.whole / 'documents'}",
                f"model.speech_tower={_made(job.speech_tower, TOWER_FILE, 'ctc')}",
                f"model.text_tower={_made(job.text_tower, TOWER_FILE, 'text')}",
                *job.world.head,
                *HEADS[name].changes,
                f"data.speech_cache={job.base / 'states'}" if HEADS[name].cached else CHANNEL,
                *job.small("head"),
                *smoke,
            )

    step.__doc__ = f"The head `{name}`, with every seed."
    return step


def write_cascade(job: Job) -> None:
    """The cascade of the same towers."""
    out = job.folder(CASCADE, 0)
    if not (out / CASCADE_FILE).is_file():
        recogniser = _made(job.speech_tower, TOWER_FILE, "ctc")
        words = ("--config", CONFIGS / "cascade.py", "--out", out, f"recogniser={recogniser}")
        text_tower = _made(job.text_tower, TOWER_FILE, "text")
        run_mrl_jax("cascade", *words, f"text_tower={text_tower}")


def compare(job: Job) -> None:
    """All systems on the test, once a seed."""
    for seed in job.seeds:
        out = job.base / f"compare-{seed}"
        _compare(job, job.systems(), seed, job.whole / "data" / "test", out)


def transcribe(job: Job) -> None:
    """The recogniser's error rates on the test."""
    words = ("--model", _made(job.speech_tower, TOWER_FILE, "ctc"))
    data = ("--data", job.whole / "data" / "test")
    _report(job, "transcribe", job.base / "transcribe", *words, *data)


def spectrum(job: Job) -> None:
    """Where information lies in the embeddings of the first seed."""
    for name in job.systems(("linear", "soft", "soft_trained")):
        folder = _made(job.folder(name, job.seeds[0]), MODEL_FILE, name)
        words = ("--model", folder, "--data", job.whole / "data" / "test")
        _report(job, "spectrum", job.base / f"spectrum-{name}", *words)


def count_tokens(job: Job) -> None:
    """How many tokens each system gives the text tower for a second of speech."""
    out = job.base / TOKENS_FILE
    if job.redo or not out.is_file():
        folders = {name: job.folder(name, job.seeds[0]) for name in job.systems()}
        report = job.base / f"compare-{job.seeds[0]}"
        _made(report, RESULTS, "compare")
        write_token_counts(out, folders, job.whole / "data" / "test", report)


def degraded(job: Job) -> None:
    """Some systems on the test in noise, in a room and through a telephone."""
    for condition in CONDITIONS[: 1 if job.smoke else None]:
        folder = job.whole / "degraded" / folder_of(condition)
        data = folder / "data"
        if not (data / "qrels.jsonl").is_file():
            write_degraded(job.whole / "data" / "test", data, condition, job.world.sample_rate)
        systems = job.systems(COMPARED_WHEN_DEGRADED)
        _compare(job, systems, job.seeds[0], data, folder / "compare")


def less(job: Job) -> None:
    """Recogniser, heads and cascade again from a quarter of the recogniser's steps."""
    few = dataclasses.replace(job, less=True, seeds=job.seeds[:1])
    names = ("ctc", *few.systems(COMPARED_WHEN_DEGRADED))
    for name in names:
        if name not in few.skipped:
            STEPS[name](few)
    out = few.base / f"compare-{few.seeds[0]}"
    systems = few.systems(COMPARED_WHEN_DEGRADED)
    _compare(few, systems, few.seeds[0], few.whole / "data" / "test", out)


def matrix(job: Job) -> None:
    """Each language against each, where the world has them."""
    sets = sorted((job.whole / "data" / "matrix").glob("*-*")) if job.world.matrix else []
    for data in sets[: 1 if job.smoke else None]:
        systems = job.systems(COMPARED_WHEN_DEGRADED)
        _compare(job, systems, job.seeds[0], data, job.whole / "matrix" / data.name)


STEPS: Mapping[str, Callable[[Job], None]] = {
    "data": make_data,
    "build": build,
    "text": train_text,
    "ctc": train_ctc,
    **{name: train_head(name) for name in HEADS},
    CASCADE: write_cascade,
    "compare": compare,
    "transcribe": transcribe,
    "spectrum": spectrum,
    "count": count_tokens,
    "degraded": degraded,
    "less": less,
    "matrix": matrix,
}
"""By name, in the order in which they need each other."""


def _train(folder: Path, config: str, *assignments: str) -> None:
    words = ("--config", CONFIGS / f"{config}.py", "--workdir", folder)
    run_mrl_jax("train", *words, *assignments)


def _compare(job: Job, systems: Sequence[str], seed: int, data: Path, out: Path) -> None:
    folders = {name: job.folder(name, seed) for name in systems}
    for name, folder in folders.items():
        _made(folder, CASCADE_FILE if name == CASCADE else MODEL_FILE, name)
    models = [f"{name}={folder}" for name, folder in folders.items()]
    _report(job, "compare", out, "--models", *models, "--data", data)


def _report(job: Job, name: str, out: Path, *words: object) -> None:
    if job.redo or not (out / RESULTS).is_file():
        run_mrl_jax("eval", name, *words, "--out", out, *(["--overwrite"] if job.redo else []))


def _recordings(job: Job, *, recogniser: bool) -> tuple[str, str]:
    """Training data and validation set of a run on recordings."""
    more = job.dataset.with_name("recogniser")
    dataset = more if recogniser and (more / BUILD_FILE).is_file() else job.dataset
    validation = job.whole / "data" / "validation"
    return f"data.train={_made(dataset, BUILD_FILE, 'build')}", f"data.validation={validation}"


def _shared_tokens(job: Job) -> tuple[str, str]:
    """The recogniser's outputs are the text tower's tokens."""
    tower = _made(job.text_tower, TOWER_FILE, "text")
    return "model.vocabulary=text_tower", f"model.text_tower={tower}"


def _fewer(job: Job, changes: Sequence[str]) -> tuple[str, ...]:
    """The changes; with a part of the steps in `less`."""
    if not job.less:
        return tuple(changes)
    base = load_config(CONFIGS / f"ctc_{_rate(job)}.py", CtcExperiment)
    steps = override(base, changes).train.steps
    assert steps is not None  # The configs set it.
    return (*changes, f"train.steps={max(round(steps * LESS), 1)}")


def _rate(job: Job) -> str:
    return f"{job.world.sample_rate // 1000}khz"


def _made(folder: Path, file: str, step: str) -> Path:
    """The folder, if the step that makes it has been run.

    Raises:
        MrlError: it has not.
    """
    if not (folder / file).is_file():
        raise MrlError(f"has no {file}", where=folder, hint=f"run the step `{step}` first")
    return folder
