import itertools

import torch

from detkit.structures import Annotations
from detkit.vidt.losses.criterion import pad_targets, sigmoid_focal_loss
from detkit.vidt.losses.matching import Targets, hungarian_assignment, matching_cost

WEIGHTS = dict(class_cost=2.0, box_cost=5.0, giou_cost=2.0)


def cheapest(cost):
    """The best total over all assignments of objects to queries."""
    queries, objects = cost.shape
    assignments = itertools.permutations(range(queries), objects)
    return min(sum(cost[q, t].item() for t, q in enumerate(chosen)) for chosen in assignments)


def test_assignments_are_the_cheapest_of_every_stage_and_image():
    cost = torch.randn(2, 3, 5, 3, generator=torch.Generator().manual_seed(0))
    counts = [3, 0, 2]
    assignment = hungarian_assignment(cost, counts)
    assert len(assignment.query) == 2 * sum(counts)
    for stage, image in itertools.product(range(2), range(3)):
        chosen = (assignment.stage == stage) & (assignment.image == image)
        pairs = cost[stage, image, assignment.query[chosen], assignment.target[chosen]]
        assert assignment.target[chosen].sort().values.tolist() == list(range(counts[image]))
        assert abs(pairs.sum().item() - cheapest(cost[stage, image, :, : counts[image]])) < 1e-5


def test_fewer_queries_than_objects_match_each_query_once():
    assignment = hungarian_assignment(torch.rand(1, 1, 2, 4), [4])
    assert sorted(assignment.query.tolist()) == [0, 1] and len(set(assignment.target.tolist())) == 2


def test_costs_that_are_not_finite_do_not_stop_the_matching():
    cost = torch.tensor([[[[float("nan"), 1.0], [0.0, float("inf")]]]])
    assignment = hungarian_assignment(cost, [2])
    assert dict(zip(assignment.query.tolist(), assignment.target.tolist(), strict=True)) == {0: 1, 1: 0}


def test_a_perfect_prediction_costs_least():
    targets = Targets(torch.tensor([[1]]), torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]), [1])
    logits = torch.tensor([[-5.0, 5.0], [5.0, -5.0], [-5.0, 5.0]]).view(1, 1, 3, 2)
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]]).view(1, 1, 3, 4)
    assert matching_cost(logits, boxes, targets, **WEIGHTS).flatten().argmin() == 0


def test_targets_are_relative_to_each_image():
    annotations = [
        Annotations(torch.tensor([[0.0, 0.0, 50.0, 20.0]]), torch.tensor([4])),
        Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)),
    ]
    targets = pad_targets(annotations, [(40, 100), (10, 10)], torch.device("cpu"))
    assert targets.counts == [1, 0] and targets.labels.tolist() == [[4], [0]]
    torch.testing.assert_close(targets.boxes[0, 0], torch.tensor([0.25, 0.25, 0.5, 0.5]))


def test_focal_loss_of_known_values():
    loss = sigmoid_focal_loss(torch.zeros(2), torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.25, 0.75]) * 0.25 * torch.tensor(2.0).log())
