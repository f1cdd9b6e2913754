import re

import pytest
import torch

from detkit.backbones.swin import Swin
from detkit.vidt.convert import from_official
from detkit.vidt.model import ViDT


def official(model: ViDT) -> dict[str, torch.Tensor]:
    """The state dict that the official code would have saved for this model."""
    weights = {}
    for key, value in model.state_dict().items():
        if key in ("tgt_proj.0.weight", "query_pos_proj.0.weight"):
            value = value[..., None]
        in_transformer = key.startswith(("decoder.", "reference_points."))
        key = re.sub(r"^decoder\.", "decoder.layers.", key)
        weights[f"transformer.{key}" if in_transformer else key] = value
        if key.startswith("bbox_embed.") and model.box_refine:
            weights[f"transformer.decoder.{key}"] = value
    for stage in range(4):
        weights[f"backbone.layers.{stage}.downsample.norm2.bias"] = torch.zeros(3)
        weights[f"backbone.layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    return weights | {"transformer.level_embed": torch.zeros(4, 256)}


@pytest.mark.parametrize(
    ("variant", "tokens", "layers", "classes", "refine"),
    [("tiny", 33, 2, 91, True), ("small", 300, 1, 11, True), ("base", 5, 0, 91, True), ("nano", 9, 3, 4, False)],
)
def test_the_keys_tell_the_model(variant, tokens, layers, classes, refine):
    torch.manual_seed(0)
    model = ViDT(Swin(variant, num_tokens=tokens), classes, decoder_layers=layers, box_refine=refine).eval()
    weights = official(model)
    converted, report = from_official(weights)
    assert sorted(report.loaded + report.duplicates + report.unused) == sorted(weights)
    assert converted.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    assert [len(s.blocks) for s in converted.backbone.layers] == [len(s.blocks) for s in model.backbone.layers]
    assert converted.backbone.layers[3].blocks[-1].drop_path.rate == model.backbone.layers[3].blocks[-1].drop_path.rate
    assert not converted.training and len(converted.label_map) == classes


def test_outputs_are_raw_coco_ids():
    converted, _ = from_official(official(ViDT(Swin("nano", num_tokens=3), 91, decoder_layers=1)))
    assert converted.label_map.category_ids == tuple(range(91))
    assert converted.label_map.names[1] == "person" and converted.label_map.names[90] == "toothbrush"
    assert sum(name is not None for name in converted.label_map.names) == 80


def test_cross_stages_are_the_callers_to_tell():
    weights = official(ViDT(Swin("nano", num_tokens=3), 91, decoder_layers=1))
    assert from_official(weights)[0].backbone.cross_stages == (3,)
    assert from_official(weights, cross_stages=(2, 3))[0].backbone.cross_stages == (2, 3)


def test_foreign_or_unknown_weights_are_an_error():
    with pytest.raises(ValueError, match=r"not an official ViDT state dict: it has no backbone\.det_token"):
        from_official({"conv1.weight": torch.zeros(1)})
    weights = official(ViDT(Swin("nano", num_tokens=3), 91, decoder_layers=1))
    with pytest.raises(ValueError, match=r"belong to no part known here \['mystery.weight'\]"):
        from_official(weights | {"mystery.weight": torch.zeros(1)})
    del weights["tgt_proj.0.bias"]
    with pytest.raises(ValueError, match=r"1 are missing \['tgt_proj.0.bias'\]"):
        from_official(weights)
