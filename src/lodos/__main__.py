"""`lodos` and `python -m lodos`: the command line in a process of its own."""

import sys

from lodos import cli
from lodos.runtime import exit_process


def main() -> int:
    """Runs a verb; the exit status."""
    # Where torch is installed transformers imports it for its models, which takes seconds; lodos uses none of them.
    sys.modules.setdefault("torch", None)  # pyright: ignore[reportArgumentType]
    return exit_process(cli.main())


if __name__ == "__main__":
    sys.exit(main())
