"""What all models that take prompts share."""

import pytest
import torch

from detkit.modeling.base import InputRule
from detkit.modeling.prompted import PromptedModel, read_prompts
from detkit.structures import LabelMap, Prompt, PromptedDetections


def test_a_prompt_moves_with_its_image():
    known = Prompt(
        torch.tensor([1, 0]), torch.tensor([[10.0, 20], [0, 0]]), torch.tensor([[5.0, 5, 15, 25], [0, 0, 1, 1]])
    )
    scaled = known.scaled(2, 0.5)
    assert scaled.points.tolist() == [[20, 10], [0, 0]] and scaled.boxes[0].tolist() == [10, 2.5, 30, 12.5]
    assert len(scaled) == 2 and Prompt(torch.tensor([1])).scaled(2, 2).points is None
    known.check_inside((20, 10), "image 3")  # on the border
    with pytest.raises(ValueError, match=r"image 3: 1 points lie outside its 9 x 20 pixels: 0 at \(10, 20\)"):
        known.check_inside((20, 9), "image 3")


def test_what_a_prompt_needs():
    given = dict(points=[[[1, 2]], []], labels=[[0], []], boxes=[[[0, 0, 3, 3]], []])
    device = torch.device("cpu")
    by_point = read_prompts("point", 2, 3, device, **given)
    assert [len(known) for known in by_point] == [1, 0] and by_point[0].boxes is None
    assert read_prompts("point_with_size", 2, 3, device, **given)[0].boxes.tolist() == [[0, 0, 3, 3]]
    assert read_prompts("class", 2, 3, device, points=None, labels=given["labels"], boxes=None)[0].points is None
    with pytest.raises(ValueError, match=r"image 1: boxes must be \[0, 4\] for 0 labels"):
        read_prompts("point_with_size", 2, 3, device, **(given | dict(boxes=[[[0, 0, 3, 3]]] * 2)))


def test_detections_keep_their_points_when_selected():
    found = PromptedDetections(
        torch.tensor([[0.0, 0, 5, 5], [1, 1, 4, 4]]),
        torch.tensor([0.9, 0.5]),
        torch.tensor([0, 1]),
        None,
        LabelMap(("cat", "dog"), (3, 17)),
        torch.tensor([1, -1]),
        torch.tensor([[2.0, 2.004], [0, 0]]),
    )
    kept = found[found.scores < 0.6].cpu()
    assert isinstance(kept, PromptedDetections) and kept.owners.tolist() == [-1] and kept.names() == ["dog"]
    first, second = found.to_coco(5, [70, 71])
    assert first["annotation_id"] == 71 and first["point"] == [2.0, 2.0]
    assert "annotation_id" not in second and "point" not in second


def test_a_model_without_answers_to_prompts_cannot_be_built():
    class Silent(PromptedModel):
        def losses(self, images, annotations, num_objects=None):
            return {}

        def detect(self, images, original_sizes):
            return []

    with pytest.raises(TypeError, match="detect_prompted"):
        Silent(LabelMap.numbered(2), InputRule(32, 32, 1))
