"""Counts how often the step is compiled, and says so when it is once more than it should be.

A step is compiled for each shape of batch it meets. One shape is to be expected, or those that the loader declares as
its `lengths`; any other costs as much time as the first and is most often a mistake.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
from jaxtyping import PyTree

logger = logging.getLogger(__name__)

_EVENT = "/jax/core/compile/backend_compile_duration"
"""What JAX reports for each program that it compiles or takes from its persistent cache."""


class Compilations:
    """The compilations of one jitted function, which JAX calls `jit(<name>)`."""

    def __init__(self, name: str):
        self._program = f"jit({name})"
        self._compiled: list[tuple[int, ...]] = []
        self._lengths: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        return len(self._compiled)

    def declare(self, lengths: Sequence[int] | None) -> None:
        """The lengths of rows that are to be expected, each once."""
        self._lengths = frozenset(lengths or ())

    @contextmanager
    def watching(self, step: int, batch: PyTree) -> Iterator[None]:
        """Within it, the function is called or compiled for a batch, or for its shapes."""
        events: list[str] = []

        def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
            if event == _EVENT and kwargs.get("fun_name") == self._program:
                events.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        try:
            yield
        finally:
            jax.monitoring.unregister_event_duration_listener(listen)
        for _ in events:
            self._add(step, jax.tree.leaves(batch)[0].shape)

    def _add(self, step: int, shape: tuple[int, ...]) -> None:
        known = list(self._compiled)
        self._compiled.append(shape)
        if not known:
            return
        shapes = ", ".join(str(list(other)) for other in dict.fromkeys(known))
        if shape in known:
            logger.warning(
                "Step %d: compiled again for a batch of shape %s. Its type, or the layout of the model, is not what it "
                "was; each compilation costs time.",
                step,
                list(shape),
            )
        elif not self._is_declared(shape):
            logger.warning(
                "Step %d: compiled again, for a batch of shape %s after %s. Each shape is compiled for itself, which "
                "costs time: give batches of one shape, or a loader that declares its lengths.",
                step,
                list(shape),
                shapes,
            )

    def _is_declared(self, shape: tuple[int, ...]) -> bool:
        first = self._compiled[0]
        return len(shape) > 1 and shape[1] in self._lengths and (shape[0], *shape[2:]) == (first[0], *first[2:])
