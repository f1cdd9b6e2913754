import numpy as np
import pytest
import torch
from pointseg_golden import Golden

from detkit.pointseg.grid import (
    STUDENT_GRIDS,
    STUDENT_RANGES,
    TEACHER_GRIDS,
    TEACHER_RANGES,
    GridLevels,
    Objects,
    assign,
)
from detkit.pointseg.heads import SoloOutputs
from detkit.pointseg.losses import SoloCriterion, dice_distance, focal_loss_sum
from detkit.structures import Annotations

GRIDS = {
    "teacher_train": GridLevels(TEACHER_GRIDS, TEACHER_RANGES),
    "student_train": GridLevels(STUDENT_GRIDS, STUDENT_RANGES),
}


def scene():
    golden = Golden("03_targets")
    names = ("boxes", "labels", "masks")
    columns = [[golden.tensor(f"img{i}_{name}") for name in names] for i in range(2)]
    return [Annotations(boxes, labels, masks.bool()) for boxes, labels, masks in columns]


def test_dice_distance():
    golden = Golden("04_losses")
    prob, target = golden.tensor("dice_small_pred").flatten(1), golden.tensor("dice_small_target").flatten(1).float()
    golden.check("dice_small", dice_distance(prob, target))


@pytest.mark.parametrize("variant", GRIDS)
def test_losses_and_gradients(variant):
    golden, grids, annotations = Golden("04_losses"), GRIDS[variant], scene()
    category, kernels = (
        [golden.input(f"{variant}.{part}_pred_L{level}").requires_grad_() for level in range(5)]
        for part in ("cate", "kernel")
    )
    features = golden.input(f"{variant}.mask_pred").requires_grad_()
    outputs = SoloOutputs(category, kernels, features)
    losses = SoloCriterion()(outputs, annotations, grids)
    golden.check(f"{variant}.loss_ins", losses["loss_mask"])
    golden.check(f"{variant}.loss_cate", losses["loss_class"])
    sum(losses.values()).backward()
    for level in range(5):
        golden.check(f"{variant}.grad_cate_L{level}", category[level].grad)
        image, row, column = golden.tensor(f"{variant}.grad_kernel_L{level}.cells").long().unbind(1)
        at_cells = kernels[level].grad[image, :, row, column]
        golden.check(f"{variant}.grad_kernel_L{level}.values", at_cells[:, ::16])
        assert (kernels[level].grad.abs().sum(1) > 0).sum() == len(image)
    golden.check(f"{variant}.grad_mask", features.grad)


@pytest.mark.parametrize("variant", GRIDS)
def test_distance_of_each_row(variant):
    golden, grids = Golden("04_losses"), GRIDS[variant]
    outputs = SoloOutputs(
        [],
        [golden.input(f"{variant}.kernel_pred_L{level}") for level in range(5)],
        golden.input(f"{variant}.mask_pred"),
    )
    objects = Objects.from_annotations(scene(), (640, 800), torch.device("cpu"))
    targets = assign(objects, grids, (640, 800), 2)
    distances = SoloCriterion().mask_distances(outputs, objects, targets)
    level = torch.bucketize(targets.row_cell, grids.offsets(torch.device("cpu")), right=True)
    image = objects.image[targets.row_object]
    order = np.lexsort((np.arange(len(level)), image, level))  # the official order: by level, then image
    golden.check(f"{variant}.dice_rows", distances[order])
    assert int((targets.owner >= 0).sum()) == int(golden[f"{variant}.num_ins"])


def random_outputs(batch=2, classes=3, sides=(8, 6, 4, 3, 2), requires_grad=True):
    torch.manual_seed(0)
    parts = [[torch.randn(batch, c, s, s).requires_grad_(requires_grad) for s in sides] for c in (classes, 16)]
    return SoloOutputs(*parts, torch.randn(batch, 16, 16, 16).requires_grad_(requires_grad))


SMALL = GridLevels((8, 6, 4, 3, 2), STUDENT_RANGES)


def square(x, y, side, size=64):
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[0, y : y + side, x : x + side] = True
    return mask


def test_sparse_focal_loss_is_the_dense_one():
    logits, labels = torch.randn(2, 3, 9, dtype=torch.float64), torch.randint(0, 4, (2, 9))
    target = torch.nn.functional.one_hot(labels, 4)[..., :3].transpose(1, 2)
    prob = logits.sigmoid()
    right = torch.where(target == 1, prob, 1 - prob)
    dense = torch.where(target == 1, 0.25, 0.75) * (1 - right) ** 2 * -right.log()
    torch.testing.assert_close(focal_loss_sum(logits, labels), dense.sum())


def test_without_objects_every_output_gets_a_gradient():
    outputs = random_outputs()
    nothing = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    empty = Annotations(torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([2]), torch.zeros(1, 64, 64, dtype=torch.bool))
    losses = SoloCriterion()(outputs, [nothing, empty], SMALL)
    assert losses["loss_mask"] == 0 and losses["loss_class"] > 0
    sum(losses.values()).backward()
    assert all(t.grad is not None for t in [*outputs.category, *outputs.kernels, outputs.mask_features])


def test_given_number_of_objects_weights_the_batch_by_its_share():
    outputs = random_outputs(requires_grad=False)
    one = Annotations(torch.tensor([[8.0, 8, 28, 28]]), torch.tensor([1]), square(8, 8, 20))
    own = SoloCriterion()(outputs, [one, one], SMALL)
    for objects, share in ((2.0, 1.0), (8.0, 0.25)):
        given = SoloCriterion()(outputs, [one, one], SMALL, torch.tensor(objects))
        for name, loss in own.items():
            torch.testing.assert_close(given[name], share * loss)


def test_more_objects_than_one_loop_of_the_official_code_could_hold():
    outputs = random_outputs(1)
    boxes = torch.tensor([[8.0, 8, 28, 28]]).repeat(600, 1)
    crowd = Annotations(boxes, torch.ones(600, dtype=torch.int64), square(8, 8, 20).expand(600, -1, -1))
    assert all(loss.isfinite() for loss in SoloCriterion()(outputs, [crowd], SMALL).values())
