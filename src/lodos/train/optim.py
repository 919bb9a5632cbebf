"""Optimizers and learning-rate schedules of Optax, by config."""

import dataclasses
import math
from typing import Literal

import optax

from lodos.errors import UserError

UNUSED = {
    "adamw": (),
    "adam": ("weight_decay",),
    "lion": ("epsilon",),
    "sgd": ("weight_decay", "beta2", "epsilon"),
    # Optax's weight decay of Adafactor is not scaled by the learning rate, so it is another thing than AdamW's.
    "adafactor": ("weight_decay", "beta1", "beta2", "epsilon"),
}
"""The settings that an optimizer has no use for."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How the trainable parameters are updated."""

    type: Literal["adamw", "adam", "lion", "sgd", "adafactor"] = "adamw"
    """Which Optax optimizer."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Decoupled weight decay, times the learning rate (adamw, lion)."""
    beta1: float = 0.9
    """Decay of the first moment; momentum for sgd. Adafactor has none."""
    beta2: float = 0.999
    """Decay of the second moment (adamw, adam), or of the momentum that is kept (lion)."""
    epsilon: float = 1e-8
    """Added to the root of the second moment (adamw, adam)."""
    max_grad_norm: float | None = 1.0
    """The gradient of the whole batch is scaled down to this global norm; null for never."""
    warmup: float = 0.03
    """Steps of linear warmup; below 1 a share of all steps."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """What follows the warmup."""
    min_lr_ratio: float = 0.0
    """Where linear and cosine decay end, as a share of learning_rate."""

    def __post_init__(self) -> None:
        problems = []
        if not 0 < self.learning_rate < math.inf:
            problems.append(f"learning_rate: {self.learning_rate} must be a number above 0.")
        if not 0 <= self.min_lr_ratio <= 1:
            problems.append(f"min_lr_ratio: {self.min_lr_ratio} must lie between 0 and 1.")
        if self.warmup < 0:
            problems.append(f"warmup: {self.warmup} must not be negative.")
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            problems.append(f"max_grad_norm: {self.max_grad_norm} must be above 0; null switches clipping off.")
        if not 0 <= self.beta1 < 1:
            problems.append(f"beta1: {self.beta1} must be at least 0 and below 1.")
        if not 0 <= self.beta2 < 1:
            problems.append(f"beta2: {self.beta2} must be at least 0 and below 1.")
        if not 0 < self.epsilon < math.inf:
            problems.append(f"epsilon: {self.epsilon} must be a number above 0.")
        if not 0 <= self.weight_decay < math.inf:
            problems.append(f"weight_decay: {self.weight_decay} must be a number, at least 0.")
        problems += [
            f"{field.name}: {self.type} has none. Leave it at {field.default}, or use adamw as the type."
            for field in dataclasses.fields(self)
            if field.name in UNUSED[self.type] and getattr(self, field.name) != field.default
        ]
        if problems:
            raise UserError("\n".join(problems))

    def schedule(self, num_train_steps: int) -> optax.Schedule:
        """The learning rate of step `s`, counted from 0 in optimizer steps, for `w` warmup steps of `n`:

            s < w:   learning_rate * (s + 1) / w
            s >= w:  the decay at progress (s - w) / (n - w), from learning_rate to min_lr_ratio * learning_rate

        No step has learning rate 0 unless the decay ends there, and none is beyond the end of the decay.
        """
        peak, floor = self.learning_rate, self.min_lr_ratio
        warmup = round(self.warmup * num_train_steps) if self.warmup < 1 else round(self.warmup)
        warmup = min(warmup, num_train_steps)
        decay_steps = max(1, num_train_steps - warmup)
        match self.lr_schedule:
            case "constant":
                decay = optax.constant_schedule(peak)
            case "linear":
                decay = optax.linear_schedule(peak, peak * floor, decay_steps)
            case "cosine":
                decay = optax.cosine_decay_schedule(peak, decay_steps, alpha=floor)
        if warmup == 0:
            return decay
        rise = optax.linear_schedule(peak / warmup, peak, max(1, warmup - 1))
        return optax.join_schedules([rise, decay], [warmup])

    def build(self, num_train_steps: int) -> optax.GradientTransformation:
        """The optimizer for a run of `num_train_steps` steps."""
        rate = self.schedule(num_train_steps)
        match self.type:
            case "adamw":
                update = optax.adamw(rate, self.beta1, self.beta2, eps=self.epsilon, weight_decay=self.weight_decay)
            case "adam":
                update = optax.adam(rate, self.beta1, self.beta2, eps=self.epsilon)
            case "lion":
                update = optax.lion(rate, self.beta1, self.beta2, weight_decay=self.weight_decay)
            case "sgd":
                update = optax.sgd(rate, momentum=self.beta1 or None)
            case "adafactor":
                update = optax.adafactor(rate)
        if self.max_grad_norm is None:
            return update
        return optax.chain(optax.clip_by_global_norm(self.max_grad_norm), update)
