"""Faults on purpose: `python tools/faults.py kills|ranks|data|options|checkpoints`, each a file in tools/faults."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")


def main(arguments: Sequence[str]) -> int:
    """Run the file in tools/faults that the first argument names."""
    names = sorted(path.stem for path in FOLDER.glob("*.py"))
    if not arguments or arguments[0] not in names:
        print(f"usage: python tools/faults.py {{{','.join(names)}}} [ARGUMENTS]", file=sys.stderr)
        return 2
    spec = importlib.util.spec_from_file_location(f"faults_{arguments[0]}", FOLDER / f"{arguments[0]}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.main(list(arguments[1:])) or 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
