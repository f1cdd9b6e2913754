"""`detkit benchmark` as a plain script."""

import sys

from detkit.__main__ import run

if __name__ == "__main__":
    sys.exit(run("benchmark"))
