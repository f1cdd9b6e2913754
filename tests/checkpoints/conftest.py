"""A small checkpoint."""

import pytest
from toy_run import toy_config

from detkit.checkpoints.weights import make_header, save_weights
from detkit.config import resolve_config
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

LABELS = LabelMap(("cat", None, "dog"), (3, 5, 7))


@pytest.fixture
def saved(tmp_path):
    """A model, and the file that it was saved to."""
    config = resolve_config(toy_config(model=dict(type="ToyModel", pretrained=None, dropout=0.3)))
    model = build_model(config["model"], LABELS)
    config["model"]["pretrained"] = "weights-that-are-gone.pth"
    path = tmp_path / "model.safetensors"
    save_weights(path, model.state_dict(), make_header(config, model, metrics={"AP": 0.5}, step=7))
    return model, path
