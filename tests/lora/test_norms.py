import jax
import numpy as np
import pytest

from lodos.lora.config import LoraConfig
from lodos.lora.norms import lora_norms
from lodos.lora.transform import lora_layers, loraize, with_factors
from lodos.models.config import DecoderConfig
from lodos.models.decoder import LmHeadModel
from lodos.nn.rotary import RotaryConfig


@pytest.mark.parametrize("targets", [None, r"model\.layers\.1\..*"])
def test_norms_are_those_of_the_adapted_factors_together(targets: str | None) -> None:
    config = DecoderConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rotary=RotaryConfig(rotary_dim=8, max_position_embeddings=64),
    )
    base = LmHeadModel.init(config, key=jax.random.key(0))
    model = loraize(base, LoraConfig(r=4, target_modules=targets), key=jax.random.key(1))
    assert float(lora_norms(model)["lora_B_norm"]) == 0.0
    adapted = np.asarray([targets is None, True])[:, None, None]
    factors = {
        name: (layer.lora_A, jax.random.normal(jax.random.key(5), layer.lora_B.shape) * adapted)
        for name, layer in lora_layers(model).items()
    }
    model = with_factors(model, factors)
    for field, found in (("lora_A", "lora_A_norm"), ("lora_B", "lora_B_norm")):
        layers = [np.asarray(getattr(layer, field), np.float64) for layer in lora_layers(model).values()]
        expected = np.sqrt(sum(np.square(layer).sum() for layer in layers))
        assert float(jax.jit(lora_norms)(model)[found]) == pytest.approx(expected, rel=1e-5)
