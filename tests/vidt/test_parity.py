"""The numbers of the official ViDT code (goldens), within the tolerances that their json files state."""

import numpy as np
import pytest
import torch
import vidt_golden

from detkit.ops.deformable_attention import ms_deform_attn
from detkit.vidt.convert import from_official, own_key


@pytest.fixture(scope="module")
def nano():
    description, arrays = vidt_golden.load("vidt_nano")
    model, report = from_official(vidt_golden.state_dict(description))
    with torch.no_grad():
        stages = model.forward_stages(vidt_golden.images(description))
    return model, report, stages, description, arrays


def test_every_official_tensor_is_accounted_for(nano):
    model, report, _, description, _ = nano
    accounted = [*report.loaded, *report.duplicates, *report.unused]
    assert sorted(accounted) == sorted(description["state_dict"])
    unread = [key for key, norm in vidt_golden.load("criterion_vidt_nano")[0]["gradient_norms"].items() if norm is None]
    indices = [key for key in description["state_dict"] if key.endswith("relative_position_index")]
    assert sorted(report.unused) == sorted(unread + indices)
    assert len(report.loaded) == len(model.state_dict())


def test_backbone_features_and_det_tokens(nano):
    model, _, _, description, arrays = nano
    images = vidt_golden.images(description)
    with torch.no_grad():
        found = model.backbone(images.images, images.mask)
    named = {f"backbone_feature_{i}": feature for i, feature in enumerate(found.features)}
    named |= {"backbone_det": found.det.transpose(1, 2), "backbone_det_pos": found.det_pos.transpose(1, 2)}
    for name, tensor in named.items():
        vidt_golden.assert_close(tensor, name, description, arrays)


@pytest.mark.parametrize("stage", range(7))
def test_predictions_of_every_stage(nano, stage):
    _, _, stages, description, arrays = nano
    vidt_golden.assert_stage(stages, stage, ("logits", "boxes"), description, arrays)


def test_deformable_attention_forward_and_backward():
    description, arrays = vidt_golden.load("ms_deform_attn")
    shapes = [tuple(shape) for shape in description["config"]["shapes_hw"]]
    b, q, m, d, p = 2, 23, 8, 32, 4
    positions = sum(h * w for h, w in shapes)
    value = vidt_golden.normal(7, (b, positions, m, d)).double().requires_grad_()
    locations = (0.5 + 0.45 * vidt_golden.normal(107, (b, q, m, len(shapes), p, 2)).double()).requires_grad_()
    weights = vidt_golden.normal(207, (b, q, m, len(shapes) * p)).double().softmax(-1)
    weights = weights.view(b, q, m, len(shapes), p).requires_grad_()
    out = ms_deform_attn(value, shapes, locations, weights)
    out.backward(vidt_golden.normal(307, tuple(out.shape)).double())
    named = dict(output=out, grad_value=value.grad, grad_locations=locations.grad, grad_weights=weights.grad)
    for name, tensor in named.items():
        actual = vidt_golden.subsample(tensor, description["arrays"][name])
        np.testing.assert_allclose(actual, arrays[name], rtol=0, atol=1e-9, err_msg=name)


@pytest.fixture(scope="module")
def trained():
    description, arrays = vidt_golden.load("criterion_vidt_nano")
    model, _ = from_official(vidt_golden.state_dict(description))
    images, annotations = vidt_golden.images(description), vidt_golden.annotations(description)
    losses = model.losses(images, annotations)
    sum(losses.values()).backward()
    return model, images, annotations, losses, description, arrays


def test_loss_terms(trained):
    *_, losses, description, _ = trained
    vidt_golden.assert_losses(losses, description)


def test_matches_of_every_stage(trained):
    from detkit.vidt.losses.criterion import pad_targets

    model, images, annotations, _, _, arrays = trained
    with torch.no_grad():
        stages = model.forward_stages(images)
    matches = model.criterion.match(stages, pad_targets(annotations, images.sizes, torch.device("cpu")))
    vidt_golden.assert_matches(matches, arrays, last=len(stages.logits) - 1, images=len(annotations))


def test_gradient_norms(trained):
    model, *_, description, _ = trained
    parameters = dict(model.named_parameters())
    checked = 0
    for key, norm in description["gradient_norms"].items():
        if norm is None:
            assert own_key(key) is None, key
            continue
        name = own_key(key.replace("transformer.decoder.bbox_embed.", "bbox_embed."))
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=5e-3, abs=1e-4), key
        checked += 1
    assert checked == len(parameters)


def test_postprocessing():
    description, arrays = vidt_golden.load("postprocess_vidt_nano")
    model, _ = from_official(vidt_golden.state_dict(description))
    model.top_k += vidt_golden.SPARE
    with torch.no_grad():
        found = model.detect(vidt_golden.images(description), [tuple(s) for s in description["original_sizes_hw"]])
    for i, detections in enumerate(found):
        vidt_golden.assert_detections(detections, arrays, i)
