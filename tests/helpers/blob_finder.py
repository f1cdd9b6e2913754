"""A detector without weights to learn: it finds white blobs on black, with their masks."""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import nn

from detkit.modeling.base import InputRule
from detkit.modeling.image_model import ImageModel
from detkit.structures import Detections, LabelMap


class BlobFinder(ImageModel):
    """Each connected white part is a "thin" object where it is wider than high, else a "tall" one, of one `score`.

    It does not see what has a side of less than two pixels at its input.
    """

    def __init__(self, side=64):
        rule = InputRule(side, side, 1, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        super().__init__(LabelMap(("thin", "tall"), (1, 2)), rule)
        self.scale = nn.Parameter(torch.ones(()))
        self.batches, self.score = [], 0.9

    def losses(self, images, annotations, num_objects=None):
        return {"loss": self.scale}

    def detect(self, images, original_sizes):
        self.batches.append(tuple(images.images.shape))
        return [self._found(i, s, o) for i, s, o in zip(images.images, images.sizes, original_sizes, strict=True)]

    def _found(self, image, size, original):
        blobs, count = ndimage.label(image[0, : size[0], : size[1]].numpy() > 0.5)
        places = enumerate(ndimage.find_objects(blobs), 1)
        seen = [i for i, (y, x) in places if min(y.stop - y.start, x.stop - x.start) > 1]
        count = len(seen)
        masks = torch.from_numpy(np.stack([blobs == i for i in seen]) if seen else np.zeros((0, *size)))
        masks = F.interpolate(masks[None].float(), size=original, mode="nearest")[0].bool() if count else masks.bool()
        places = [ndimage.find_objects(mask.numpy().astype(int))[0] for mask in masks]
        boxes = torch.tensor([[x.start, y.start, x.stop, y.stop] for y, x in places]).view(-1, 4).float()
        labels = ((boxes[:, 3] - boxes[:, 1]) > (boxes[:, 2] - boxes[:, 0])).long()
        scores = torch.full((count,), self.score)
        return Detections(boxes, scores, labels, masks.view(count, *original), label_map=self.label_map)


def picture(height, width, *boxes):
    """Black, with white boxes x1 y1 x2 y2: uint8 `[3, h, w]`."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    for x1, y1, x2, y2 in boxes:
        image[:, y1:y2, x1:x2] = 255
    return image
