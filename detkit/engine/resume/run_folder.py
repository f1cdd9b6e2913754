"""The folder of a run: created once, and opened again only to resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkit.config import format_config, resolve_config, to_json
from detkit.engine.resume.resumable import forbidden_changes
from detkit.files import remove_leftovers, write_text
from detkit.registry import ConfigError
from detkit.runtime.lock import is_transient
from detkit.runtime.processes import on_main

# What an unfinished start leaves in the folder, beside temporary files and the lock.
UNFINISHED = {"config.py", "config.json", "checkpoints"}
PREPARED = {"data"}  # annotation files that a command wrote for this run
FOLDERS = ("checkpoints", "kept", "samples", "tensorboard")


def stored_config(out: str | Path) -> dict[str, Any]:
    """The resolved config of the run in `out`.

    Raises:
        ConfigError: there is no run, or its config cannot be read.
    """
    path = Path(out) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{out} holds no run to resume (no config.json in it); start one without --resume")
    try:
        return resolve_config(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ConfigError(f"{path}: is damaged, or of another version of detkit ({error})") from error


def check_run_folder(config: dict[str, Any], out: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Check that a run can begin in `out`, or be resumed there, before anything is written; on all processes.

    Returns:
        The resolved config of the run.

    Raises:
        ConfigError: an error of the config, a folder that is not empty, a resume in a folder of something else, or
            of a run that has checkpoints with another config.
    """

    def check() -> dict[str, Any]:
        resolved = resolve_config(config)
        _check_folder(resolved, Path(out), resume)
        return resolved

    return on_main(check)


def write_config(config: dict[str, Any], out: Path) -> None:
    """Write config.json and, for reading, config.py into the folder `out`, which is made.

    Temporary files of a run that died in it are removed: nobody else writes there.
    """
    out.mkdir(parents=True, exist_ok=True)
    for folder in (out, *(out / name for name in FOLDERS)):
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"{folder} is a file where the run needs a folder: move it away")
        remove_leftovers(folder)
    write_text(out / "config.py", format_config(config))
    write_text(out / "config.json", to_json(config))


def refuse_used_folder(out: Path, *, resume: bool = False) -> None:
    """Check that a run can begin in `out`; with `resume`, also after a start that did not get to its first checkpoint.

    Raises:
        ConfigError: it is a file, or holds something else.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the run")
    content = {path.name for path in out.iterdir() if not is_transient(path)} if out.is_dir() else set()
    if resume:
        if content - UNFINISHED - PREPARED:
            stored_config(out)  # raises: this is something else
    elif content - PREPARED:
        raise ConfigError(f"{out} is not empty: resume the run in it (--resume), or name another folder (--out)")


def _check_folder(config: dict[str, Any], out: Path, resume: bool) -> None:
    if resume and any(out.glob("checkpoints/step_*")):
        _check_unchanged(stored_config(out), config, out)
    elif not (resume and (out / "config.json").exists()):
        refuse_used_folder(out, resume=resume)


def _check_unchanged(stored: dict[str, Any], config: dict[str, Any], out: Path) -> None:
    if changed := forbidden_changes(stored, config):
        lines = [f"  {path}: {_value(stored, path)!r} in the run, {_value(config, path)!r} now" for path in changed]
        raise ConfigError(f"the run in {out} cannot be resumed with another config:\n" + "\n".join(lines))


def _value(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
