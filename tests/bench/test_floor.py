"""The floor counts each linear layer's weights, as the model has them."""

from typing import Any

from bench.floor import MatrixWork

SMOLLM2 = dict(
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
)


def test_the_weights_are_those_of_the_linear_layers(make_model: Any) -> None:
    import torch

    folder, model = make_model(head_dim=16)
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert MatrixWork.of(folder).weights == sum(linear.weight.numel() for linear in linears)
    assert MatrixWork.of_config(SMOLLM2).weights == 134_479_872


def test_a_token_takes_four_flops_a_weight_and_the_head_only_where_it_is_trained() -> None:
    work = MatrixWork.of_config(SMOLLM2)
    assert work.floor_flops(10, 10) == 40 * work.weights
    assert work.floor_flops(10, 0) == 40 * (work.weights - 576 * 49152)
