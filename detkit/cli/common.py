"""What several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkit.config import apply_overrides, config_names, load_config, resolve_config
from detkit.files import as_url


def local_path(text: str) -> Path:
    """A path on the command line, which must be no URL."""
    if as_url(text):
        raise argparse.ArgumentTypeError(f"{text} is a URL: give a path on this machine")
    return Path(text)


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `config` and `--set`."""
    add_config_name(parser)
    add_set(parser)


def add_config_name(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `config`: a file, or the name of a config that comes with detkit."""
    config = parser.add_argument("config", help="config file, or the name of one of `detkit configs`")
    config.completer = complete_config  # type: ignore[attr-defined]


def complete_config(prefix: str, **_: Any) -> list[str]:
    """For completion by the shell: names of the configs that come with detkit, folders and .py files."""
    from argcomplete.completers import FilesCompleter

    return [*config_names(), *FilesCompleter(allowednames=["py"])(prefix)]


def add_set(parser: argparse.ArgumentParser) -> None:
    """Add `--set KEY=VALUE ...`; may be given several times, and is an empty list by default."""
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values: a.b=value"
    )


def add_print_config(parser: argparse.ArgumentParser) -> None:
    """Add the flag `--print-config`."""
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")


def add_import(parser: argparse.ArgumentParser) -> None:
    """Add `--import MODULE_OR_FILE`, whose values are the list `imports`; `allow_imports` imports them."""
    parser.add_argument(
        "--import",
        dest="imports",
        action="append",
        default=[],
        metavar="MODULE_OR_FILE",
        help="import a module, or a .py file, that registers components of your own; may be repeated",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add `--device`."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def add_views(parser: argparse.ArgumentParser) -> None:
    """Add `--slice`, `--overlap` and `--tta`."""
    parser.add_argument(
        "--slice",
        type=int,
        metavar="PIXELS",
        help="also look into parts of this side, for small objects in large images",
    )
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="share of a part that neighbours share (default 0.2)"
    )
    parser.add_argument("--tta", action="store_true", help="also look at mirrored and scaled copies: 4 times as slow")


def allow_imports(options: argparse.Namespace) -> None:
    """Import what `--import` names, for commands that have it.

    Raises:
        ConfigError: it cannot be imported.
    """
    if getattr(options, "imports", None):
        from detkit.runtime.components import import_components

        import_components(options.imports)


def default_out(config_path: str) -> Path:
    """The default folder of a config's run: runs/CONFIG_NAME."""
    return Path("runs") / Path(config_path).stem


def evaluated_checkpoint(source: str | Path, settings: Sequence[str], run: Path | None) -> tuple[Path, dict[str, Any]]:
    """The checkpoint that is meant, and the resolved config to evaluate it with.

    Args:
        source: see `find_checkpoint`.
        settings: that change the config.
        run: the folder of a config's run.

    A config file that is given is the user's own: what it names as `imports` is imported. What the header of a
    checkpoint names is not.

    Raises:
        ValueError: see `find_checkpoint`, and errors of the config.
    """
    from detkit.runtime.components import import_components

    checkpoint, own = find_checkpoint(source, run)
    config = own or stored_config(checkpoint)
    config = resolve_config(apply_overrides(config, settings))
    if own is not None:
        import_components(config["imports"])
    return checkpoint, config


def find_checkpoint(source: str | Path, run: Path | None) -> tuple[Path, dict[str, Any] | None]:
    """The checkpoint that is meant, or the best of a run's folder or of the run of a config, and that config.

    A name that both a config and a published model have means the run of the config where there is one.

    Raises:
        ValueError: the run has no weights yet.
    """
    from detkit.checkpoints.files import find_weights, is_run
    from detkit.checkpoints.published import is_published

    path = Path(source)
    if is_run(path):
        return find_weights(path), None
    if path.suffix not in ("", ".py") or (path.suffix == "" and path.is_file()):
        return path, None
    folder = run or default_out(str(source))
    if is_published(source) and run is None and not folder.is_dir():
        return find_weights(source), None
    config = load_config(source)
    if folder.is_dir():
        return find_weights(folder), config
    raise ValueError(f"{folder} holds no best.safetensors or last.safetensors: train the config first, or give --run")


def stored_config(checkpoint: Path) -> dict[str, Any]:
    """The config in the header of a checkpoint.

    Raises:
        ValueError: no checkpoint, or one without a config.
    """
    from detkit.checkpoints.header import require
    from detkit.checkpoints.weights import read_header

    header = read_header(checkpoint)
    require(header, checkpoint)
    return header["config"]
