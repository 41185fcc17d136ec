"""The optimiser and its schedule."""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mrl_jax.core.arguments import checked
from mrl_jax.core.errors import MrlError
from mrl_jax.core.nearest import did_you_mean

Schedule = Literal["linear", "cosine", "constant"]
Optimizer = Literal["adamw", "adafactor"]
TEMPERATURE_RANGE = (0.01, 1.0)
"""Where a trained temperature may go; CLIP's lower bound (arXiv 2103.00020, section 2.5)."""


@checked
@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW as the paper trains: linear decay after a short warm-up.

    Attributes:
        name: "adamw", or "adafactor": second moments by rows and columns only and no first
            ones, so that the optimiser's state is small beside the weights.
        learning_rate: at its peak.
        rates: factors on the learning rate, and so on the decay, of the leaves whose dotted path
            begins with a name: optim.rates.head.lora=0.1. Of two such names the longer one counts;
            0 keeps the leaves as they are.
        schedule: its decay after the warm-up; to 0 unless "constant".
        warmup_fraction: fraction of all steps in which it rises.
        weight_decay: on kernels and the text stage's LoRA factors only (`decay_mask`), never on
            biases, norms or the temperature.
        b1, b2, epsilon: Adam's; Adafactor reads none of them.
        clip_norm: global norm that gradients are clipped to; None does not clip.
        accumulation_steps: equal parts that a device's rows are run in, one after the
            other. The gradient is that of the whole batch, all of whose rows are each
            other's negatives; memory is that of a part, at the price of one more forward pass.
        average_decay: decay of an exponential moving average of the weights, which is what is
            validated and exported; 0 keeps none. Early on the decay is smaller, so that the
            initial weights are soon forgotten.
    """

    name: Optimizer = "adamw"
    learning_rate: float = 3e-4
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    schedule: Schedule = "linear"
    warmup_fraction: float = 0.03
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float | None = 1.0
    accumulation_steps: int = 1
    average_decay: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in ("adamw", "adafactor"):
            raise MrlError(f"optim.name is {self.name!r}, expected adamw or adafactor")
        if self.schedule not in ("linear", "cosine", "constant"):
            raise MrlError(
                f"optim.schedule is {self.schedule!r}, expected linear, cosine or constant"
            )
        if not self.learning_rate > 0:
            raise MrlError(f"optim.learning_rate is {self.learning_rate}, expected above 0")
        for name, factor in self.rates.items():
            if not 0 <= factor < math.inf:
                raise MrlError(f"optim.rates.{name} is {factor}, expected 0 or more")
        if not 0 <= self.warmup_fraction < 1:
            raise MrlError(f"optim.warmup_fraction is {self.warmup_fraction}, expected 0 up to 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise MrlError(f"optim.clip_norm is {self.clip_norm}, expected above 0, or none")
        if self.weight_decay < 0 or not self.epsilon > 0:
            raise MrlError(
                f"optim.weight_decay is {self.weight_decay} and optim.epsilon {self.epsilon}, "
                "expected 0 or more, and above 0"
            )
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise MrlError(f"optim.b1 is {self.b1} and optim.b2 {self.b2}, expected 0 up to 1")
        if self.accumulation_steps < 1:
            raise MrlError(
                f"optim.accumulation_steps is {self.accumulation_steps}, expected 1 or more"
            )
        if not 0 <= self.average_decay < 1:
            raise MrlError(f"optim.average_decay is {self.average_decay}, expected 0 up to 1")


@checked
def learning_rate(config: OptimConfig, steps: int) -> optax.Schedule:
    """Rate at each step of a run of `steps`."""
    warmup = round(config.warmup_fraction * steps)
    rest, peak = max(steps - warmup, 1), config.learning_rate
    rate: optax.Schedule = optax.constant_schedule(peak)
    if config.schedule == "linear":
        rate = optax.linear_schedule(peak, 0.0, rest)
    elif config.schedule == "cosine":
        rate = optax.cosine_decay_schedule(peak, rest)
    if warmup:
        # From above 0, so that the first step already changes the weights.
        rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
        rate = optax.join_schedules([rise, rate], [warmup])

    def at(count: Any) -> Any:
        with _optax_promotion():
            return rate(count)

    return at


DECAYED = ("kernel", "direction", "lora_a", "lora_b")
"""Names of the leaves that weight decay is for: matrices, and convolutions' filters."""


@checked
def decay_mask(params: Any) -> Any:
    """True at the leaves that are decayed: by name, as stacked norms and biases have two axes."""
    return jax.tree.map_with_path(
        lambda path, _: any(part in DECAYED for part in _parts(path)), params
    )


@checked
def make_optimizer(
    config: OptimConfig, steps: int, *, rate: optax.Schedule | None = None
) -> optax.GradientTransformation:
    """Clipping, AdamW or Adafactor, and the range of a trained temperature.

    `rate` replaces the schedule `learning_rate(config, steps)`.
    """
    parts = []
    if config.clip_norm is not None:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    rate = learning_rate(config, steps) if rate is None else rate
    if config.name == "adamw":
        parts.append(
            optax.adamw(
                rate,
                b1=config.b1,
                b2=config.b2,
                eps=config.epsilon,
                weight_decay=config.weight_decay,
                mask=decay_mask,
            )
        )
    else:
        # Rates as Adam's: absolute, not relative to each weight's own size.
        parts += [
            optax.scale_by_factored_rms(),
            optax.clip_by_block_rms(1.0),
            optax.add_decayed_weights(config.weight_decay, decay_mask),
            optax.scale_by_learning_rate(rate),
        ]
    if config.rates:
        parts.append(_scale_by_path(config.rates))
    parts.append(_keep_temperature_in_range())
    if config.average_decay:
        parts.append(_average_weights(config.average_decay))
    chained = optax.chain(*parts)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        with _optax_promotion():
            return chained.update(updates, state, params)

    return optax.GradientTransformation(chained.init, update)


class WeightAverage(NamedTuple):
    """The moving average of the weights, kept in the optimiser's state.

    Attributes:
        count: [] int32, updates so far.
        weights: a tree like the trained weights.
    """

    count: Any
    weights: Any


@checked
def averaged_weights(optimizer_state: Any) -> Any:
    """The moving average that the optimiser keeps; None where it keeps none."""
    states = jax.tree.leaves(optimizer_state, is_leaf=lambda x: isinstance(x, WeightAverage))
    return next((x.weights for x in states if isinstance(x, WeightAverage)), None)


def _average_weights(decay: float) -> optax.GradientTransformation:
    """Leaves the updates as they are, and averages the weights that they lead to."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        count = state.count + 1
        ramp = count.astype(jnp.float32)
        kept = jnp.minimum(decay, (1.0 + ramp) / (10.0 + ramp))
        new = optax.apply_updates(params, updates)
        weights = jax.tree.map(lambda old, now: old + (1 - kept) * (now - old), state.weights, new)
        return updates, WeightAverage(count, weights)

    def init(params: Any) -> WeightAverage:
        return WeightAverage(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    return optax.GradientTransformation(init, update)


def _scale_by_path(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiplies each leaf's update by the factor of the longest name that its path begins with."""

    def factor(path: Any) -> float:
        return next((rates[name] for name in reversed(_prefixes(path)) if name in rates), 1.0)

    def init(params: Any) -> optax.EmptyState:
        known = {name for path, _ in jax.tree.leaves_with_path(params) for name in _prefixes(path)}
        for name in rates:
            if name not in known:
                raise MrlError(
                    f"optim.rates has {name!r}, with which no trained leaf's path begins",
                    hint=did_you_mean(name, sorted(known)),
                )
        return optax.EmptyState()

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return jax.tree.map_with_path(lambda path, leaf: leaf * factor(path), updates), state

    return optax.GradientTransformation(init, update)


def _parts(path: Any) -> list[str]:
    return jax.tree_util.keystr(path, simple=True, separator=".").split(".")


def _prefixes(path: Any) -> list[str]:
    """["a", "a.b", "a.b.c"] of the path of a.b.c."""
    return list(itertools.accumulate(_parts(path), lambda start, part: f"{start}.{part}"))


def _optax_promotion() -> Any:
    """Optax multiplies floats by integer counts, which strict promotion refuses."""
    return jax.numpy_dtype_promotion("standard")


def _keep_temperature_in_range() -> optax.GradientTransformation:
    """Clips the update, not the gradient, so that the temperature can leave a bound again."""
    low, high = (jnp.log(jnp.float32(bound)) for bound in TEMPERATURE_RANGE)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if "log_temperature" in updates:
            now = params["log_temperature"]
            new = jnp.clip(now + updates["log_temperature"], low, high)
            updates = {**updates, "log_temperature": new - now}
        return updates, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
