import pytest
import torch
from small_vidt import batch, objects, small_vidt

from detkit.ops.boxes import box_iou
from detkit.structures import Annotations, Batch, ImageBatch
from detkit.vidt.decoder import Memory
from detkit.vidt.losses.criterion import pad_targets
from detkit.vidt.proposals import DensePredictions, assign_positions, best_distinct, best_overlap, grid_anchors


def dense_grid(side=8, classes=2, boxes=None):
    """Positions of one square map, each predicting a small box around itself."""
    memory = Memory.from_maps([torch.zeros(1, 4, side, side)], [torch.zeros(1, side, side, dtype=torch.bool)])
    anchors = grid_anchors(memory)
    logits = torch.full((1, side * side, classes), -4.0)
    return DensePredictions(logits, anchors if boxes is None else boxes, anchors[..., :2], memory.padding)


def test_anchors_are_relative_to_the_unpadded_image():
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[:, :, 4:] = True
    anchors = grid_anchors(Memory.from_maps([torch.zeros(1, 4, 4, 8)], [mask])).view(4, 8, 4)
    torch.testing.assert_close(anchors[0, 0], torch.tensor([0.125, 0.125, 0.99, 0.99]))
    torch.testing.assert_close(anchors[3, 3, :2], torch.tensor([0.875, 0.875]))


def test_best_positions_are_distinct_and_never_padding():
    dense = dense_grid()
    dense.logits[0, :4, 0] = torch.tensor([3.0, 2.0, 1.0, 0.0])
    dense.boxes = dense.boxes.clone()
    dense.boxes[0, 1] = dense.boxes[0, 0]  # the second best repeats the best
    dense.padding = dense.padding.clone()
    dense.padding[0, 2] = True
    assert best_distinct(dense, 2)[0].tolist() == [0, 3]


def test_objects_claim_their_cheapest_positions_inside_their_box():
    dense = dense_grid()
    annotations = [Annotations(torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 8.0, 8.0]]), torch.tensor([0, 1]))]
    targets = pad_targets(annotations, [(8, 8)], torch.device("cpu"))
    cost = torch.rand(1, 64, 2, generator=torch.Generator().manual_seed(0))
    matches = assign_positions(dense, targets, cost, positives=5)
    points = dense.points[0, matches.query] * 8
    for point, target, query in zip(points, matches.target, matches.query, strict=True):
        low, high = annotations[0].boxes[target].view(2, 2)
        assert (point > low).all() and (point < high).all()
        other = 1 - target
        if (cost[0, query, other] < cost[0, query, target]).item():
            assert query not in matches.query[matches.target == other]
    assert (matches.target == 1).sum() == 5
    assert len(matches.query.unique()) == len(matches.query)


def test_no_objects_claim_nothing():
    targets = pad_targets([objects()], [(8, 8)], torch.device("cpu"))
    assert len(assign_positions(dense_grid(), targets, torch.zeros(1, 64, 0), positives=5).query) == 0


@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
def test_a_model_with_proposals_trains_every_parameter_and_predicts(boxes):
    model = small_vidt(proposals=True).train()
    losses = model(batch(objects(*boxes), objects()))
    assert {"loss_ce_dense", "loss_bbox_dense", "loss_giou_dense", "loss_ce_0"} <= losses.keys()
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    stages = model.eval().forward_stages(ImageBatch.from_images([torch.randn(3, 64, 64)]))
    assert stages.dense is not None and stages.boxes.shape == (3, 1, 7, 4)


def test_maps_with_fewer_positions_than_det_tokens_start_fewer_tokens():
    assert sorted(best_distinct(dense_grid(), 70)[0].tolist()) == [*range(64)]
    model = small_vidt(proposals=True, mask_vectors=20).train()
    known = [objects(*[(0, 0, 8, 8)] * 6)]  # 6 objects, 5 positions, 7 det tokens
    known[0].masks = torch.ones(6, 8, 16, dtype=torch.bool)
    losses = model(Batch(ImageBatch.from_images([torch.randint(256, (3, 8, 16), dtype=torch.uint8)]), known))
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    positions = model.eval().forward_stages(ImageBatch.from_images([torch.randn(3, 8, 16)])).dense.logits.shape[1]
    assert positions < 7
    (found,) = model.predict([torch.zeros(3, 8, 32, dtype=torch.uint8)], min_score=0)
    assert len(found) > 0 and found.boxes.isfinite().all()


def test_there_may_be_more_queries_than_det_tokens():
    model = small_vidt(proposals=True, queries=30).train()
    assert model.max_detections == 30
    losses = model(batch(objects(*[(0, 0, 20, 20)] * 9), objects()))
    sum(losses.values()).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    image = ImageBatch.from_images([torch.randn(3, 64, 64)])
    assert model.eval().forward_stages(image).boxes.shape == (3, 1, 30, 4)
    with torch.no_grad():
        tokens = model.start(*model.encode(image))[0]
        model.backbone.det_token += 1
        moved = model.start(*model.encode(image))[0]
    assert not torch.equal(tokens.content[0, 29], moved.content[0, 29])  # which has the second token


def test_the_published_model_has_none():
    model = small_vidt()
    assert model.forward_stages(ImageBatch.from_images([torch.randn(3, 64, 64)])).dense is None
    with pytest.raises(ValueError, match="proposals need box_refine"):
        small_vidt(proposals=True, box_refine=False)
    with pytest.raises(ValueError, match="queries need proposals"):
        small_vidt(queries=20)


def test_overlap_with_the_boxes_before_does_not_depend_on_the_portions():
    boxes = torch.rand(2, 50, 2, 2).sort(dim=2).values.flatten(2)
    whole = box_iou(boxes[:, :, None], boxes[:, None]).tril(-1).amax(-1)
    for step in (1, 7, 50, 128):
        assert torch.equal(best_overlap(boxes, step), whole)
