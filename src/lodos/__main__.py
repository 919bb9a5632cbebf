"""`python -m lodos`."""

import sys

from lodos.cli import main

if __name__ == "__main__":
    sys.exit(main())
