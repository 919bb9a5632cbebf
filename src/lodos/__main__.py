"""`lodos` and `python -m lodos`: the command line in a process of its own."""

from lodos import signals

signals.listen()  # before anything else is imported, which takes seconds

import sys  # noqa: E402
from typing import NoReturn  # noqa: E402

from lodos import cli  # noqa: E402
from lodos.runtime import exit_process  # noqa: E402


def main() -> NoReturn:
    """Runs a verb, and ends the process."""
    # Where torch is installed transformers imports it for its models, which takes seconds; lodos uses none of them.
    sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    exit_process(cli.main())


if __name__ == "__main__":
    main()
