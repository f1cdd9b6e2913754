import torch

from detkit.ops.boxes import box_area, box_iou, cxcywh_to_xyxy, generalized_iou, xyxy_to_cxcywh


def test_conversions_are_inverse():
    boxes = torch.tensor([[2.0, 3.0, 8.0, 13.0], [0.0, 0.0, 1.0, 1.0]])
    torch.testing.assert_close(xyxy_to_cxcywh(boxes)[0], torch.tensor([5.0, 8.0, 6.0, 10.0]))
    torch.testing.assert_close(cxcywh_to_xyxy(xyxy_to_cxcywh(boxes)), boxes)


def test_iou_of_known_boxes():
    a = torch.tensor([0.0, 0.0, 2.0, 2.0])
    b = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [2.0, 2.0, 3.0, 3.0], [5.0, 5.0, 6.0, 6.0]])
    torch.testing.assert_close(box_iou(a, b), torch.tensor([1.0, 1 / 7, 0.0, 0.0]))
    torch.testing.assert_close(generalized_iou(a, b), torch.tensor([1.0, 1 / 7 - 2 / 9, -4 / 9, 5 / 36 - 1]))


def test_pairwise_by_broadcasting():
    a, b = torch.rand(3, 1, 4).sort(-1).values, torch.rand(1, 5, 4).sort(-1).values
    matrix = box_iou(a, b)
    assert matrix.shape == (3, 5)
    torch.testing.assert_close(matrix[1, 2], box_iou(a[1, 0], b[0, 2]))


def test_empty_boxes_give_finite_values_and_gradients():
    point = torch.zeros(1, 4, requires_grad=True)
    value = generalized_iou(point, torch.zeros(1, 4)).sum() + box_iou(point, torch.ones(1, 4)).sum()
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(point.grad).all()
    assert box_area(torch.tensor([3.0, 3.0, 1.0, 1.0])) == 0
