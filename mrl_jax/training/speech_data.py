"""The recordings of a run: built where they are a manifest, opened, checked."""

import dataclasses
from pathlib import Path

from mrl_jax.core.distributed import primary_first
from mrl_jax.core.errors import MrlError
from mrl_jax.core.extras import require
from mrl_jax.core.files import make_folder
from mrl_jax.core.paths import PathText, expand_paths, user_path
from mrl_jax.data.audio.augment import Augment, check_augment
from mrl_jax.data.build.builder import BUILD_FILE, BuildOptions, build_dataset
from mrl_jax.data.build.dataset import SpeechDataset, open_dataset
from mrl_jax.training.config import RunConfig, refuse_text_lora
from mrl_jax.training.state import Log


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechDataConfig:
    """What is trained on, and what is measured meanwhile.

    Attributes:
        train: a manifest, a folder of Parquet files, or a data set that `mrl-jax build` made.
        split: which split of it.
        validation: a retrieval set; none if empty.
        build: how a manifest is built into a data set, inside the workdir.
    """

    train: PathText = "data/train.jsonl"
    split: str = "train"
    validation: PathText = ""
    build: BuildOptions = dataclasses.field(default_factory=BuildOptions)

    def __post_init__(self) -> None:
        expand_paths(self, "data")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeechRunConfig(RunConfig):
    """A run on recordings.

    Attributes:
        augment: changes training clips: a function, or a name of
            `data.audio.augment.AUGMENTATIONS`.
        stretch: the largest factor by which `augment` makes a clip longer.
    """

    augment: Augment | str | None = None
    stretch: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_text_lora(self.train)
        check_augment(self.augment)


def open_examples(
    config: SpeechDataConfig, workdir: Path, log: Log, *, verify: bool = True
) -> SpeechDataset:
    """The training split; of several hosts the first builds what has to be built.

    Its index is compared with its digest, unless it is not to be verified.

    Raises:
        MrlError: the data cannot be built or read; a package that training takes is missing.
    """
    require("grain", "tensorflow_datasets", "array_record", by="training on speech")
    make_folder(workdir)
    folder = user_path(config.train)
    with primary_first("data"):
        if not (folder / BUILD_FILE).is_file():
            report = build_dataset(folder, workdir / "data", options=config.build, overwrite=True)
            folder = report.out
            if report.skipped:
                log(f"data: {len(report.skipped)} recordings left out, see {folder / BUILD_FILE}")
    return open_dataset(folder, config.split, verify=verify)


def check_rate(examples: SpeechDataset, rate: int) -> None:
    """Raises an `MrlError` where the clips are not at the rate of the speech tower."""
    if examples.sample_rate != rate:
        raise MrlError(
            f"the data set is at {examples.sample_rate} Hz, the speech tower takes {rate} Hz",
            where=examples.folder,
            hint=f"set data.build.sample_rate={rate}, or build the data set again at that rate",
        )
