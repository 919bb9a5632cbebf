"""What to adapt and how, in PEFT's words."""

import dataclasses
import math
from typing import Literal

from lodos.errors import UserError

ALL_LINEAR = "all-linear"


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """The LoRA transform of a model's linear layers: `y = W x + scale * B (A dropout(x))`."""

    target_modules: list[str] | str | None = None
    """Layers to adapt: a list of names or name endings, one regex for the whole name, or null / all-linear for every
    linear layer but the output head."""
    r: int = 8
    """Rank of the update."""
    alpha: float = 8.0
    """The update is scaled by alpha / r."""
    dropout: float = 0.0
    """Probability of dropping an input of A during training."""
    exclude_modules: list[str] | str | None = None
    """Layers to leave alone among the targets, matched like target_modules."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead (rank-stabilised LoRA, arXiv:2312.03732)."""
    init: Literal["default", "gaussian", "zero_a"] = "default"
    """Start of the factors: default (A uniform as PEFT's, B zero), gaussian (A normal / r, B zero), zero_a (A zero,
    B uniform)."""

    def __post_init__(self) -> None:
        problems = []
        if not isinstance(self.r, int) or self.r < 1:
            problems.append(f"r: {self.r} must be a whole number of at least 1.")
        if not math.isfinite(self.alpha) or self.alpha == 0:
            problems.append(f"alpha: {self.alpha} would make the adapter do nothing; give a number such as {self.r}.")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout: {self.dropout} must be at least 0 and below 1.")
        if self.init not in ("default", "gaussian", "zero_a"):
            problems.append(f"init: {self.init!r} is not one of default, gaussian, zero_a.")
        if self.target_modules is not None and not self.target_modules:
            problems.append("target_modules: empty. Leave it out to adapt every linear layer.")
        if problems:
            raise UserError("\n".join(problems))

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)
