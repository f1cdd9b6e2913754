"""Where configs are: files by their paths, the configs that come with detkit by their names, datasets by folders."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from detkit.files import refuse_url
from detkit.registry import ConfigError

# The configs that come with detkit: inside the installed package, in a clone beside it.
_PACKAGE = Path(__file__).resolve().parent.parent
SHIPPED = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"
# Short names of the published ViDT models: vidt_swin_n, vidt_plus_swin_t, ...
SHORT_NAMES = {
    f"{model}_swin_{size[0]}": f"{model}_swin_{size}"
    for model in ("vidt", "vidt_plus")
    for size in ("nano", "tiny", "small", "base")
}
data_folders: dict[str, tuple[str, str]] = {}  # environment variable -> (folder, default)


def find_config(source: str | Path) -> Path:
    """The file of a config: `source` itself where it is a .py file, else the shipped config of that name.

    Raises:
        ConfigError: there is neither; the message has the nearest files and names.
    """
    refuse_url(source)
    path, name = Path(source), str(source)
    if path.suffix == ".py" and path.is_file():
        return path.resolve()
    shipped = _shipped_files()
    if (long_name := SHORT_NAMES.get(name, name)) in shipped:
        return shipped[long_name]
    known = {**dict(zip(shipped, shipped, strict=True)), **SHORT_NAMES}
    known |= {file.stem: str(file) for file in path.parent.glob("*.py")}
    close = [path.stem] if path.stem in known else difflib.get_close_matches(path.stem, known, n=3)
    near = dict.fromkeys(known[stem] for stem in close)
    what = f"config file {path}" if path.suffix == ".py" else f"config {name}"
    hint = f"did you mean {' or '.join(near)}?" if near else "`detkit configs` lists those that come with detkit"
    raise ConfigError(f"{what} does not exist; {hint}")


def config_names() -> list[str]:
    """The names of the configs that come with detkit, sorted; see also `SHORT_NAMES`."""
    return sorted(_shipped_files())


def data_folder(variable: str, default: str) -> str:
    """For configs: the folder (or file) that an environment variable names, else `default`."""
    folder = os.environ.get(variable, default)
    data_folders[variable] = (folder, default)
    return folder


def missing_data_hint(path: str | Path) -> str:
    """The end of a message that `path` is missing: which environment variable says where a config looks for it."""
    for variable, (folder, _) in data_folders.items():
        if Path(path).is_relative_to(folder) and not Path(folder).exists():
            return f"; {folder} does not exist: set the environment variable {variable} to where it is"
    return ""


def _shipped_files() -> dict[str, Path]:
    files = (path for folder in shipped_folders() for path in folder.glob("*.py"))
    return {path.stem: path for path in files if path.stem not in SHORT_NAMES}


def shipped_folders() -> list[Path]:
    """The folder of the shipped configs and those in it; names are unique over all of them."""
    return [SHIPPED, *sorted(path for path in SHIPPED.glob("[!_]*") if path.is_dir())]


@contextlib.contextmanager
def importable(folders: Sequence[Path]) -> Iterator[None]:
    """Put `folders` first on the import path; forget afterwards what was imported from them."""
    importlib.invalidate_caches()
    before, path, write_bytecode = set(sys.modules), list(sys.path), sys.dont_write_bytecode
    sys.path[:0] = map(str, folders)
    sys.dont_write_bytecode = True
    try:
        yield
    finally:
        sys.path[:], sys.dont_write_bytecode = path, write_bytecode
        for name in [name for name in sys.modules if name.partition(".")[0] not in before]:
            folder_of = getattr(sys.modules[name], "__path__", ())
            if not isinstance(folder_of, Iterable):  # as in torch.classes
                continue
            origins = [getattr(sys.modules[name], "__file__", None), *folder_of]
            if any(origin and Path(origin).is_relative_to(folder) for origin in origins for folder in folders):
                del sys.modules[name]
