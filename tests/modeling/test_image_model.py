import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from detkit.modeling.base import IMAGENET_MEAN, IMAGENET_STD, InputRule
from detkit.modeling.image_model import ImageModel
from detkit.structures import Annotations, Batch, Detections, LabelMap

RULE = InputRule(shortest=32, longest=64, multiple=16)


class MeanColor(ImageModel):
    """Finds one object, as large as the image; its score is the mean of the normalised pixels."""

    def __init__(self, input_rule=RULE):
        super().__init__(LabelMap(("thing",), (1,)), input_rule)
        self.scale = nn.Parameter(torch.ones(()))
        self.batches = []

    def losses(self, images, annotations, num_objects=None):
        count = sum(len(a) for a in annotations) if num_objects is None else num_objects
        return {"loss": self.scale * images.images.mean() / count}

    def detect(self, images, original_sizes):
        self.batches.append(images)
        found = []
        for image, mask, (height, width) in zip(images.images, images.mask, original_sizes, strict=True):
            boxes = torch.tensor([[0.0, 0.0, width, height]])
            label = torch.zeros(1, dtype=torch.int64)
            found.append(Detections(boxes, image[:, ~mask].mean().sigmoid()[None], label, label_map=self.label_map))
        return found


def batch_of(*sizes, **annotation):
    samples = []
    for height, width in sizes:
        image = torch.full((3, height, width), 128, dtype=torch.uint8)
        samples.append((image, Annotations(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64), **annotation)))
    return Batch.collate(samples)


def test_normalisation_zeroes_the_padding():
    batch = batch_of((16, 32), (32, 16))
    normal = MeanColor().normalize(batch.images)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    torch.testing.assert_close(normal.images[0, :, 3, 5], (128 / 255 - mean) / std)
    assert (normal.images[normal.mask[:, None].expand_as(normal.images)] == 0).all()
    assert normal.sizes == [(16, 32), (32, 16)]
    assert batch.images.images.dtype == torch.uint8  # the batch itself is as it was
    as_float = batch.images
    as_float.images = as_float.images.float()
    assert torch.equal(MeanColor().normalize(as_float).images, normal.images)


def test_training_returns_losses_and_eval_returns_detections():
    model = MeanColor()
    batch = batch_of((16, 32), (32, 16))
    losses = model.train()(batch)
    losses["loss"].backward()
    assert model.scale.grad is not None
    batch.num_objects = torch.tensor(4.0)
    torch.testing.assert_close(model(batch)["loss"] * 2, losses["loss"])
    found = model.eval()(batch)
    assert [d.boxes.tolist() for d in found] == [[[0, 0, 32, 16]], [[0, 0, 16, 32]]]


def test_evaluation_uses_the_original_size_where_it_is_known():
    found = MeanColor().eval()(batch_of((16, 32), original_size=(100, 200)))
    assert found[0].boxes.tolist() == [[0, 0, 200, 100]]


def test_predict_takes_a_mix_of_sources_and_any_batch_size(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    sources = [path, str(path), Image.fromarray(pixels), pixels, tensor, tensor / 255, pixels[:, :, 0], pixels[:20]]
    model = MeanColor().eval()
    single = [model.predict(source, min_score=0)[0] for source in sources]
    model.batches.clear()
    for batch_size in (1, 3, 50):
        found = model.predict(sources, batch_size=batch_size, min_score=0)
        for a, b in zip(found, single, strict=True):
            assert torch.equal(a.boxes, b.boxes)
            torch.testing.assert_close(a.scores, b.scores)
    assert [len(images) for images in model.batches] == [1] * 8 + [3, 3, 2] + [8]
    assert single[7].boxes.tolist() == [[0, 0, 60, 20]]
    for a in single[1:5]:
        assert torch.equal(a.scores, single[0].scores)
    torch.testing.assert_close(single[5].scores, single[0].scores, atol=1e-2, rtol=0)


def test_predict_resizes_by_the_rule():
    model = MeanColor().eval()
    model.predict([np.zeros((30, 45, 3), dtype=np.uint8), np.zeros((10, 100, 3), dtype=np.uint8)], batch_size=2)
    assert model.batches[0].sizes == [(32, 48), (16, 48)]


def test_predict_of_nothing():
    assert MeanColor().eval().predict([]) == []


def test_predict_names_what_is_wrong(tmp_path):
    model = MeanColor()
    with pytest.raises(RuntimeError, match="eval"):
        model.predict(np.zeros((8, 8, 3), dtype=np.uint8))
    model.eval()
    with pytest.raises(ValueError, match="batch_size"):
        model.predict([], batch_size=0)
    with pytest.raises(ValueError, match=r"missing\.png"):
        model.predict([tmp_path / "missing.png"])
    with pytest.raises(ValueError, match=r"\[3, h, w\]"):
        model.predict(torch.zeros(2, 3, 8, 8))


def test_a_model_without_losses_or_detect_cannot_be_built():
    with pytest.raises(TypeError, match=r"abstract methods '?detect'?, '?losses'?"):
        ImageModel(LabelMap.numbered(1), RULE)


def test_input_rule_survives_json():
    rule = InputRule(shortest=480, mean=(0.5, 0.5, 0.5))
    again = InputRule(**json.loads(json.dumps(rule.to_dict())))
    assert again.to_dict() == json.loads(json.dumps(rule.to_dict()))
    assert rule.resize(torch.zeros(3, 48, 64)).shape == (3, 480, 640)
    model = MeanColor(again).eval()
    assert model.predict(np.zeros((8, 8, 3), dtype=np.uint8), min_score=0)[0].boxes.tolist() == [[0, 0, 8, 8]]


def test_import_needs_no_optional_package():
    code = (
        "import sys, detkit, detkit.modeling.image_model, detkit.visualize\n"
        "heavy = {'cv2', 'albumentations', 'pycocotools', 'timm', 'matplotlib', 'tensorboard', 'hotcoco'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
