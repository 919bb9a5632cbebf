"""What to adapt and how, in PEFT's words."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Literal

from lodos.config_secrets import shown
from lodos.errors import UserError
from lodos.json_files import is_number, is_whole
from lodos.lora.patterns import value_for

ALL_LINEAR = "all-linear"
LARGEST_RANK = 2**16
"""A larger one is no rank of any layer that there is, and would take memory without bound."""


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
    rank_pattern: dict[str, int] = dataclasses.field(default_factory=dict)
    """Ranks of some layers in place of r, by name or by a regex for the end of names: {q_proj: 16}. The first that
    matches decides."""
    alpha_pattern: dict[str, float] = dataclasses.field(default_factory=dict)
    """Alphas of some layers in place of alpha, given like rank_pattern."""

    def __post_init__(self) -> None:
        problems = []
        if not is_whole(self.r, 1, LARGEST_RANK):
            problems.append(f"r: {shown(self.r)} must be a whole number from 1 to {LARGEST_RANK}.")
        if not is_number(self.alpha) or self.alpha == 0:
            problems.append(f"alpha: {shown(self.alpha)} would make the adapter do nothing; give a number such as 16.")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout: {self.dropout} must be at least 0 and below 1.")
        if self.init not in ("default", "gaussian", "zero_a"):
            problems.append(f"init: {self.init!r} is not one of default, gaussian, zero_a.")
        if self.target_modules is not None and not self.target_modules:
            problems.append("target_modules: empty. Leave it out to adapt every linear layer.")
        problems += _pattern_problems("rank_pattern", self.rank_pattern)
        problems += _pattern_problems("alpha_pattern", self.alpha_pattern)
        if problems:
            raise UserError("\n".join(problems))

    @property
    def scale(self) -> float:
        """Of the layers that no pattern names."""
        return self._scale(self.alpha, self.r)

    def rank_of(self, name: str) -> int:
        """The rank of the module with this Hugging Face name."""
        return value_for(self.rank_pattern, name, self.r)

    def scale_of(self, name: str) -> float:
        """What the product of the factors of the module with this Hugging Face name is multiplied by."""
        return self._scale(value_for(self.alpha_pattern, name, self.alpha), self.rank_of(name))

    def _scale(self, alpha: float, r: int) -> float:
        return alpha / (math.sqrt(r) if self.use_rslora else r)


def _pattern_problems(option: str, patterns: Mapping[str, float]) -> Iterator[str]:
    for pattern, value in patterns.items():
        if option == "rank_pattern" and not is_whole(value, 1, LARGEST_RANK):
            yield f"{option}: {pattern}: {shown(value)} must be a whole number from 1 to {LARGEST_RANK}."
        if option == "alpha_pattern" and (not is_number(value) or value == 0):
            yield f"{option}: {pattern}: {shown(value)} would make the update nothing; give a number such as 16."
        try:
            re.compile(pattern)
        except (re.error, TypeError) as error:
            yield f"{option}: {pattern!r} is not a regex: {error}."
