"""What a published Oolel-Embed speech model consists of.

Such folders have no fixed tensor names, so the parts are searched for: a tower by one of a few
prefixes before the names of its own table, the head by the shapes that follow from the towers'
sizes. A part that is missing, there twice, or left over is fatal.
"""

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax import nnx

from mrl_jax.core.errors import MrlError
from mrl_jax.models.hubert import HubertConfig
from mrl_jax.models.late_fusion import FusionHead
from mrl_jax.models.qwen3 import Qwen3Config
from mrl_jax.models.speech_tower import SpeechTowerConfig
from mrl_jax.nn import param_tree

from . import hubert, qwen3
from .checkpoints import TensorInfo, read_json
from .rules import Assignment, Layout, Plan, RuleTable, Shape, first_of

WHOLE_MODEL = "pass the folder of the whole speech model: both towers, the head, config.json"


@dataclasses.dataclass(frozen=True)
class Tower:
    """How a tower may be called in a published model.

    Attributes:
        name: what we call it.
        prefixes: what may stand before its tensors' names; its table's own prefix may
            follow.
        configs: the fields of config.json that may hold its own.
        folder: the folder that may hold its files instead.
    """

    name: str
    table: RuleTable
    prefixes: tuple[str, ...]
    configs: tuple[str, ...]
    folder: str


SPEECH = Tower(
    name="speech",
    table=hubert.TABLE,
    prefixes=("speech_encoder.", "audio_encoder.", "hubert.", "encoder."),
    configs=("speech_config", "audio_config", "encoder_config"),
    folder="speech_encoder",
)
TEXT = Tower(
    name="text",
    table=qwen3.TABLE,
    prefixes=("text_encoder.", "language_model.", "llm.", "text_model.", "model."),
    configs=("text_config", "llm_config"),
    folder="text_encoder",
)
HEAD = {
    "frame_projection.kernel": Layout.LINEAR,
    "frame_downsample.kernel": Layout.CONV,
    "frame_downsample.bias": Layout.AS_IS,
}
"""Leaves of the head by path, and how the published tensors lie."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """What a published model consists of.

    Attributes:
        prefixes: of the towers' tensors, by tower.
        keys: the towers' tensors without that prefix, by tower.
        head: the head's tensors, by path of ours.
    """

    prefixes: Mapping[str, str]
    keys: Mapping[str, Sequence[str]]
    head: Mapping[str, str]


def find_parts(
    tensors: Mapping[str, TensorInfo], speech: HubertConfig, text: Qwen3Config, *, where: object
) -> Parts:
    """Give every tensor to a tower or to the head, whose shapes follow from the towers' sizes.

    Args:
        tensors: what there is, by published name.
        speech, text: the towers' sizes.
        where: what to call the checkpoint in an error.

    Raises:
        MrlError: a part is missing, there twice, or left over; all of that in one line.
    """
    problems: list[str] = []
    rest = {key: info.shape for key, info in tensors.items()}
    prefixes: dict[str, str] = {}
    keys: dict[str, Sequence[str]] = {}
    for tower in (SPEECH, TEXT):
        matches: dict[str, list[str]] = defaultdict(list)
        for prefix, key in itertools.product(tower.prefixes, tuple(rest)):
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and tower.table.match(name):
                matches[prefix].append(name)
                rest.pop(key)
        if len(matches) == 1:
            ((prefixes[tower.name], keys[tower.name]),) = matches.items()
        elif matches:
            firsts = " and ".join(f"{prefix}{names[0]}" for prefix, names in matches.items())
            problems.append(f"two {tower.name} towers: {firsts}")
        else:
            expected = ", ".join(f"{prefix}*" for prefix in tower.prefixes)
            problems.append(f"no {tower.name} tower: expected its tensors as one of {expected}")

    head = _find_head(rest, speech, text, problems)
    left = {key: shape for key, shape in rest.items() if key not in head.values()}
    if left:
        items = [f"{key} {shape}" for key, shape in left.items()]
        problems.append(f"left over: {first_of(items, 'more')}")
    if problems:
        raise MrlError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} with the parts of the "
            f"model: {'; '.join(problems)}",
            where=where,
            hint=WHOLE_MODEL,
        )
    return Parts(prefixes, keys, head)


def _find_head(
    rest: Mapping[str, Shape], speech: HubertConfig, text: Qwen3Config, problems: list[str]
) -> dict[str, str]:
    """The head's tensors by path of ours, from the shapes that the towers' sizes imply."""
    shapes = {
        path: HEAD[path].inverse_shape(shape) for path, shape in head_shapes(speech, text).items()
    }
    head: dict[str, str] = {}
    for path in ("frame_projection.kernel", "frame_downsample.kernel"):
        fits = [k for k, shape in rest.items() if shape == shapes[path] and k.endswith(".weight")]
        if len(fits) == 1:
            head[path] = fits[0]
        elif fits:
            names = " or ".join(fits)
            problems.append(
                f"the head's {path} may be {names}, expected one tensor of {shapes[path]}"
            )
        else:
            problems.append(f"no {path} of the head: expected a *.weight of {shapes[path]}")
    if "frame_downsample.kernel" in head:
        key = head["frame_downsample.kernel"].removesuffix("weight") + "bias"
        if rest.get(key) == shapes["frame_downsample.bias"]:
            head["frame_downsample.bias"] = key
        else:
            problems.append(f"no {key} of {shapes['frame_downsample.bias']} for the head")
    return head


def head_shapes(speech: SpeechTowerConfig, text: Qwen3Config) -> dict[str, Shape]:
    """Shapes of a late-fusion head's leaves by path, from the towers' sizes."""
    module = nnx.eval_shape(
        lambda: FusionHead(speech.num_layers, speech.width, text.width, rngs=nnx.Rngs(0))
    )
    return {path: leaf.shape for path, leaf in param_tree.flat_weights(module).items()}


def head_plan(head: Mapping[str, str], speech: SpeechTowerConfig, text: Qwen3Config) -> Plan:
    """Which published tensor goes where in the head, from `Parts.head`."""
    assignments = (Assignment(key, f"head.{path}", None, HEAD[path]) for path, key in head.items())
    shapes = {f"head.{path}": shape for path, shape in head_shapes(speech, text).items()}
    return Plan(tuple(assignments), shapes, {})


def tower_config(
    folder: Path, raw: Mapping[str, Any], tower: Tower
) -> tuple[Mapping[str, Any], object]:
    """A tower's own config, and what to call it in an error; `raw` is the model's config.json.

    Raises:
        MrlError: there is none, or there are two that differ.
    """
    configs: list[tuple[Mapping[str, Any], object]] = []
    for name in tower.configs:
        if (value := raw.get(name)) is None:
            continue
        if not isinstance(value, Mapping):
            raise MrlError(
                f"{name} is {value!r}, expected an object: the {tower.name} tower's config",
                where=folder / "config.json",
                hint=f"put that tower's config.json into a folder {tower.folder}",
            )
        configs.append((value, f"{folder / 'config.json'}: {name}"))
    if (path := folder / tower.folder / "config.json").is_file():
        configs.append((read_json(path), path))
    if not configs:
        raise MrlError(
            f"no config of the {tower.name} tower: expected {' or '.join(tower.configs)} in "
            f"config.json, or {tower.folder}/config.json",
            where=folder,
            hint=WHOLE_MODEL,
        )
    for other, where in configs[1:]:
        if other != configs[0][0]:
            raise MrlError(
                f"differs from {configs[0][1]}, expected one config of the {tower.name} tower",
                where=where,
                hint="remove the one that does not belong to the weights",
            )
    return configs[0]
