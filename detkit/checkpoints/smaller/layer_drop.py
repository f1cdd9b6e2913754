"""Decoding layer drop: removing the last decoder layers of a trained ViDT (arXiv 2110.03921, section 4.4)."""

from __future__ import annotations

from pathlib import Path

from detkit.checkpoints.weights import load_model, make_header, read_header, save_weights
from detkit.registry import ConfigError
from detkit.vidt.model import ViDT


def drop_layers(source: str | Path, destination: str | Path, *, keep: int) -> tuple[int, int]:
    """Write the checkpoint `source` with only its first `keep` decoder layers.

    Each stage of a ViDT has heads of its own and is trained to predict, so the remaining stages are used as they are.

    Returns:
        The numbers of parameters before and after.

    Raises:
        CheckpointError: an unreadable file.
        ConfigError: not a ViDT, a `keep` that removes no layer, or a destination that exists.
    """
    if Path(destination).exists():
        raise ConfigError(f"{destination} exists already; name another file")
    header, model = read_header(source), load_model(source)
    if not isinstance(model, ViDT):
        raise ConfigError(f"{source} holds a {type(model).__name__}: only ViDT has decoder layers to leave out")
    before = sum(p.numel() for p in model.parameters())
    try:
        model.keep_layers(keep)
    except ValueError as error:
        raise ConfigError(f"{source}: {error}") from error
    section = {**header["config"]["model"], "decoder_layers": keep}
    if model.denoising is None:
        section.pop("denoising", None)
    config = {**header["config"], "model": section}
    save_weights(destination, model.state_dict(), make_header(config, model, dropped_from=str(source)))
    return before, sum(p.numel() for p in model.parameters())
