"""AdamW, and Muon for matrices, with a schedule, clipping and weight decay where it belongs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from minirec.training.muon import is_matrix, scale_by_muon
from minirec.training.weight_average import with_weight_average

SCHEDULES = ("cosine", "linear", "constant")
_VALUE = "/value"


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter, 2019) with a learning rate schedule.

    Attributes:
        learning_rate: the peak.
        warmup_steps: the rate climbs linearly over so many steps, from `peak / warmup_steps` at
            the first step to the peak at the last of them.
        schedule: what follows the warm-up: "cosine" or "linear" decay to
            `end_fraction * learning_rate` over the rest of the stage, or "constant".
        end_fraction: see `schedule`.
        weight_decay: decoupled decay of the matrices; see `no_decay`.
        b1: decay rate of the mean of gradients.
        b2: decay rate of the mean of squared gradients.
        eps: keeps the division finite.
        clip_norm: gradients with a larger global norm are scaled down to it. None: never.
        muon_learning_rate: the peak for the trunk's matrices, which Muon then trains
            (`minirec.training.muon`); all else stays with AdamW. 0: AdamW trains them too.
        average_decay: how much of the weights' average a step keeps (`with_weight_average`); that
            average is what is evaluated and kept as best. 0: the weights themselves.
        no_decay: a parameter is not decayed if any part of its path contains one of these words,
            or if it has less than two axes. Words, not the number of axes alone: the layers are
            scanned, so that their norms and biases have an axis more.
    """

    learning_rate: float = 1e-3
    warmup_steps: int = 0
    schedule: str = "cosine"
    end_fraction: float = 0.0
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float | None = 1.0
    muon_learning_rate: float = 0.0
    average_decay: float = 0.0
    no_decay: tuple[str, ...] = ("norm", "bias", "scale", "embed")

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"OptimizerConfig.schedule={self.schedule!r}: must be one of {', '.join(SCHEDULES)}"
            )
        for name, low, high in (
            ("learning_rate", 0.0, math.inf),
            ("warmup_steps", 0, math.inf),
            ("end_fraction", 0.0, 1.0),
            ("weight_decay", 0.0, math.inf),
            ("b1", 0.0, 1.0),
            ("b2", 0.0, 1.0),
            ("eps", 0.0, math.inf),
            ("muon_learning_rate", 0.0, math.inf),
            ("average_decay", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if not low <= value <= high or math.isinf(value):
                raise ValueError(
                    f"OptimizerConfig.{name}={value!r}: must be finite and lie in [{low}, {high}]"
                )
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(
                f"OptimizerConfig.clip_norm={self.clip_norm!r}: must be above 0, or None"
            )


def make_schedule(config: OptimizerConfig, num_steps: int) -> optax.Schedule:
    """Returns the learning rate as a function of the step in its stage, counted from 0.

    The decay ends one step past the stage, so that every step moves the model.
    """
    peak, warmup = config.learning_rate, config.warmup_steps
    decay_steps = max(1, num_steps - warmup)

    def schedule(step: ArrayLike) -> Float[Array, ""]:
        step = jnp.asarray(step, jnp.float32)
        progress = jnp.clip((step - warmup) / decay_steps, 0.0, 1.0)
        if config.schedule == "cosine":
            remaining = 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        elif config.schedule == "linear":
            remaining = 1.0 - progress
        else:
            remaining = jnp.ones_like(progress)
        if config.schedule != "constant":
            remaining = config.end_fraction + (1.0 - config.end_fraction) * remaining
        climb = jnp.minimum(1.0, (step + 1.0) / max(1, warmup))
        return peak * climb * remaining

    return schedule


def decay_mask(params: Any, no_decay: tuple[str, ...]) -> Any:
    """Returns a tree of bools shaped like `params`: True where weight decay applies."""

    def decays(path: tuple[Any, ...], leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/").lower()
        return jnp.ndim(leaf) >= 2 and not any(word in name for word in no_decay)

    return jax.tree_util.tree_map_with_path(decays, params)


def make_optimizer(config: OptimizerConfig, num_steps: int) -> optax.GradientTransformation:
    """Returns clipping and AdamW, with Muon or without, over a stage of `num_steps` steps.

    Its state and arithmetic are float32 whatever the parameters are stored in. Parameters that are
    stored in bfloat16 take the sum rounded: keep what is trained in float32 (`param_dtype`), and
    compute in bfloat16.
    """
    adamw = optax.adamw(
        make_schedule(config, num_steps),
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=lambda params: decay_mask(params, config.no_decay),
    )
    if config.muon_learning_rate:
        adamw = _with_muon(adamw, config, num_steps)
    if config.clip_norm is not None:
        adamw = optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
    if config.average_decay:
        adamw = with_weight_average(adamw, config.average_decay)
    return _in_float32(adamw)


def _with_muon(
    adamw: optax.GradientTransformation, config: OptimizerConfig, num_steps: int
) -> optax.GradientTransformation:
    """Returns Muon for a trunk's matrices and AdamW for the rest."""
    peak = dataclasses.replace(config, learning_rate=config.muon_learning_rate)
    muon = optax.chain(
        scale_by_muon(),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(make_schedule(peak, num_steps)),
    )

    return _divided(muon, adamw, is_matrix)


def _divided(
    first: optax.GradientTransformation,
    rest: optax.GradientTransformation,
    is_first: Callable[[str, Any], bool],
) -> optax.GradientTransformation:
    """Returns a transformation that gives some leaves to one and the rest to another.

    Each sees a flat dictionary of its own leaves by path, so that its state holds nothing but
    arrays: `optax.partition` leaves marks where the others' would be, which no checkpoint knows.
    """

    def divide(tree: Any) -> tuple[dict[str, Any], dict[str, Any], list[str], Any]:
        leaves, shape = jax.tree_util.tree_flatten_with_path(tree)
        names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
        # A parameter may be a leaf itself, or hold its array as its value.
        if all(name.endswith(_VALUE) for name in names):
            names = [name.removesuffix(_VALUE) for name in names]
        parts: tuple[dict[str, Any], dict[str, Any]] = {}, {}
        for name, (_, leaf) in zip(names, leaves, strict=True):
            parts[0 if is_first(name, leaf) else 1][name] = leaf
        return *parts, names, shape

    def init(params: Any) -> Any:
        mine, others, *_ = divide(params)
        return {"first": first.init(mine), "rest": rest.init(others)}

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        mine, others, names, shape = divide(updates)
        own, other_params, *_ = divide(params)
        mine, first_state = first.update(mine, state["first"], own)
        others, rest_state = rest.update(others, state["rest"], other_params)
        both: dict[str, Any] = dict(mine) | dict(others)  # pyrefly: ignore
        found = jax.tree.unflatten(shape, [both[name] for name in names])
        return found, {"first": first_state, "rest": rest_state}

    return optax.GradientTransformation(init, update)


def _in_float32(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Returns a transformation that sees gradients and parameters as float32."""

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.promote_types(x.dtype, jnp.float32)), tree)

    def init(params: Any) -> Any:
        return inner.init(cast(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        return inner.update(cast(updates), state, cast(params))

    return optax.GradientTransformation(init, update)
