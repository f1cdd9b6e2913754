"""Official checkpoints as detkit checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from detkit.checkpoints.folding import fold
from detkit.checkpoints.saving import make_header, save_weights
from detkit.config import resolve_config
from detkit.correspondence.convert import LAYOUTS as CORRESPONDENCE
from detkit.download.fetch import local_file
from detkit.official.layouts import Layout, find_layout
from detkit.official.report import ConversionReport, load_completely, without_prefix
from detkit.official.unpickling import read_stored
from detkit.pointseg.convert import LAYOUTS as POINTSEG
from detkit.runtime.components import build_model
from detkit.vidt.convert import LAYOUTS as VIDT

LAYOUTS = (*VIDT, *POINTSEG, *CORRESPONDENCE)
# Keys under which official files have their state dict.
ENTRIES = ("model", "state_dict")


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    *,
    sha256: str | None = None,
    force: bool = False,
    **options: Sequence[int] | None,
) -> ConversionReport:
    """Write an official checkpoint as one that `detkit.load` and every command understand.

    Args:
        source: a file or URL (see `detkit.download.fetch.fetch`).
        destination: the .safetensors file to write.
        sha256: the checksum that `source` must have.
        force: replace `destination` if it exists.
        options: what no key tells, see `convert_state_dict`.

    Raises:
        ValueError: `destination` exists or is no .safetensors file, or `source` cannot be had, is no checkpoint or
            not that of a known model. Nothing is written then.
    """
    path = Path(destination)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path}: the name of a detkit checkpoint must end in .safetensors")
    if path.exists() and not force:
        raise ValueError(f"{path} exists already; replace it with --force, or choose another name")
    model, report = convert_state_dict(read_official(local_file(source, sha256=sha256)), **options)
    config = official_config(report.config)
    rebuilt = build_model(config["model"], model.label_map, model.input_rule.to_dict(), pretrained=False)
    load_completely(rebuilt, model.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(path, rebuilt.state_dict(), make_header(config, rebuilt, converted_from=str(source)))
    return report


def read_official(path: Path) -> Mapping[str, Tensor]:
    """The state dict in an official checkpoint: its "model" or "state_dict" entry, or the whole file.

    Raises:
        ValueError: see `detkit.official.unpickling.read_stored`; or a file without a state dict.
    """
    stored = read_stored(path)
    found = [stored[name] for name in ENTRIES if isinstance(stored, Mapping) and name in stored]
    state_dict = found[0] if found else stored
    if isinstance(state_dict, Mapping) and state_dict and all(isinstance(v, Tensor) for v in state_dict.values()):
        return state_dict
    raise ValueError(f"{path}: has no state dict as its {' or '.join(map(repr, ENTRIES))}; {_contents(stored)}")


def convert_state_dict(state_dict: Mapping[str, Tensor], **options: Any) -> tuple[nn.Module, ConversionReport]:
    """The model of an official state dict, of whatever kind, and a report.

    Args:
        options: what no key tells: `cross_stages` of ViDT, `num_grids` of SOLOv2, `layers` of CATs. None leaves it to
            the default.

    Raises:
        ValueError: an unknown or incomplete state dict, or an option for another kind.
    """
    layout = find_layout(state_dict, LAYOUTS)
    options = {name: value for name, value in options.items() if value is not None}
    for name in options:
        if name not in layout.options:
            owners = " and ".join(other.name for other in LAYOUTS if name in other.options) or "no model"
            raise ValueError(f"{name} is for {owners}; this is a checkpoint of {layout.name}")
    return layout.convert(without_prefix(state_dict), **options)


def layout_of(model: Mapping[str, Any]) -> Layout:
    """The layout whose conversion gives such a model section of a config."""
    return next(layout for layout in LAYOUTS if model["type"] in layout.types)


def official_config(model: Mapping[str, Any]) -> dict[str, Any]:
    """A whole config around a model's, with the data that it was published with at its usual place."""
    return resolve_config(dict(model=dict(model), **layout_of(model).config(model)))


def describe(report: ConversionReport) -> str:
    """The report as text, with the modules that were not loaded."""
    outcomes = {
        key: outcome
        for outcome, keys in (("loaded", report.loaded), ("duplicate", report.duplicates), ("unused", report.unused))
        for key in keys
    }
    unused = [f"  {row.pattern}" for row in fold(outcomes) if row.outcome == "unused"]
    return "\n".join([str(report) + (":" if unused else ""), *unused])


def _contents(stored: Any) -> str:
    if not isinstance(stored, Mapping):
        return f"the file holds {type(stored).__name__}"
    entries = [f"{key!r} ({type(value).__name__})" for key, value in list(stored.items())[:10]]
    return f"the file holds {', '.join(entries)}" + (", ..." if len(stored) > 10 else "")
