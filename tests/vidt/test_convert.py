import re

import pytest
import torch

from detkit.backbones.swin import Swin
from detkit.vidt.convert import from_official
from detkit.vidt.model import ViDT

OFFICIAL_NAMES = (
    (r"decoder\.", "transformer.decoder.layers."),
    (r"reference_points\.", "transformer.reference_points."),
    (r"token_head\.output\.", "transformer.enc_output."),
    (r"token_head\.norm\.", "transformer.enc_output_norm."),
    (r"token_head\.classes\.", "transformer.token_embed."),
    (r"fusion\.smoothing\.(\d)", r"fusion.multi_scaler.refinenet_\1.smoothing"),
    (r"fusion\.lateral\.(\d)", r"fusion.multi_scaler.refinenet_\1.resConfUnit1"),
    (r"fusion\.refine\.(\d)", r"fusion.multi_scaler.refinenet_\1.resConfUnit2"),
)
FUSED_PROJECTIONS = (
    (r"input_proj\.(\d)\.0", r"fusion.multi_scaler.layer_\1_rn"),
    (r"input_proj\.(\d)\.1", r"fusion.multi_scaler.p_norm_\1"),
)


def official(model: ViDT) -> dict[str, torch.Tensor]:
    """The state dict that the official code would have saved for this model."""
    weights = {}
    for key, value in model.state_dict().items():
        if key in ("tgt_proj.0.weight", "query_pos_proj.0.weight"):
            value = value[..., None]
        if key.startswith("bbox_embed.") and model.box_refine:
            weights[f"transformer.decoder.{key}"] = value
        if key.startswith("vector_embed."):
            weights |= {re.sub("embed", f"embed.{s}", key, count=1): value for s in range(len(model.class_embed))}
            continue
        for pattern, name in OFFICIAL_NAMES + (FUSED_PROJECTIONS if model.fusion else ()):
            key = re.sub(f"^{pattern}", name, key)
        weights[key] = value
    for stage in range(4):
        weights[f"backbone.layers.{stage}.downsample.norm2.bias"] = torch.zeros(3)
        weights[f"backbone.layers.{stage}.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49)
    if model.fusion:
        weights["fusion.multi_scaler.refinenet_3.smoothing.bias"] = torch.zeros(256)
        weights["fusion.multi_scaler.refinenet_3.resConfUnit1.conv2.bias"] = torch.zeros(64)
    return weights | {"transformer.level_embed": torch.zeros(4, 256)}


def converted_back(model):
    """The model that its official state dict converts to, which must be the same to the last weight."""
    weights = official(model)
    converted, report = from_official(weights)
    assert sorted(report.loaded + report.duplicates + report.unused) == sorted(weights)
    assert converted.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(converted.state_dict()[name], value), name
    return converted


@pytest.mark.parametrize(
    ("variant", "tokens", "layers", "classes", "refine"),
    [("tiny", 33, 2, 91, True), ("small", 300, 1, 11, True), ("base", 5, 0, 91, True), ("nano", 9, 3, 4, False)],
)
def test_the_keys_tell_the_model(variant, tokens, layers, classes, refine):
    torch.manual_seed(0)
    model = ViDT(Swin(variant, num_tokens=tokens), classes, decoder_layers=layers, box_refine=refine).eval()
    converted = converted_back(model)
    assert [len(s.blocks) for s in converted.backbone.layers] == [len(s.blocks) for s in model.backbone.layers]
    assert converted.backbone.layers[3].blocks[-1].drop_path.rate == model.backbone.layers[3].blocks[-1].drop_path.rate
    assert not converted.training and len(converted.label_map) == classes


PLUS = dict(fusion=True, mask_vectors=100, vector_hidden_dim=64, iou_aware=True, token_labels=True)


@pytest.mark.parametrize(
    ("variant", "tokens", "layers", "options"),
    [
        ("nano", 300, 2, PLUS),
        ("tiny", 17, 0, PLUS),
        ("small", 50, 1, PLUS | dict(box_refine=False)),
        ("base", 9, 1, dict(fusion=True)),
        ("nano", 9, 3, dict(mask_vectors=256)),
        ("nano", 9, 1, dict(iou_aware=True)),
        ("nano", 9, 1, dict(token_labels=True)),
    ],
)
def test_the_keys_tell_the_parts_of_vidt_plus(variant, tokens, layers, options):
    torch.manual_seed(0)
    model = ViDT(Swin(variant, num_tokens=tokens), 91, decoder_layers=layers, **options).eval()
    converted = converted_back(model)
    assert converted.criterion.official


def test_of_vector_heads_that_differ_the_last_counts():
    model = ViDT(Swin("nano", num_tokens=3), 91, decoder_layers=2, **PLUS)
    weights = official(model)
    for stage in (0, 1):
        weights[f"vector_embed.{stage}.layers.2.bias"] = torch.full((100,), float(stage))
    converted, report = from_official(dict(reversed(weights.items())))
    assert torch.equal(converted.vector_embed.layers[2].bias, model.vector_embed.layers[2].bias)
    assert "vector_embed.2.layers.2.bias" in report.loaded and "vector_embed.1.layers.2.bias" in report.duplicates


def test_heads_of_dropped_decoder_layers_are_left_out():
    weights = official(ViDT(Swin("nano", num_tokens=3), 91, decoder_layers=3, **PLUS))
    dropped = {key: value for key, value in weights.items() if not key.startswith("transformer.decoder.layers.2.")}
    converted, report = from_official(dropped)
    assert len(converted.decoder) == 2 and len(converted.class_embed) == len(converted.iou_embed) == 3
    unused = {key for key in report.unused if "_embed" in key and not key.startswith("transformer.")}
    assert unused == {key for key in weights if re.match(r"(class|bbox|iou)_embed\.3\.", key)}
    assert torch.equal(converted.class_embed[2].bias, weights["class_embed.2.bias"])


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
