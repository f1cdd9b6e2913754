"""Object detection and dense prediction: ViDT, PointWSSIS and MatchMe in one house."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from detkit.modeling.image_model import ImageModel

__version__ = "0.1.0"


def load(path: str | Path, device: torch.device | str = "cpu") -> ImageModel:
    """The model that a detkit checkpoint (.safetensors) describes, with its weights, in eval mode.

    Raises:
        ValueError: the file is missing, truncated or not a detkit checkpoint.
    """
    from detkit.checkpoints.weights import load_model

    return load_model(path, device)
