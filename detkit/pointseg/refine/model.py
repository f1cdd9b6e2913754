"""MaskRefineNet (PointWSSIS, arXiv 2303.15062, section 3.3) as a model to train, save and load."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor

from detkit.images import load_image
from detkit.modeling.base import InputRule, Model
from detkit.pointseg.refine.batches import CropBatch, RoughBatch
from detkit.pointseg.refine.crops import SIZE, network_input, normalize
from detkit.pointseg.refine.inference import BOX_SCALE, refine_masks
from detkit.pointseg.refine.losses import refine_loss
from detkit.pointseg.refine.network import MaskRefineNet
from detkit.registry import register
from detkit.registry.ranges import Channels, PictureSide, Text
from detkit.structures import LabelMap


@register
class MaskRefiner(Model):
    """Refines rough masks, each in a crop around it.

    In training mode `model(CropBatch)` returns the weighted loss; in eval mode `model(RoughBatch)` returns the refined
    masks of each image, `[n, h, w]` bool.

    Args:
        num_classes: classes of the data.
        encoder, width, pretrained: of the `MaskRefineNet`.
        size: side of the crops in pixels, in training and at inference; that of `RefineCrops` must be the same.
        box_scale: sides of a crop, relative to those of the rough mask, at inference.
        official: the published training loss, see `refine_loss`; the configs of PointWSSIS set it.

    Raises:
        ValueError: a size that is too small, or what `MaskRefineNet` raises.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        encoder: Text = "resnet101",
        width: Channels = 512,
        pretrained: Text | bool | None = None,
        size: PictureSide = SIZE,
        box_scale: Annotated[float, Ge(1), Le(100)] = BOX_SCALE,
        official: bool = False,
    ):
        if size < 32:
            raise ValueError(f"size must be at least 32, the stride of the network, got {size}")
        if box_scale < 1:
            raise ValueError(f"box_scale must be at least 1, so that crops show the whole mask, got {box_scale}")
        super().__init__(LabelMap.numbered(num_classes), InputRule(shortest=size, longest=size, multiple=1))
        self.network = MaskRefineNet(num_classes, encoder=encoder, width=width, pretrained=pretrained)
        self.size, self.box_scale, self.official = size, box_scale, official

    @property
    def num_classes(self) -> int:
        """How many classes the network knows; labels are 0 .. `num_classes` - 1."""
        return self.network.num_classes

    def synchronize_norms(self) -> None:
        """Let batch norms use the statistics of all processes, see `MaskRefineNet.synchronize_norms`."""
        self.network.synchronize_norms()

    def batch_predictions(self, batch: RoughBatch) -> list[Tensor]:
        """The refined masks of each image, `[n, h, w]` bool, one for each of its rough masks; h, w as in the image.

        Raises:
            ValueError: category ids that the model does not know.
        """
        return [
            self.refine(image, known.rough, known.points, self.labels_of(known.category_ids))
            for image, known in zip(batch.images, batch.annotations, strict=True)
        ]

    def batch_losses(self, batch: CropBatch) -> dict[str, Tensor]:
        """The dice loss, a scalar; weighted by the batch's share of `num_objects` crops, so that micro-batches add up.

        Raises:
            ValueError: a single crop, or crops of another size than the model refines.
        """
        if len(batch) < 2:
            raise ValueError("MaskRefineNet needs at least two crops in a batch to learn from: set data.batch_size")
        if batch.images.shape[2:] != (self.size, self.size):
            crops = " x ".join(map(str, batch.images.shape[2:]))
            raise ValueError(f"the crops have {crops} pixels, the model has size {self.size}: give both the same size")
        images = normalize(batch.images)
        x = network_input(images, batch.rough, batch.points, batch.planes, self.num_classes)
        loss = refine_loss(self.network(x).float(), batch.true, official=self.official)
        if batch.num_objects is not None:
            loss = loss * (len(batch) / batch.num_objects)
        return {"loss_dice": loss}

    def labels_of(self, category_ids: Tensor) -> Tensor:
        """The labels `[n]` of category ids.

        Raises:
            ValueError: ids that the model does not know.
        """
        label_of = {category_id: label for label, category_id in enumerate(self.label_map.category_ids)}
        ids = category_ids.tolist()
        if unknown := sorted({i for i in ids if i not in label_of}):
            raise ValueError(f"the model does not know the category ids {unknown}; it has {sorted(label_of)}")
        return torch.tensor([label_of[i] for i in ids], dtype=torch.int64, device=category_ids.device)

    def refine(self, image: Any, masks: Tensor, points: Any, labels: Any, *, batch_size: int = 16) -> Tensor:
        """Refine the masks of one image.

        Args:
            image: as in `ImageModel.predict`.
            masks: [n, h, w] bool, the rough masks; an empty one stays empty.
            points: [n, 2], x to the right and y down in pixels of the image.
            labels: [n], classes of the objects, contiguous from 0.
            batch_size: objects that go through the network together.

        Returns:
            `[n, h, w]` bool.

        Raises:
            RuntimeError: the model is in training mode.
            ValueError: lengths or sizes that do not fit, or an unknown class.
        """
        if self.training:
            raise RuntimeError("refine needs eval mode: call model.eval() first")
        points = torch.as_tensor(points, dtype=torch.float32).reshape(-1, 2)
        labels = torch.as_tensor(labels, dtype=torch.int64)
        if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes:
            raise ValueError(f"labels must lie in 0..{self.num_classes - 1}, got {sorted(set(labels.tolist()))}")
        picture, masks, points, labels = (x.to(self.device) for x in (load_image(image), masks, points, labels))
        options: dict[str, Any] = dict(size=self.size, box_scale=self.box_scale, batch_size=batch_size)
        return refine_masks(self.network, picture, masks, points, labels, self.num_classes, **options)
