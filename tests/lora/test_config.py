import dataclasses
import math
from typing import Any

import pytest

from lodos.errors import UserError
from lodos.lora.config import LoraConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(r=0), "r: 0 must be a whole number from 1 to 65536."),
        (dict(r=-4), "r: -4 must be a whole number from 1 to 65536."),
        (dict(r=2.5), "r: 2.5 must be a whole number from 1 to 65536."),
        (dict(alpha=0.0), "alpha: 0.0 would make the adapter do nothing; give a number such as 16."),
        (dict(alpha=math.nan), "alpha: nan would make the adapter do nothing; give a number such as 16."),
        (dict(alpha=math.inf), "alpha: inf would make the adapter do nothing; give a number such as 16."),
        (dict(dropout=1.0), "dropout: 1.0 must be at least 0 and below 1."),
        (dict(dropout=-0.1), "dropout: -0.1 must be at least 0 and below 1."),
        (dict(dropout=math.nan), "dropout: nan must be at least 0 and below 1."),
        (dict(init="pissa"), "init: 'pissa' is not one of default, gaussian, zero_a."),
        (dict(target_modules=[]), "target_modules: empty. Leave it out to adapt every linear layer."),
        (dict(target_modules=""), "target_modules: empty. Leave it out to adapt every linear layer."),
    ],
)
def test_a_bad_value_is_refused_with_what_would_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        LoraConfig(**options)
    assert str(error.value) == message


def test_bad_values_are_named_at_once() -> None:
    with pytest.raises(UserError) as error:
        LoraConfig(target_modules=[], r=0, alpha=0, dropout=2, init="ones")  # pyright: ignore[reportArgumentType]
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "r",
        "alpha",
        "dropout",
        "init",
        "target_modules",
    ]


@pytest.mark.parametrize("options", [dict(r=1), dict(dropout=0.0), dict(dropout=0.99), dict(alpha=-1.0)])
def test_values_at_the_border_are_taken(options: dict[str, Any]) -> None:
    config = LoraConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


@pytest.mark.parametrize(
    ("r", "alpha", "use_rslora", "scale"),
    [(8, 8.0, False, 1.0), (16, 8.0, False, 0.5), (3, 7.0, False, 7 / 3), (16, 8.0, True, 2.0), (4, 10.0, True, 5.0)],
)
def test_the_scale_is_alpha_over_r_or_its_root_and_pefts(r: int, alpha: Any, use_rslora: bool, scale: float) -> None:
    torch = pytest.importorskip("torch")
    import peft

    assert LoraConfig(r=r, alpha=alpha, use_rslora=use_rslora).scale == pytest.approx(scale, rel=1e-15)
    config = peft.LoraConfig(r=r, lora_alpha=alpha, use_rslora=use_rslora, target_modules=["0"])
    layer: Any = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(2, 2)), config).get_submodule("model.0")
    assert layer.scaling["default"] == pytest.approx(scale, rel=1e-15)


def test_a_config_cannot_be_changed_past_its_checks() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LoraConfig().r = 0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(UserError, match="r: 0"):
        dataclasses.replace(LoraConfig(), r=0)
