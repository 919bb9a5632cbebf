"""The error for what a user can mend: bad input, a bad setting, a file that is not what it should be."""

from collections.abc import Iterator
from contextlib import contextmanager

TRY_AGAIN = 42
"""The exit code for what went wrong with machines, networks and stores, not with what the user gave."""

NOT_SAVED = 74
"""The exit code where a disk has refused what was to be saved last; EX_IOERR of sysexits.h."""

_LONGEST_SAID = 500
"""Characters of another's error."""


class UserError(ValueError):
    """A problem in what the user gave. The text names the value, the cause and the fix.

    The command line prints it without a traceback and exits with 1; in a library call it is a `ValueError`.
    """


@contextmanager
def refusals_of(library: str, source: object) -> Iterator[None]:
    """Turns whatever a library raises over a file of the user's into an error that names the file.

    What comes out of a library over a damaged file can be anything: another's error, a TypeError from deep inside, or
    the panic of one in Rust, which is no `Exception`.
    """
    try:
        yield
    except (UserError, KeyboardInterrupt, SystemExit, GeneratorExit, Stopped):
        raise
    except BaseException as error:
        said = " ".join(str(error).split())[:_LONGEST_SAID].rstrip(".")
        name = type(error).__name__
        raise UserError(
            f"{source}: {library} refuses it: {name}: {said}." if said else f"{source}: {library}: {name}."
        ) from None


class Stopped(BaseException):
    """SIGTERM, where there is nothing to save; like KeyboardInterrupt no error, and caught by nobody on the way."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum
