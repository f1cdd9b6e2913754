"""`python -m detkit`, and the command `detkit`."""

import sys

from detkit.runtime.stopping import exit_at_once_on_signals


def run(*words: str) -> int:
    """Run a subcommand with the arguments `words` and those of the command line, see `detkit.cli.main`."""
    exit_at_once_on_signals()
    from detkit.cli import main

    return main([*words, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(run())
