"""The folder of a run: created once, and opened again only to resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkit.config import differing_paths, format_config, resolve_config, to_json
from detkit.files import write_text
from detkit.registry import ConfigError
from detkit.runtime.processes import broadcast_object, is_main

# What may change when a run is resumed; everything else is part of what the run is.
MAY_CHANGE = {
    "imports",  # the same files may lie elsewhere
    "data.eval_batch_size",
    "data.workers",
    *(f"train.{key}" for key in ("epochs", "max_steps", "device", "log_every", "eval_every", "checkpoint_every")),
    *(f"train.{key}" for key in ("checkpoint_epochs", "early_stop", "draw_samples", "tensorboard", "profile_steps")),
}


def stored_config(out: str | Path) -> dict[str, Any]:
    """The resolved config of the run in `out`.

    Raises:
        ConfigError: there is no run.
    """
    path = Path(out) / "config.json"
    if not path.is_file():
        raise ConfigError(f"{out} holds no run to resume (no config.json in it); start one without --resume")
    return resolve_config(json.loads(path.read_text(encoding="utf-8")))


def check_run_folder(config: dict[str, Any], out: str | Path, *, resume: bool = False) -> dict[str, Any]:
    """Check that a run can begin in `out`, or be resumed there, before anything is written; on all processes.

    Returns:
        The resolved config of the run.

    Raises:
        ConfigError: an error of the config, a folder that is not empty, nothing to resume, or a resume of a run
            that has checkpoints with another config.
    """
    result: Any = None
    if is_main():
        try:
            result = resolve_config(config)
            _check_folder(result, Path(out), resume)
        except ConfigError as error:
            result = error
    result = broadcast_object(result)
    if isinstance(result, ConfigError):
        raise result
    return result


def write_config(config: dict[str, Any], out: Path) -> None:
    """Write config.json and, for reading, config.py into the folder `out`, which is made."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "config.py", format_config(config))
    write_text(out / "config.json", to_json(config))


def _check_folder(config: dict[str, Any], out: Path, resume: bool) -> None:
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the run")
    if resume:
        stored = stored_config(out)
        if any(out.glob("checkpoints/step_*")):
            _check_unchanged(stored, config, out)
    elif out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: resume the run in it (--resume), or name another folder (--out)")


def _check_unchanged(stored: dict[str, Any], config: dict[str, Any], out: Path) -> None:
    changed = [path for path in differing_paths(stored, config) if path not in MAY_CHANGE]
    if changed:
        lines = [f"  {path}: {_value(stored, path)!r} in the run, {_value(config, path)!r} now" for path in changed]
        raise ConfigError(f"the run in {out} cannot be resumed with another config:\n" + "\n".join(lines))


def _value(config: Any, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) if isinstance(config, dict) else None
    return config
