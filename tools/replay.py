"""`detkit replay` as a plain script."""

import sys

from detkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["replay", *sys.argv[1:]]))
