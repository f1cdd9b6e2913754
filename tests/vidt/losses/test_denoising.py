import pytest
import torch
from small_vidt import batch, objects, small_vidt

from detkit.ops.boxes import box_iou, cxcywh_to_xyxy
from detkit.structures import ImageBatch
from detkit.vidt.losses.criterion import pad_targets
from detkit.vidt.losses.denoising import NEVER, attention_mask, noised_objects

BOXES = [(0, 0, 20, 20), (10, 10, 60, 60), (30, 5, 50, 25)]
OPTIONS = dict(proposals=True, denoising=12, dropout=0.0)


def normalized(model, *annotations):
    return model.normalize(batch(*annotations).images)


def targets_of(*annotations):
    return pad_targets(annotations, [(64, 80 + 16 * i) for i in range(len(annotations))], torch.device("cpu"))


def test_each_group_has_every_object_near_its_place():
    targets = targets_of(objects(*BOXES, label=2), objects(BOXES[0], label=1))
    noised = noised_objects(targets, 12, num_classes=3)
    assert noised.groups == 4 and noised.boxes.shape == (2, 12, 4)
    assert noised.padding.tolist() == [[False] * 12, [False, True, True] * 4]
    truth = targets.boxes.repeat(1, 4, 1)
    iou = box_iou(cxcywh_to_xyxy(noised.boxes), cxcywh_to_xyxy(truth))[~noised.padding]
    assert iou.min() > 0.2 and iou.max() < 1
    corners = cxcywh_to_xyxy(noised.boxes)[~noised.padding]
    assert (corners > -1e-6).all() and (corners < 1 + 1e-6).all()
    many = noised_objects(targets_of(objects(*BOXES * 300, label=2)), 12, num_classes=3)
    assert many.groups == 1
    assert 0.05 < (many.labels != 2).float().mean() < 0.25  # two thirds of a fifth


def test_a_query_sees_the_detectors_queries_and_its_own_group():
    noised = noised_objects(targets_of(objects(*BOXES), objects(BOXES[0])), 6, num_classes=3)
    mask = attention_mask(4, noised)
    assert mask.padding[1].tolist() == [False] * 5 + [True] * 2 + [False] + [True] * 2
    sees = ~mask.blocked
    assert sees[:4, :4].all() and not sees[:4, 4:].any()
    assert sees[4:7].tolist() == [[True] * 7 + [False] * 3] * 3
    assert sees[7:].tolist() == [[True] * 4 + [False] * 3 + [True] * 3] * 3


def test_the_detectors_own_outputs_are_those_without_denoising():
    model = small_vidt(**OPTIONS).train()
    for head in model.bbox_embed:
        torch.nn.init.normal_(head.layers[-1].weight)
    known = [objects(*BOXES), objects()]
    images = normalized(model, *known)
    with_it, without = model.forward_stages(images, known), model.forward_stages(images)
    assert without.denoised is None and with_it.denoised is not None
    torch.testing.assert_close(with_it.logits, without.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(with_it.boxes, without.boxes, rtol=1e-4, atol=1e-5)
    losses, alone = (model.criterion(stages, known, images.sizes) for stages in (with_it, without))
    new = {name: value for name, value in losses.items() if name not in alone}
    assert new.keys() == {f"loss_{kind}_denoising{end}" for kind in ("ce", "bbox", "giou") for end in ("", "_0")}
    for name, value in alone.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-5)


def test_an_object_learns_from_its_own_group_only():
    """The gradient of one group's loss does not reach the boxes that another group starts from."""
    model = small_vidt(**OPTIONS).train()
    known = [objects(*BOXES)]
    images = normalized(model, *known)
    noised = noised_objects(pad_targets(known, images.sizes, torch.device("cpu")), 6, num_classes=3)
    noised.boxes.requires_grad_()
    det, det_pos, memory = model.encode(images)
    tokens, _ = model.decode(model.start(det, det_pos, memory)[0], memory, noised)
    (gradient,) = torch.autograd.grad(tokens[-1][:, 7:10].square().sum(), noised.boxes)
    assert gradient[0, :3].abs().sum() > 0 and not gradient[0, 3:].any()


def test_padding_adds_nothing():
    model = small_vidt(**OPTIONS).train()
    known = [objects(*BOXES), objects(BOXES[0])]
    stages = model.forward_stages(normalized(model, *known), known)
    denoised = stages.denoised
    assert (denoised.counted_logits()[:, denoised.noised.padding] == NEVER).all()
    assignment = denoised.assignment()
    assert len(assignment.query) == 2 * 4 * (3 + 1)  # stages, groups, objects
    assert set(assignment.target[assignment.image == 1].tolist()) == {0}
    before = model.criterion.denoising_losses(denoised, targets_of(*known), torch.tensor(1.0))
    denoised.logits = denoised.logits.masked_fill(denoised.noised.padding[None, ..., None], 5.0)
    after = model.criterion.denoising_losses(denoised, targets_of(*known), torch.tensor(1.0))
    assert before == after


@pytest.mark.parametrize("boxes", [[], BOXES])
def test_every_parameter_learns_also_without_objects(boxes):
    model = small_vidt(**OPTIONS).train()
    losses = model(batch(objects(*boxes), objects()))
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_losses_do_not_grow_with_the_number_of_groups():
    known = [objects(*BOXES)]
    few, many = (
        small_vidt(**{**OPTIONS, "denoising": number}).train()(batch(*known))["loss_bbox_denoising"].item()
        for number in (3, 300)
    )
    assert many == pytest.approx(few, rel=0.8)


def test_it_is_off_by_default_and_only_adds_an_embedding_of_labels():
    names = small_vidt(**OPTIONS).state_dict().keys() - small_vidt(proposals=True).state_dict().keys()
    assert names == {"denoising.label_embed.weight"}
    with pytest.raises(ValueError, match="denoising needs proposals and at least one decoder layer"):
        small_vidt(denoising=10)
    with pytest.raises(ValueError, match="denoising needs proposals and at least one decoder layer"):
        small_vidt(denoising=10, proposals=True, decoder_layers=0)


def test_predictions_do_not_depend_on_it():
    model = small_vidt(**OPTIONS).eval()
    image = ImageBatch.from_images([torch.randn(3, 64, 64)])
    with torch.no_grad():
        before = model.forward_last(image)
        model.denoising.label_embed.weight += 1
        after = model.forward_last(image)
    assert torch.equal(before.logits, after.logits) and torch.equal(before.boxes, after.boxes)
