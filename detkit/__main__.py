"""`python -m detkit`, and the command `detkit`."""

import signal
import sys

from detkit.runtime.stopping import exit_at_once_on_ctrl_c


def run() -> int:
    """Run a subcommand, see `detkit.cli.main`."""
    exit_at_once_on_ctrl_c()
    from detkit.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    return main()


if __name__ == "__main__":
    sys.exit(run())
