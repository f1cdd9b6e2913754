"""`python -m detkit`, and the command `detkit`."""

import os
import sys

from detkit.runtime.stopping import exit_as_rank, exit_at_once_on_signals


def run(*words: str) -> int:
    """Run a subcommand with the arguments `words` and those of the command line, see `detkit.cli.main`."""
    exit_at_once_on_signals()
    from detkit.cli import main

    code = main([*words, *sys.argv[1:]])
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        exit_as_rank(code)
    return code


if __name__ == "__main__":
    sys.exit(run())
