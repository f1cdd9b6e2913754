"""A model and a dataset of your own in one file: a detector that finds centres, and boxes from a csv file.

`own_model_config.py` names this file in its `imports` and uses both.
docs/own_parts.md says what a model and a dataset must have.
"""

import csv
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from detkit.data.base import ImageDataset
from detkit.images import load_image
from detkit.modeling.base import InputRule
from detkit.modeling.image_model import ImageModel
from detkit.ops.boxes import generalized_iou
from detkit.registry import register
from detkit.structures import Annotations, Detections, LabelMap
from detkit.vidt.losses.criterion import sigmoid_focal_loss

STRIDE = 8  # pixels of a cell


@register
class CsvBoxes(ImageDataset):
    """Images with boxes from a csv file with the columns file, x1, y1, x2, y2 and name; each row is a box, in pixels.

    Args:
        csv_file: the file.
        image_folder: where its file names begin.
        names: of the classes, in the order of the labels; the same for training and validation.

    Raises:
        ValueError: a name in the file that is not among `names`.
    """

    def __init__(self, csv_file, image_folder, names):
        self.folder = Path(image_folder)
        self.label_map = LabelMap(tuple(names), tuple(range(1, len(names) + 1)))
        self.rows = {}  # file name -> its rows
        with open(csv_file, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["name"] not in names:
                    raise ValueError(f"{csv_file}: the class {row['name']!r} is none of {', '.join(names)}")
                self.rows.setdefault(row["file"], []).append(row)
        self.files = sorted(self.rows)
        self.image_ids = list(range(1, len(self.files) + 1))

    def __len__(self):
        return len(self.files)

    def __getitem__(self, index):
        """The image uint8 `[3, h, w]` and its annotations."""
        name = self.files[index]
        boxes = torch.tensor([self.box(row) for row in self.rows[name]])
        labels = torch.tensor([self.label_map.names.index(row["name"]) for row in self.rows[name]])
        annotations = Annotations(boxes, labels, image_id=self.image_ids[index], file_name=name)
        return load_image(self.folder / name), annotations

    def coco(self):
        """The truth as `CocoEvaluator` wants it: a COCO dict, boxes as x, y, width, height."""
        annotations = []
        for image_id, name in zip(self.image_ids, self.files, strict=True):
            for row in self.rows[name]:
                x1, y1, x2, y2 = self.box(row)
                category = self.label_map.category_ids[self.label_map.names.index(row["name"])]
                annotations.append({"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]})
        categories = zip(self.label_map.category_ids, self.label_map.names, strict=True)
        return {
            "images": [{"id": image_id} for image_id in self.image_ids],
            "annotations": annotations,
            "categories": [{"id": category_id, "name": name} for category_id, name in categories],
        }

    @staticmethod
    def box(row):
        """The four numbers of a row."""
        return [float(row[key]) for key in ("x1", "y1", "x2", "y2")]


@register
class CenterPoints(ImageModel):
    """A detector of object centres (after CenterNet, arXiv 1904.07850): each cell of 8 x 8 pixels says whether the
    centre of an object of a class lies in it, and how far the four sides of its box are away.

    Args:
        num_classes: class outputs. detkit fills it in from the data.
        channels: of the network.
        top_k: detections of an image.
        input_rule: arguments of `InputRule`.
    """

    def __init__(self, num_classes, *, channels=64, top_k=50, input_rule=None):
        super().__init__(LabelMap.numbered(num_classes), InputRule(**(input_rule or {})))
        self.top_k = top_k
        widths = pairwise([3, channels // 4, channels // 2, channels, channels, channels])
        self.backbone = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(before, width, 3, stride, 1), nn.GroupNorm(4, width), nn.ReLU())
                for (before, width), stride in zip(widths, (2, 2, 2, 1, 1), strict=True)
            )
        )
        self.head = nn.Conv2d(channels, num_classes + 4, 1)
        nn.init.constant_(self.head.bias, -4.0)  # at first hardly any cell holds a centre
        nn.init.constant_(self.head.bias[-4:], 1.0)

    def forward_cells(self, images):
        """Class logits `[b, h, w, classes]` and boxes `[b, h, w, 4]` x1 y1 x2 y2 in pixels, of each cell."""
        outputs = self.head(self.backbone(images.images)).permute(0, 2, 3, 1).float()
        logits, sides = outputs[..., :-4], outputs[..., -4:].clamp(max=6).exp() * STRIDE
        y, x = (torch.arange(n, device=self.device) * STRIDE + STRIDE / 2 for n in outputs.shape[1:3])
        centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        return logits, torch.cat([centres - sides[..., :2], centres + sides[..., 2:]], dim=-1)

    def losses(self, images, annotations, num_objects=None):
        """Two terms, each summed over the objects and divided by `num_objects`."""
        logits, boxes = self.forward_cells(images)
        annotations = [a.to(self.device) for a in annotations]
        image = torch.cat([torch.full_like(a.labels, i) for i, a in enumerate(annotations)])
        labels, wanted = torch.cat([a.labels for a in annotations]), torch.cat([a.boxes for a in annotations])
        x, y = ((wanted[:, :2] + wanted[:, 2:]) / 2 / STRIDE).long().unbind(1)
        x, y = x.clamp(0, logits.shape[2] - 1), y.clamp(0, logits.shape[1] - 1)
        is_centre = torch.zeros_like(logits)
        is_centre[image, y, x, labels] = 1
        number = max(1, len(labels)) if num_objects is None else num_objects
        return {
            "loss_class": sigmoid_focal_loss(logits, is_centre).sum() / number,
            "loss_box": (1 - generalized_iou(boxes[image, y, x], wanted)).sum() / number,
        }

    def detect(self, images, original_sizes):
        """The cells that score higher than their eight neighbours, as one `Detections` for each image."""
        logits, boxes = self.forward_cells(images)
        scores = logits.sigmoid().permute(0, 3, 1, 2) * ~images.mask[:, None, ::STRIDE, ::STRIDE]
        scores = scores * (scores == F.max_pool2d(scores, 3, stride=1, padding=1))
        found = []
        for score, box, (h, w), (full_h, full_w) in zip(scores, boxes, images.sizes, original_sizes, strict=True):
            best, place = score.flatten().topk(min(self.top_k, score.numel()))
            label, cell = place // score[0].numel(), place % score[0].numel()
            scale = box.new_tensor([full_w / w, full_h / h, full_w / w, full_h / h])
            limit = box.new_tensor([full_w, full_h, full_w, full_h])
            box = (box.flatten(0, 1)[cell] * scale).clamp(min=0).minimum(limit)
            found.append(Detections(box, best, label, label_map=self.label_map))
        return found
