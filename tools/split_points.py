"""`detkit split-points` as a plain script."""

import sys

from detkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["split-points", *sys.argv[1:]]))
