"""Tables of tensor names, read forwards to convert and backwards to export.

A rule pairs a published tensor name with a dotted path in our module and says how
the axes are laid out. `plan` proves that a checkpoint and a module are in bijection
under a table, or raises one error that lists every problem.
"""

import dataclasses
import enum
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError

Shape = tuple[int, ...]
STACK = ".layers."
"""In the path of leaves that have one entry a layer."""
MOST_LAYERS = 100_000
"""Layers whose missing names are worth listing one by one: no model has as many."""
UNUSED = "unused_tensors"
"""Group of tensors that no module computes with; kept so that export gives them back."""


class Layout(enum.Enum):
    """How a published tensor's axes become ours, and back."""

    AS_IS = None
    LINEAR = (1, 0)
    """(out, in) as torch holds it, to (in, out)."""
    CONV = (2, 1, 0)
    """(out, in, taps) to (taps, in, out)."""
    ROW = ()
    """(1, width), a vector that torch holds as one row, to (width,)."""

    def forward(self, tensor: HostArray) -> HostArray:
        if self is Layout.ROW:
            return tensor[0]
        return tensor if self.value is None else tensor.transpose(self.value)

    def inverse(self, array: HostArray) -> HostArray:
        if self is Layout.ROW:
            return array[None]
        return array if self.value is None else array.transpose(np.argsort(self.value))

    def forward_shape(self, shape: Shape) -> Shape | None:
        """The shape after `forward`, or None if the axes do not fit."""
        if self is Layout.ROW:
            return shape[1:] if len(shape) == 2 and shape[0] == 1 else None
        if self.value is None:
            return shape
        return tuple(shape[i] for i in self.value) if len(shape) == len(self.value) else None

    def inverse_shape(self, shape: Shape) -> Shape:
        if self is Layout.ROW:
            return (1, *shape)
        return shape if self.value is None else tuple(shape[i] for i in np.argsort(self.value))


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of a table.

    Attributes:
        source: published name without its prefix. `{layer}` is the place in a stack,
            `{block}` a number that the target carries too.
        target: dotted path in our tree, group first.
        layout: what happens to the axes.
        prefixed: whether the published name carries the table's prefix.
        spelling: name of the spelling this rule belongs to, where checkpoints differ.
    """

    source: str
    target: str
    layout: Layout = Layout.AS_IS
    prefixed: bool = True
    spelling: str | None = None


@dataclasses.dataclass(frozen=True)
class RuleTable:
    """All rules of one family of checkpoints; `prefix` is that of names in a larger model's."""

    rules: tuple[Rule, ...]
    prefix: str

    def match(self, key: str) -> list[tuple[Rule, str, dict[str, int]]]:
        """Every rule that fits a published key, the key's prefix and its numbers."""
        fits = []
        for rule in self.rules:
            if match := _pattern(rule, self.prefix).fullmatch(key):
                groups = match.groupdict()
                prefix = groups.pop("prefix", None) or ""
                fits.append((rule, prefix, {name: int(value) for name, value in groups.items()}))
        return fits


@dataclasses.dataclass(frozen=True)
class Assignment:
    """One published tensor and its place: a whole leaf, or one layer of a stacked one."""

    key: str
    path: str
    layer: int | None
    layout: Layout


@dataclasses.dataclass(frozen=True)
class Plan:
    """A proven bijection.

    Attributes:
        assignments: one a published tensor.
        shapes: shape of every leaf of our tree, unused_tensors included, by path.
        naming: how this checkpoint spells its names; `published_names` reads it.
    """

    assignments: tuple[Assignment, ...]
    shapes: Mapping[str, Shape]
    naming: Mapping[str, Any]


def _pattern(rule: Rule, prefix: str) -> re.Pattern[str]:
    body = re.escape(rule.source)
    for name in ("layer", "block"):
        body = body.replace(re.escape(f"{{{name}}}"), rf"(?P<{name}>0|[1-9]\d*)")
    head = f"(?P<prefix>{re.escape(prefix)})?" if rule.prefixed else ""
    return re.compile(head + body)


def plan(
    table: RuleTable, tensors: Mapping[str, Shape], leaves: Mapping[str, Shape], *, where: object
) -> Plan:
    """Pair every tensor of a checkpoint with exactly one place in the module.

    Args:
        table: the family's rules.
        tensors: shapes of the checkpoint's tensors by published name.
        leaves: shapes of the module's leaves by path, group first; stacked leaves have
            their layers on the leading axis.
        where: what to call the checkpoint in an error.

    Raises:
        MrlError: some tensor is unknown, missing, there twice, or of the wrong shape;
            all of them in one line.
    """
    problems: dict[str, list[str]] = defaultdict(list)
    owners: dict[tuple[str, int | None], str] = {}
    assignments: list[Assignment] = []
    shapes = dict(leaves)
    spellings: set[str] = set()
    prefixes: Counter[str] = Counter()

    for key, shape in tensors.items():
        fits = table.match(key)
        if len(fits) != 1:
            problems["unknown" if not fits else "ambiguous"].append(key)
            continue
        rule, prefix, numbers = fits[0]
        path = rule.target.format(**numbers)
        layer = numbers.get("layer")
        if path.startswith(f"{UNUSED}."):
            shapes[path] = rule.layout.forward_shape(shape) or shape
        if path not in shapes or (layer is not None and layer >= shapes[path][0]):
            problems["unknown"].append(key)
            continue
        if (path, layer) in owners:
            problems["duplicate"].append(f"{key} beside {owners[path, layer]}")
            continue
        owners[path, layer] = key
        expected = shapes[path] if layer is None else shapes[path][1:]
        if rule.layout.forward_shape(shape) != expected:
            wanted = rule.layout.inverse_shape(expected)
            problems["misshapen"].append(f"{key} is {shape}, expected {wanted}")
        if rule.prefixed:
            prefixes[prefix] += 1
        if rule.spelling is not None:
            spellings.add(rule.spelling)
        assignments.append(Assignment(key, path, layer, rule.layout))

    naming = {
        "prefix": prefixes.most_common(1)[0][0] if prefixes else "",
        "spellings": sorted(spellings),
    }
    if len(prefixes) > 1:
        minority = prefixes.most_common()[-1][0]
        problems["mixed prefixes"].append(
            f"{prefixes[minority]} of {prefixes.total()} names "
            + (f"start with {minority!r}" if minority else f"lack {table.prefix!r}")
        )
    _check_count(tensors, leaves, where=where)
    named = published_names(table, leaves, naming)
    problems["missing"] += [item.key for item in named if (item.path, item.layer) not in owners]
    lines = [f"{kind}: {_summarise(names)}" for kind, names in sorted(problems.items()) if names]
    if lines:
        total = sum(map(len, problems.values()))
        raise MrlError(
            f"{total} problem{'s' if total > 1 else ''} with the tensors: {'; '.join(lines)}",
            where=where,
            hint="check that config.json belongs to these weights and that no file was left out",
        )
    return Plan(tuple(assignments), shapes, naming)


def _check_count(
    tensors: Mapping[str, Shape], leaves: Mapping[str, Shape], *, where: object
) -> None:
    """Refuse sizes that are far from the tensors, before each layer is given its names.

    Raises:
        MrlError: config.json has many times the layers of the checkpoint.
    """
    layers = max((shape[0] for path, shape in leaves.items() if STACK in path), default=0)
    if layers > MOST_LAYERS and layers > len(tensors):
        raise MrlError(
            f"config.json has {layers:,} layers, and the checkpoint {len(tensors):,} tensors",
            where=where,
            hint="check that config.json belongs to these weights",
        )


def published_names(
    table: RuleTable, shapes: Mapping[str, Shape], naming: Mapping[str, Any]
) -> list[Assignment]:
    """The published name of every leaf (of every layer of a stacked one), in table order.

    Raises:
        ValueError: some leaf has no rule: the table does not belong to this module.
    """
    named = []
    for path, shape in shapes.items():
        rule, numbers = _rule_for(table, path, naming["spellings"])
        prefix = naming["prefix"] if rule.prefixed else ""
        for layer in range(shape[0]) if "{layer}" in rule.source else (None,):
            key = prefix + rule.source.format(layer=layer, **numbers)
            named.append(Assignment(key, path, layer, rule.layout))
    return named


def _rule_for(table: RuleTable, path: str, spellings: Sequence[str]) -> tuple[Rule, dict[str, int]]:
    fits = []
    for rule in table.rules:
        pattern = re.escape(rule.target).replace(re.escape("{block}"), r"(?P<block>\d+)")
        if match := re.fullmatch(pattern, path):
            fits.append((rule, {name: int(value) for name, value in match.groupdict().items()}))
    spelled = [fit for fit in fits if fit[0].spelling in spellings] or fits
    if not spelled:
        raise ValueError(f"no rule leads to {path}")
    return spelled[0]


def _summarise(names: Sequence[str]) -> str:
    """Names on one line; those that differ only in their numbers are counted together."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in names:
        families[re.sub(r"\d+", "#", name)].append(name)
    lines = [
        members[0] if len(members) == 1 else f"{members[0]} and {len(members) - 1} like it"
        for members in families.values()
    ]
    return first_of(lines, "other kinds")


def first_of(items: Sequence[str], rest: str, *, at_most: int = 6) -> str:
    """The first items on one line, and how many more of a `rest` there are."""
    more = len(items) - at_most
    return ", ".join(items[:at_most]) + (f", and {more} {rest}" if more > 0 else "")
