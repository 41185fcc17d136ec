"""LoRA factors of a text tower on disk: one folder, which `mrl-jax convert export` makes PEFT's of.

adapter.json   rank, alpha and targets, the tower that the factors are for, and the digests of
               itself and of all other files
weights/       the factors by dotted path, an Orbax checkpoint
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from mrl_jax.checkpoints.arrays import save_arrays
from mrl_jax.checkpoints.mapped_arrays import read_mapped
from mrl_jax.core.arguments import checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.checksums import folder_digests, verify_files
from mrl_jax.core.files import staged_folder
from mrl_jax.core.records import read_record, write_description
from mrl_jax.models.lora import LoraConfig, factor_shapes
from mrl_jax.models.qwen3 import Qwen3Config

FORMAT = 1
ADAPTER_FILE = "adapter.json"
WEIGHTS = "weights"
TRAIN_AGAIN = "run the training's command again: it writes the folder from its last checkpoint"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterInfo:
    """The contents of adapter.json.

    Attributes:
        lora: rank, alpha and targets.
        config: sizes of the tower that the factors are for.
        tower: its digest.
        source: the checkpoint that it was converted from, as it was named then; "" if it was not.
        revision: the commit of that on the hub; "" if it is not from there.
        files: SHA-256 of every other file by relative name.
    """

    lora: LoraConfig
    config: Qwen3Config
    tower: str
    source: str
    files: Mapping[str, str]
    revision: str = ""

    def __post_init__(self) -> None:
        factor_shapes(self.config, self.lora)  # Raises where they do not belong together.


@checked
def save_adapter(
    folder: Path,
    factors: Mapping[str, HostArray],
    *,
    lora: LoraConfig,
    config: Qwen3Config,
    tower: str,
    source: str,
    revision: str = "",
) -> None:
    """Write factors by dotted path, whole or not at all; for the others see `AdapterInfo`."""
    needed = sum(array.nbytes for array in factors.values())
    with staged_folder(folder, marker=ADAPTER_FILE, overwrite=True, needs_bytes=needed) as staging:
        save_arrays(staging / WEIGHTS, factors)
        fields = {
            "lora": dataclasses.asdict(lora),
            "config": dataclasses.asdict(config),
            "tower": tower,
            "source": source,
            "revision": revision,
            "files": folder_digests(staging),
        }
        write_description(staging / ADAPTER_FILE, fields, version=FORMAT)


@checked
def read_adapter(folder: Path) -> tuple[AdapterInfo, dict[str, HostArray]]:
    """A folder of `save_adapter`: what it describes, and the factors by dotted path.

    Raises:
        MrlError: it is no such folder, is damaged or was changed.
    """
    what = "the description of LoRA factors"
    path = folder / ADAPTER_FILE
    info = read_record(path, AdapterInfo, version=FORMAT, what=what, hint=TRAIN_AGAIN)
    verify_files(folder, info.files, named_by=ADAPTER_FILE, hint=TRAIN_AGAIN)
    shapes, what = factor_shapes(info.config, info.lora), "the factors"
    factors = read_mapped(folder / WEIGHTS, shapes, shapes=shapes, what=what, hint=TRAIN_AGAIN)
    return info, factors
