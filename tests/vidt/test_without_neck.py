import numpy as np
import pytest
import torch
import vidt_golden
from small_vidt import SMALL, batch, objects

from detkit.backbones.swin import Swin
from detkit.vidt.convert import from_official
from detkit.vidt.losses.matching import Targets
from detkit.vidt.without_neck import SoftmaxPredictions, ViDTWithoutNeck, softmax_losses


def small(num_classes=3):
    torch.manual_seed(0)
    return ViDTWithoutNeck(Swin(**SMALL, reduced_map=False), num_classes, hidden_dim=32)


def test_numbers_of_the_official_code():
    description, arrays = vidt_golden.load("vidt_wo_neck_nano")
    model, report = from_official(vidt_golden.state_dict(description))
    assert sorted([*report.loaded, *report.unused]) == sorted(description["state_dict"])
    with torch.no_grad():
        stages = model.forward_stages(vidt_golden.images(description))
    for name, tensor in (("pred_logits", stages.logits[0]), ("pred_boxes", stages.boxes[0])):
        actual = vidt_golden.subsample(tensor, description["arrays"][name])
        np.testing.assert_allclose(actual, arrays[name], rtol=1e-3, atol=2e-4)
    assert len(model.label_map) == 91


@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_any_number_of_objects_trains_every_parameter(boxes):
    model = small().train()
    losses = model(batch(objects(*boxes), objects()))
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_no_object_is_never_detected():
    found = small().eval()(batch(objects(), objects()))
    assert all(len(f) == 7 and (f.labels < 3).all() and (f.scores.diff() <= 0).all() for f in found)


def test_a_perfect_prediction_loses_nothing_but_what_softmax_leaves():
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]])
    logits = torch.full((1, 2, 4), -20.0)
    logits[0, 0, 1] = logits[0, 1, 3] = 20.0
    targets = Targets(torch.tensor([[1]]), boxes[:, :1], [1])
    losses = softmax_losses(SoftmaxPredictions(logits, boxes), targets)
    assert all(term.item() == pytest.approx(0, abs=1e-5) for term in losses.values())
    wrong = softmax_losses(SoftmaxPredictions(logits.flip(1), boxes), targets)
    assert wrong["loss_ce"] > 10


def test_batches_of_a_step_count_by_their_objects():
    model, one = small().eval(), batch(objects((0, 0, 20, 20), (10, 10, 60, 60)), objects())
    images = model.normalize(one.images)
    alone = model.losses(images, one.annotations)
    of_four = model.losses(images, one.annotations, torch.tensor(4.0))
    for name, term in alone.items():
        torch.testing.assert_close(of_four[name] * 2, term)
