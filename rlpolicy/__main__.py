"""``python -m rlpolicy``: the command line."""

import sys

from rlpolicy.experiment.cli import main

if __name__ == "__main__":
    sys.exit(main())
