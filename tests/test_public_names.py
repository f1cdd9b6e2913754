"""Names that code outside of detkit relies on stay where they are."""

import importlib

import pytest

PUBLIC = {
    "detkit": ["load", "__version__"],
    "detkit.structures": ["ImageBatch", "Annotations", "Batch", "Detections", "LabelMap"],
    "detkit.registry": ["register", "build"],
    "detkit.config": ["load_config", "resolve_config"],
    "detkit.vidt.convert": ["from_official"],
    "detkit.pointseg.convert": ["from_official", "from_official_refine"],
    "detkit.correspondence.convert": ["from_official"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in PUBLIC.items() for name in names])
def test_public_names_stay(module, name):
    assert hasattr(importlib.import_module(module), name)
