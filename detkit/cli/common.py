"""What several commands share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detkit.config import load_config


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `config` and `--set`."""
    parser.add_argument("config", help="config file, or the name of one of `detkit configs`")
    add_set(parser)


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add `--set KEY=VALUE ...`; may be given several times, and is an empty list by default."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values: a.b=value"
    )


def default_out(config_path: str) -> Path:
    """The default folder of a config's run: runs/CONFIG_NAME."""
    return Path("runs") / Path(config_path).stem


def find_checkpoint(options: argparse.Namespace) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint that the options name, or the best of the run of a config, and that config.

    Raises:
        ValueError: the run has no weights yet.
    """
    path = Path(options.checkpoint)
    if path.suffix not in ("", ".py") or (path.suffix == "" and path.is_file()):
        return path, None
    config = load_config(options.checkpoint)
    run = options.run or default_out(options.checkpoint)
    for name in ("best.safetensors", "last.safetensors"):
        if (run / name).is_file():
            return run / name, config
    raise ValueError(f"{run} holds no best.safetensors or last.safetensors: train the config first, or give --run")
