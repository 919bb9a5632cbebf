from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from lodos.jit import named_jit


class Scaled(eqx.Module):
    """An array, and something static that decides what is done with it."""

    array: jax.Array
    factor: Any


def times(scaled: Scaled) -> tuple[jax.Array, str]:
    return scaled.array * scaled.factor, f"{type(scaled.factor).__name__} {scaled.factor}"


def test_arrays_are_traced_and_the_rest_is_static() -> None:
    traced = []

    @named_jit
    def count(scaled: Scaled) -> Any:
        traced.append(scaled.factor)
        return times(scaled)

    for factor in (1, 1.0, True, 1, 1.0, True):
        out, words = count(Scaled(jnp.arange(3), factor))
        assert words == f"{type(factor).__name__} {factor}"
        assert out.dtype == (jnp.arange(3) * factor).dtype
    assert len(traced) == 3


def test_what_is_lowered_for_shapes_is_what_arrays_run(compiled: list[str]) -> None:
    jitted = named_jit(times, donate_args=True)
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = Scaled(jax.ShapeDtypeStruct((5,), jnp.float32, sharding=sharding), 3.0)
    jitted.trace(shapes).lower().compile()
    assert compiled == ["jit(times)"]
    array = jax.device_put(jnp.ones(5), sharding)
    assert jitted(Scaled(array, 3.0))[0].tolist() == [3.0] * 5
    assert compiled == ["jit(times)"]
    jitted(Scaled(jnp.ones(6), 3.0))
    assert compiled == ["jit(times)"] * 2


@pytest.fixture
def compiled() -> Any:
    """The programs that are compiled from now on whose name is that of `times`."""
    found: list[str] = []

    def listen(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event.endswith("backend_compile_duration") and kwargs.get("fun_name") == "jit(times)":
            found.append(kwargs["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("donated", [True, False])
def test_what_is_donated_is_used_up(donated: bool) -> None:
    kept, given = jnp.ones(4), jnp.ones(4)
    named_jit(lambda a, b: a + b, donate_args=(False, donated))(kept, given)
    assert not kept.is_deleted()
    assert given.is_deleted() == donated


def test_it_decorates_functions_and_methods() -> None:
    class Doubler:
        @named_jit
        def double(self, x: jax.Array) -> jax.Array:
            """Twice as much."""
            return 2 * x

    assert Doubler().double(jnp.asarray(4)) == 8
    assert Doubler.double.__doc__ == "Twice as much."
    assert named_jit(donate_args=False)(times)(Scaled(jnp.ones(1), 2.0))[0] == 2.0
