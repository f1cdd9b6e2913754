"""`detkit export-scenes` as a plain script."""

import sys

from detkit.cli import main

if __name__ == "__main__":
    sys.exit(main(["export-scenes", *sys.argv[1:]]))
