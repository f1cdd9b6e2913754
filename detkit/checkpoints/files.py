"""Which file a path of a checkpoint means, and opening it."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from detkit.checkpoints.header import CheckpointError, decode, metadata_of
from detkit.checkpoints.published import is_name, is_published, published_checkpoint
from detkit.config import SHORT_NAMES, config_names
from detkit.download.kinds import PICKLE, TAR, ZIP, kind_of_file, why_no_weights
from detkit.files import refuse_url, write_atomically

WEIGHTS = ("best.safetensors", "last.safetensors")  # of a run, by preference


def find_weights(path: str | Path) -> Path:
    """The weight file that is meant by what exists under a path, else by the name of a published model.

    A folder of a run means its best weights, otherwise its last or newest. A published model is downloaded and
    converted when it is named for the first time.

    Raises:
        CheckpointError: there is none.
        ValueError: the path is a URL, or a published model cannot be had.
    """
    refuse_url(path)
    path = Path(path)
    if not path.exists() and is_name(path):
        return published_checkpoint(str(path))
    if not path.is_dir():
        return path
    found = [path / name for name in WEIGHTS if (path / name).is_file()]
    found += sorted(path.glob("checkpoints/step_*.safetensors"), reverse=True)
    if not found:
        raise CheckpointError(f"{path} holds no best.safetensors or last.safetensors: name a checkpoint or another run")
    return found[0]


def is_run(path: str | Path) -> bool:
    """Whether this is the folder of a run, begun or finished."""
    return any((Path(path) / name).exists() for name in ("config.json", "checkpoints", *WEIGHTS))


def names_weights(source: str | Path) -> bool:
    """Whether this means weights rather than a config; a name that both have is that of the config."""
    if Path(source).suffix == ".safetensors" or is_run(source):
        return True
    return is_published(source) and str(source) not in (*config_names(), *SHORT_NAMES)


@contextlib.contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """A safetensors file, as `safe_open` gives it.

    Raises:
        CheckpointError: no such file, truncated, or of another kind, which is named.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    if (kind := kind_of_file(path)) in (ZIP, PICKLE, TAR):
        hint = f"official ones become checkpoints by `detkit convert {path} NEW.safetensors`"
        raise CheckpointError(f"{path}: is a torch file, not a detkit checkpoint; {hint}")
    if kind is None and (problem := why_no_weights(path)) and path.stat().st_size:
        raise CheckpointError(f"{path}: {problem}")
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: is truncated or not a safetensors file ({error})") from error


def update_header(path: str | Path, entries: Mapping[str, Any]) -> None:
    """Replace or add entries of the header of a weight file, atomically; the bytes of its tensors stay as they are.

    Raises:
        CheckpointError: no such file, truncated, altered, or not written by detkit.
    """
    with opened(path) as file:
        header = decode(file.metadata() or {}, path)
    path = Path(path)
    with path.open("rb") as source:
        length = int.from_bytes(source.read(8), "little")
        layout = json.loads(source.read(length))
        layout["__metadata__"] = metadata_of({**header, **entries})
        text = json.dumps(layout, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8

        def write(temporary: Path) -> None:
            with temporary.open("wb") as target:
                target.write(len(text).to_bytes(8, "little") + text)
                source.seek(8 + length)
                shutil.copyfileobj(source, target, 2**20)

        write_atomically(path, write)
