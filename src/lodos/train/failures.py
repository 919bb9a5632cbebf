"""What can go wrong while a run trains, in words that say what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from lodos import hosts
from lodos.errors import UserError


@contextmanager
def explained_failures() -> Iterator[None]:
    """Within it, a loss that is not finite and a device without memory are errors that name the settings to change.

    Raises:
        UserError: for these two; anything else goes on as it is.
    """
    try:
        yield
    except FloatingPointError as error:
        raise UserError(str(error)) from None
    except jax.errors.JaxRuntimeError as error:
        hosts.await_lost_host(error)
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise UserError(
            f"The device has too little memory: {str(error).splitlines()[0]}\n"
            "Lower trainer.per_device_parallelism (the loss stays the same), set gradient_checkpointing to full, or "
            "lower max_tune_length."
        ) from None
