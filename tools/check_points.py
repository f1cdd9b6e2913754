"""`detkit check-points` as a plain script."""

import sys

from detkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["check-points", *sys.argv[1:]]))
