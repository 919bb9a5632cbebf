import jax
import numpy as np
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.norms import lora_norms
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.models.decoder import LmHeadModel
from tiny_training import tiny_config


@pytest.mark.parametrize("targets", [None, r"model\.layers\.1\..*"])
def test_norms_are_those_of_the_adapted_factors_together(targets: str | None) -> None:
    base = LmHeadModel.init(tiny_config(), key=jax.random.key(0))
    model = loraize(base, LoraConfig(r=4, target_modules=targets), key=jax.random.key(1))
    assert float(lora_norms(model)["lora_B_norm"]) == 0.0
    factors = {
        name: (layer.lora_A, jax.random.normal(jax.random.key(5), layer.lora_B.shape))
        for name, layer in lora_layers(model).items()
    }
    model = with_factors(model, factors)
    for field, found in (("lora_A", "lora_A_norm"), ("lora_B", "lora_B_norm")):
        layers = [np.asarray(getattr(layer, field), np.float64) for layer in lora_layers(model).values()]
        expected = np.sqrt(sum(np.square(layer).sum() for layer in layers))
        assert float(jax.jit(lora_norms)(model)[found]) == pytest.approx(expected, rel=1e-5)
