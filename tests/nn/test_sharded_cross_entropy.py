"""Tokens shared out among eight devices have the loss and gradients that one device gives them, and none travels.

The file is also a script, which writes what one device and eight devices find.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from devices import run_with_devices, travelling
from lodos.nn.cross_entropy import next_token_loss
from lodos.nn.linear import Linear
from lodos.sharding import compute_axis_mapping, shard
from lodos.tree import combine, partition

TOKENS, EMBED, VOCAB = 96, 6, 16
CASES: dict[str, dict[str, Any]] = {
    "tokens": dict(mesh=(8, 1), mapping={"tokens": "data"}),
    "tokens and vocab": dict(mesh=(2, 4), mapping={"tokens": "data", "vocab": "model"}),
    "tokens that eight does not divide": dict(mesh=(8, 1), mapping={"tokens": "data"}, tokens=90),
}


def make_case(tokens: int = TOKENS) -> list[Any]:
    """hidden, head weight, targets, weights; the first device's tokens have no weight, the last one's all."""
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(tokens, EMBED)), rng.normal(size=(VOCAB, EMBED))
    share = np.repeat(np.linspace(0, 1, 8), -(-tokens // 8))[:tokens]
    weights = np.where(rng.random(tokens) < share, rng.random(tokens), 0)
    arrays = (hidden, head, weights)
    return [*(jnp.asarray(x, jnp.float32) for x in arrays), jnp.asarray(rng.integers(0, VOCAB, tokens))]


def run(hidden: Any, head: Any, weights: Any, targets: Any, *, trained: bool, mapping: Any = None) -> Any:
    """The loss, and the gradients of the hidden states and of the head if it is trained."""
    trainable, frozen = partition(Linear(head, None, ("vocab", "embed")), trained)

    def total(differentiated: Any) -> Any:
        hidden, trainable = differentiated
        with compute_axis_mapping(mapping or {}):
            layer = shard(combine(trainable, frozen), mapping or {})
            return next_token_loss(layer, hidden, targets, weights, z_loss=0.1, chunks=(8, 4)).scalar()

    value, gradients = jax.value_and_grad(total)((hidden, trainable))
    return [value, *jax.tree.leaves(gradients)]


def compute(mesh: tuple[int, int], mapping: Any, trained: bool, tokens: int = TOKENS) -> tuple[list[Any], list[str]]:
    """What comes out, and what travels between the devices."""
    ambient = jax.make_mesh(mesh, ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    with jax.set_mesh(ambient):
        layout = NamedSharding(ambient, PartitionSpec("data" if tokens % mesh[0] == 0 else None))
        hidden, head, weights, targets = make_case(tokens)
        hidden, weights, targets = (jax.device_put(x, layout) for x in (hidden, weights, targets))
        arguments = (hidden, head, weights, targets)
        compiled = jax.jit(lambda *args: run(*args, trained=trained, mapping=mapping)).lower(*arguments).compile()
        found = [np.asarray(x).tolist() for x in compiled(*arguments)]
    return found, travelling(compiled.as_text())


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("cross-entropy") / "results.json"
    run_with_devices(8, __file__, file)
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_eight_devices_have_the_loss_and_gradients_of_one(case: str, trained: bool, results: dict[str, Any]) -> None:
    expected = run(*make_case(CASES[case].get("tokens", TOKENS)), trained=trained)
    found, _ = results[f"{case}, {trained:d}"]
    assert len(found) == len(expected) == 2 + trained
    for one, two in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=2e-6 * np.abs(two).max())


@pytest.mark.parametrize("trained", [False, True])
def test_only_sums_travel(trained: bool, results: dict[str, Any]) -> None:
    """Those of losses and weights and, of a trained head, of its gradient: no token's hidden state or logits."""
    assert {operation.split()[0] for operation in results[f"tokens, {trained:d}"][1]} == {"all-reduce"}


def main(file: Path) -> None:
    assert jax.device_count() == 8
    found = {
        f"{case}, {trained:d}": compute(trained=trained, **CASES[case]) for case in CASES for trained in (False, True)
    }
    file.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
