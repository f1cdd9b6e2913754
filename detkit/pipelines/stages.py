"""Programs of several stages. Each stage has a folder, runs once, and is skipped when the program runs again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detkit.config import differing_paths, format_config, missing_data_hint, to_json
from detkit.console import format_seconds
from detkit.files import refuse_url, remove_leftovers, write_text
from detkit.registry import ConfigError
from detkit.runtime.lock import is_transient

DONE, BEGUN = "done.json", "begun.json"


class StageRunner:
    """Runs the stages of one program in one folder.

    `out/NAME` is the folder of stage NAME. It holds `begun.json` while the stage runs and `done.json` afterwards, with
    a fingerprint of the stage's inputs. Nothing is deleted or made again unless the user removes the folder.

    Args:
        out: folder of the program, made with its first stage.
        config: of the whole program, made of JSON types and paths; it is written to `out/config.py`.
        total: number of stages, if it is known.
        say: prints a line of progress.

    Raises:
        ConfigError: `out` holds something else.
    """

    def __init__(
        self, out: str | Path, config: dict[str, Any], *, total: int | None = None, say: Callable[[str], None] = print
    ):
        self.out, self.config, self.total, self.say = Path(out), config, total, say
        self._number = 0
        if self.out.exists() and not self.out.is_dir():
            raise ConfigError(f"{self.out} is a file; name a folder for the results")
        remove_leftovers(self.out)
        if _content(self.out) and not (self.out / "config.py").is_file():
            raise ConfigError(f"{self.out} is not empty and holds no earlier stages: name another folder (--out)")

    def run(self, name: str, function: Callable[[Path], Any], *, inputs: dict[str, Any]) -> Path:
        """Do a stage, or skip it where it is complete.

        Args:
            name: of the stage and its folder.
            function: does the work in the given folder. After an interruption it is called again and finds what it has
                written.
            inputs: everything that the result depends on: values of JSON types, and paths. A file counts by its
                content, a folder by its name.

        Returns:
            The folder.

        Raises:
            ConfigError: the folder was made from other inputs, or an input file does not exist.
        """
        self._number += 1
        title = f"{self._number}{f'/{self.total}' if self.total else ''} {name}"
        folder, now = self.out / name, json.loads(to_json(fingerprint(inputs, name)))
        remove_leftovers(folder)
        self._check_same(name, folder, now)
        if (folder / DONE).is_file():
            (folder / BEGUN).unlink(missing_ok=True)
            self.say(f"== {title}: complete, skipped")
            return folder
        self.say(f"== {title}: {folder}")
        self.out.mkdir(parents=True, exist_ok=True)
        write_text(self.out / "config.py", format_config(json.loads(to_json(as_text(self.config)))))
        folder.mkdir(exist_ok=True)
        write_text(folder / BEGUN, json.dumps({"inputs": now}, indent=1))
        start = time.monotonic()
        function(folder)
        seconds = time.monotonic() - start
        write_text(folder / DONE, json.dumps({"inputs": now, "seconds": round(seconds, 1)}, indent=1))
        (folder / BEGUN).unlink()
        self.say(f"== {title}: done in {format_seconds(seconds)}")
        return folder

    def is_done(self, name: str) -> bool:
        """Whether the stage is complete."""
        return (self.out / name / DONE).is_file()

    def _check_same(self, name: str, folder: Path, now: dict[str, Any]) -> None:
        """Check that the folder was made from the same inputs; a stage that has written nothing may start anew."""
        marks = [folder / mark for mark in (DONE, BEGUN) if (folder / mark).is_file()]
        content = _content(folder)
        if content and not marks:
            raise ConfigError(f"{folder} holds something that stage {name!r} did not write: move it, or choose --out")
        if not content - set(marks):
            return
        then = _read_inputs(marks[0])
        changed = [f"  {path}: {_at(then, path)} then, {_at(now, path)} now" for path in differing_paths(then, now)]
        if changed:
            raise ConfigError(
                f"stage {name!r} in {folder} was made from something else:\n"
                + "\n".join(changed)
                + f"\nRemove {folder} to make it again, or choose another folder (--out)"
            )


def fingerprint(value: Any, name: str) -> Any:
    """`value` with each file replaced by the digest of its content, and each folder by its path.

    Args:
        value: JSON types and paths, nested.
        name: of the stage, for the message.

    Raises:
        ConfigError: a path where there is neither a file nor a folder.
    """
    if isinstance(value, dict):
        return {key: fingerprint(item, name) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [fingerprint(item, name) for item in value]
    if not isinstance(value, Path):
        return value
    refuse_url(value)
    if value.is_dir():
        return f"folder {value}"
    if not value.is_file():
        raise ConfigError(f"stage {name!r}: {value} does not exist{missing_data_hint(value)}")
    with value.open("rb") as file:
        return f"{value.name} with sha256 {hashlib.file_digest(file, 'sha256').hexdigest()}"


def named_files(value: Any) -> list[Path]:
    """The existing files among the strings of a config."""
    if isinstance(value, dict):
        return named_files(list(value.values()))
    if isinstance(value, (list, tuple)):
        return [path for item in value for path in named_files(item)]
    return [Path(value)] if isinstance(value, str) and os.path.isfile(value) else []


def as_text(value: Any) -> Any:
    """`value` with paths as strings."""
    if isinstance(value, dict):
        return {key: as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_text(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _content(folder: Path) -> set[Path]:
    """What is in a folder, but for its lock and what killed processes left."""
    return {path for path in folder.iterdir() if not is_transient(path)} if folder.is_dir() else set()


def _read_inputs(mark: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(mark.read_text(encoding="utf-8"))["inputs"])
    except (ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{mark} is damaged ({error}): remove {mark.parent} to make it again") from error


def _at(value: Any, path: str) -> str:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return repr(value)
