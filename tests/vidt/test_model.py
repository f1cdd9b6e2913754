import pytest
import torch
from small_vidt import batch, objects, small_vidt

from detkit.structures import Annotations, ImageBatch


@pytest.mark.parametrize("second", [[], [(5, 5, 40, 30)]])
@pytest.mark.parametrize("first", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_any_number_of_objects_trains_every_parameter(first, second):
    model = small_vidt().train()
    losses = model(batch(objects(*first), objects(*second)))
    assert set(losses) == {f"loss_{n}{s}" for n in ("ce", "bbox", "giou") for s in ("", "_0", "_1")}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    has_objects = bool(first or second)
    assert (losses["loss_bbox"] > 0) == has_objects


def test_more_objects_than_tokens_train():
    boxes = [(i, i, i + 20, i + 20) for i in range(12)]
    losses = small_vidt().train()(batch(objects(*boxes)))
    assert all(torch.isfinite(term) for term in losses.values())


def test_losses_are_divided_by_the_given_number_of_objects():
    model, one = small_vidt().eval(), batch(objects((0, 0, 20, 20), (10, 10, 60, 60)))
    images = model.normalize(one.images)
    own = model.losses(images, one.annotations)
    halved = model.losses(images, one.annotations, torch.tensor(4.0))
    for name in own:
        torch.testing.assert_close(halved[name] * 2, own[name])


def test_eval_mode_gives_detections_in_original_pixels():
    model = small_vidt().eval()
    annotations = [Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), original_size=(640, 800))]
    with torch.no_grad():
        found = model(batch(*annotations))[0]
        stages = model.forward_stages(model.normalize(batch(*annotations).images))
    assert len(found) == 7 * 3 and (found.scores.diff() <= 0).all()
    best = stages.logits[-1, 0].flatten().argmax()
    expected = stages.boxes[-1, 0, best // 3] * torch.tensor([800, 640, 800, 640])
    torch.testing.assert_close((found.boxes[0, :2] + found.boxes[0, 2:]) / 2, expected[:2], rtol=1e-4, atol=1e-2)
    assert found.labels[0] == best % 3


def test_an_image_is_predicted_alike_alone_and_in_a_batch_of_its_size():
    model = small_vidt().eval()
    images = [torch.randint(256, (3, 64, 96), dtype=torch.uint8) for _ in range(3)]
    together = model.predict(images, batch_size=3, min_score=0)
    alone = model.predict(images[1], min_score=0)[0]
    torch.testing.assert_close(together[1].boxes, alone.boxes, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(together[1].scores, alone.scores)


def test_bfloat16_autocast_keeps_boxes_and_losses_in_float32():
    model = small_vidt().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch(objects((0, 0, 20, 20))))
        stages = model.forward_stages(model.normalize(batch(objects()).images))
    assert stages.boxes.dtype == torch.float32
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in losses.values())
    sum(losses.values()).backward()


def test_without_box_refinement_all_stages_share_their_heads():
    model = small_vidt(box_refine=False).train()
    assert len({id(head) for head in model.bbox_embed}) == len({id(head) for head in model.class_embed}) == 1
    sum(model(batch(objects((0, 0, 20, 20)))).values()).backward()
    assert len(small_vidt().bbox_embed) == len({id(head) for head in small_vidt().bbox_embed}) == 3


def test_no_decoder_layers_leaves_the_backbone_stage():
    stages = small_vidt(decoder_layers=0).eval().forward_stages(ImageBatch.from_images([torch.randn(3, 64, 64)]))
    assert stages.logits.shape == (1, 1, 7, 3)
