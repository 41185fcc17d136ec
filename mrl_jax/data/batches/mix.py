"""Shares of tasks in training: explicit ones, or natural ones made more even by a temperature."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mrl_jax.core.arguments import PositiveFloat, checked
from mrl_jax.core.array_types import HostArray
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean
from mrl_jax.data.batches.draws import Draws, draws_per_batch

FIELD = "data.batch.mix"


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskMixConfig:
    """How often examples of each task are drawn. Either field takes the place of the `weight` of
    the manifest's rows; without both these count.

    Attributes:
        temperature: the share of a task with n examples is proportional to n^(1/temperature): 1 is
            their natural share, infinity makes all equal.
        shares: of each task among the examples that are drawn; they sum to 1.
    """

    temperature: PositiveFloat | None = None
    shares: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_mix(self.shares, self.temperature, where=FIELD)


def check_mix(shares: Mapping[str, float], temperature: float | None, *, where: str) -> None:
    """Raises an `MrlError` for shares that are none, and for shares beside a temperature."""
    if shares and temperature is not None:
        problem = "has shares and a temperature, expected one of the two"
        raise MrlError(problem, where=where, hint="leave one out")
    for name, share in shares.items():
        if not 0 < share <= 1:
            hint = "leave out the rows of what is not to be trained on"
            problem = f"the share of {name!r} is {share:g}, expected above 0 to 1"
            raise MrlError(problem, where=f"{where}.shares", hint=hint)
    if shares and abs(sum(shares.values()) - 1) > 1e-6:
        problem = f"the shares sum to {sum(shares.values()):g}, expected 1"
        raise MrlError(problem, where=f"{where}.shares", hint="give each group its fraction")


def shares_of(
    counts: Mapping[str, int],
    *,
    shares: Mapping[str, float],
    temperature: float | None,
    kind: str,
    where: str,
) -> dict[str, float]:
    """The share of each group: as it was given, or proportional to n^(1/temperature).

    The latter is how multilingual models are trained, whose papers write the exponent as alpha:
    0.7 of multilingual BERT is a temperature of 1.43, and 0.3 of XLM-R (Conneau et al., 2020,
    arXiv 1911.02116) one of 3.33.

    Args:
        counts: examples of each group.
        shares: by group; empty for those of the temperature.
        temperature: above 0.
        kind: what the groups are, for messages: "task" or "source".
        where: the field that they are given in, for messages.

    Raises:
        MrlError: a share without examples, or examples without a share; a temperature so low that
            nothing is left of a group.
    """
    if shares:
        for name in sorted(shares.keys() - counts.keys()):
            hint = did_you_mean(name, sorted(counts))
            problem = f"there is a share for {name!r}, and no example of that {kind}"
            raise MrlError(problem, where=f"{where}.shares", hint=hint)
        for name in sorted(counts.keys() - shares.keys()):
            problem = f"there is no share for the {kind} {name!r}, of {counts[name]:,} examples"
            hint = f"give it one, or leave the rows of that {kind} out"
            raise MrlError(problem, where=f"{where}.shares", hint=hint)
        return {name: shares[name] / sum(shares.values()) for name in counts}
    most = max(counts.values())
    powers = {name: (n / most) ** (1 / (temperature or 1.0)) for name, n in counts.items()}
    made = {name: power / sum(powers.values()) for name, power in powers.items()}
    for name, share in made.items():
        if share < 1e-12:
            problem = f"is {temperature:g}, which leaves nothing of the {kind} {name!r}"
            raise MrlError(problem, where=f"{where}.temperature", hint="set 1 or more")
    return made


def draws_of(
    tasks: Sequence[str],
    weights: HostArray | None,
    config: TaskMixConfig,
    *,
    batch_size: int,
    one_task: bool,
) -> Draws | None:
    """How often each example is drawn; None where all are drawn alike.

    Args:
        tasks: [examples], of each.
        weights: [examples], those of the manifest; None where it has none.
        config: what takes their place.
        batch_size: examples in a batch.
        one_task: whether batches keep to one task.

    Raises:
        MrlError: as `shares_of`; an example would be more than once in a batch.
    """
    if not tasks:
        return None
    _, numbers = np.unique(np.asarray(tasks, object), return_inverse=True)
    if weights is not None:  # Sums of huge ones would overflow; a power of two changes no ratio.
        weights = np.ldexp(weights, -int(np.frexp(weights.max())[1]))
    if mixed := bool(config.shares) or config.temperature is not None:
        counts = Counter(tasks)
        if len(counts) == 1 and config.temperature not in (None, 1.0):
            problem = f"is {config.temperature:g}, and all examples are of one task"
            hint = "leave it out, or give the rows of the manifest tasks"
            raise MrlError(problem, where=f"{FIELD}.temperature", hint=hint)
        shares = shares_of(
            counts,
            shares=config.shares,
            temperature=config.temperature,
            kind="task",
            where=FIELD,
        )
        weights = np.asarray([shares[task] / counts[task] for task in tasks])
    if weights is None or np.ptp(weights) <= 1e-9 * weights.max():
        return None
    groups = numbers if one_task else np.zeros_like(numbers)
    often = draws_per_batch(weights, groups, batch_size)
    if often.max() > 1 + 1e-9:
        raise _too_few(tasks, weights, often, batch_size, of_rows=not mixed)
    different, of_weight = np.unique(weights, return_inverse=True)
    return Draws(weights=weights, strata=numbers * len(different) + of_weight)


def _too_few(
    tasks: Sequence[str], weights: HostArray, often: HostArray, batch_size: int, *, of_rows: bool
) -> MrlError:
    """The refusal of weights by which an example is more than once in a batch."""
    most = int(often.argmax())
    alike = np.asarray([task == tasks[most] for task in tasks]) & (weights == weights[most])
    name = f"of the task {tasks[most]!r}" if tasks[most] else "without a task"
    what, hint = "share", "lower data.batch.batch_size, the share or the temperature"
    if of_rows:
        name, what = f"{name} that have the largest weight", "weight"
        hint = f"lower data.batch.batch_size or the weights; {FIELD}.temperature=1 is without them"
    problem = f"the {int(alike.sum()):,} examples {name} are too few for their {what}"
    often_each = f"one would be {often[most]:.1f} times in each batch of {batch_size}"
    return MrlError(f"{problem}: {often_each}, expected 1 at most", where=FIELD, hint=hint)


def describe_mix(tasks: Sequence[str], draws: Draws) -> str:
    """One line: the share of each task, its natural share, and how often examples are drawn."""
    whole, often = draws.weights.sum(), draws.weights / draws.weights.mean()
    parts = []
    for task in sorted(set(tasks)):
        own = np.asarray([one == task for one in tasks])
        low, high = often[own].min(), often[own].max()
        times = f"{low:.3g}" if math.isclose(low, high) else f"{low:.3g} to {high:.3g}"
        share, natural = draws.weights[own].sum() / whole, own.mean()
        parts.append(f"{task or 'no task'} {share:.1%} ({natural:.1%} of the data, {times} times)")
    return f"mix, with draws of an example an epoch: {', '.join(parts)}"
