"""The error for what a user can mend: bad input, a bad setting, a file that is not what it should be."""

TRY_AGAIN = 42
"""The exit code for what went wrong with machines, networks and stores, not with what the user gave."""


class UserError(ValueError):
    """A problem in what the user gave. The text names the value, the cause and the fix.

    The command line prints it without a traceback and exits with 1; in a library call it is a `ValueError`.
    """


class Stopped(BaseException):
    """SIGTERM, where there is nothing to save; like KeyboardInterrupt no error, and caught by nobody on the way."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum
