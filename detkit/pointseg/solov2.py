"""SOLOv2 (arXiv 2003.10152) with point prompts (PointWSSIS, arXiv 2303.15062).

Shape letters: b images, n objects, p cells of all levels, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from annotated_types import Len
from torch import Tensor, nn

from detkit.modeling.base import InputRule
from detkit.modeling.prompted import PromptedModel
from detkit.modeling.weight_decay import undecayed_parameters
from detkit.pointseg import codes
from detkit.pointseg.candidates import (
    Candidates,
    ImagePredictions,
    class_candidates,
    peaks,
    point_candidates,
    score_candidates,
    sized_candidates,
    split_images,
)
from detkit.pointseg.grid import NAMED_GRIDS, NAMED_RANGES, GridLevels
from detkit.pointseg.heads import InstanceHead, MaskHead, SoloOutputs
from detkit.pointseg.losses import SoloCriterion
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, NonNegativeFloat, OneOf, OptionsOf, PositiveFloat
from detkit.structures import Annotations, Detections, ImageBatch, LabelMap, Prompt, PromptedDetections

# Images are padded to a multiple of this many pixels.
PADDING_MULTIPLE = 32
# Strides of the maps from which the five levels are made.
STRIDES = (8, 8, 16, 32, 32)


@register
class SOLOv2(PromptedModel):
    """Instance segmentation by locations: each cell of five grids predicts a class and the filter of a mask.

    Args:
        backbone: an `FPN`, which gives five maps of stride 4 to 64 with `out_channels` channels.
        num_classes: classifier outputs.
        num_grids: cells along each side of the five grids: numbers, or "student" or "teacher" for those of the paper.
        scale_ranges: the object sizes of each grid, see `GridLevels`: numbers, or "student" or "teacher".
        sigma: size of the positive region around an object's centre, relative to its box.
        instance_channels, instance_convs: channels and convolutions of the class and filter branches.
        kernel_channels: channels of the mask features.
        mask_channels: channels inside the mask branch.
        criterion: loss terms, by default `SoloCriterion()`.
        postprocess: by default `SoloPostprocess()`, with the student's matrix NMS; the teacher has `nms="mask"`.
        official: with point prompts, find cells and the points of detections as the authors' code does, see
            `detkit.pointseg.candidates.point_candidates`; for comparisons only.
        input_rule: arguments of `InputRule`; `multiple` is 1 where it is not given.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        num_grids: Annotated[Sequence[Depth], Len(5, 5)] | Annotated[str, OneOf(NAMED_GRIDS)] = "student",
        scale_ranges: Annotated[Sequence[tuple[NonNegativeFloat, NonNegativeFloat]], Len(5, 5)]
        | Annotated[str, OneOf(NAMED_RANGES)] = "student",
        sigma: PositiveFloat = 0.2,
        instance_channels: Channels = 512,
        instance_convs: Depth = 4,
        kernel_channels: Channels = 256,
        mask_channels: Channels = 128,
        criterion: SoloCriterion | None = None,
        postprocess: SoloPostprocess | None = None,
        official: bool = False,
        input_rule: Annotated[Mapping[str, Any], OptionsOf(InputRule)] | None = None,
    ):
        super().__init__(LabelMap.numbered(num_classes), InputRule(**{"multiple": 1, **(input_rule or {})}))
        if not isinstance(num_grids, str) and len(num_grids) != len(STRIDES):
            raise ValueError(f"num_grids must be {len(STRIDES)} numbers, got {num_grids}")
        self.grids = GridLevels.of(num_grids, scale_ranges, sigma)
        self.backbone, self.num_classes = backbone, num_classes
        self.instance_head = InstanceHead(
            num_classes,
            self.grids.sides,
            in_channels=backbone.out_channels,
            channels=instance_channels,
            convs=instance_convs,
            kernel_channels=kernel_channels,
        )
        self.mask_head = MaskHead(
            in_channels=backbone.out_channels, channels=mask_channels, out_channels=kernel_channels
        )
        self.criterion = criterion or SoloCriterion()
        self.postprocess = postprocess or SoloPostprocess()
        self.official = official

    def preprocess(self, images: Sequence[Tensor]) -> ImageBatch:
        """Pad and normalise RGB tensors `[3, h, w]` in 0..255 at the size that they have.

        So does the official `preprocess_image`; there as here, `predict` and the loaders resize before.
        """
        return self.as_batch(images)

    def forward_heads(self, images: ImageBatch) -> SoloOutputs:
        """Class logits, mask filters and mask features for normalised images, which are padded to a multiple of 32."""
        padding = (0, -images.images.shape[3] % PADDING_MULTIPLE, 0, -images.images.shape[2] % PADDING_MULTIPLE)
        pyramid = self.backbone(F.pad(images.images, padding), F.pad(images.mask, padding, value=True))
        category, kernels = self.instance_head(pyramid)
        return SoloOutputs(category, kernels, self.mask_head(pyramid))

    def no_weight_decay(self) -> set[str]:
        """All parameters without weight decay: as in the paper those of norms, and what the backbone lists."""
        return undecayed_parameters(self)

    def losses(
        self, images: ImageBatch, annotations: Sequence[Annotations], num_objects: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms; boxes and masks of the annotations in pixels of the unpadded `images`."""
        return self.criterion(self.forward_heads(images), annotations, self.grids, num_objects)

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """The objects of all cells and classes that pass the thresholds and the suppression of `postprocess`.

        Args:
            images: normalised and padded.
            original_sizes: (h, w) of the images, in whose pixels the detections are.

        Returns:
            The detections of each image, best first.
        """
        return self.detections(self.forward_heads(images), images.sizes, original_sizes)

    def detections(
        self,
        outputs: SoloOutputs,
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
        *,
        prompt: str = "none",
        prompts: Sequence[Prompt] | None = None,
    ) -> list[Detections]:
        """The detections of a batch of outputs, with or without a prompt.

        Args:
            outputs: of `forward_heads`.
            sizes: (h, w) of the unpadded inputs of the network.
            original_sizes: (h, w) of the images, in whose pixels the detections are.
            prompt: "none", "point", "point_with_size" or "class", see `predict`.
            prompts: the prompted objects of each image, in pixels of the unpadded inputs; None with "none".
        """
        probabilities = peaks(outputs) if prompt in ("none", "class") else [None] * len(sizes)
        found = []
        for i, (image, prob_kp) in enumerate(zip(split_images(outputs), probabilities, strict=True)):
            prompted = None if prompts is None else prompts[i]
            candidates = self.candidates(image, prob_kp, prompt, prompted)
            detections, owners = self.postprocess(image, candidates, self.strides(), sizes[i], original_sizes[i])
            detections.label_map = self.label_map
            if prompted is not None:
                points = self._points_of(owners, prompted, sizes[i], original_sizes[i])
                detections = PromptedDetections(**vars(detections), owners=owners, points=points)
            found.append(detections)
        return found

    def candidates(
        self, image: ImagePredictions, prob_kp: Tensor | None, prompt: str, prompted: Prompt | None
    ) -> Candidates:
        """The cells of one image that give a mask; "none" and "class" need its class probabilities `prob_kp`."""
        if prob_kp is None:
            assert prompted is not None
            if prompt == "point":
                return point_candidates(image, prompted, self.grids, official=self.official)
            return sized_candidates(prompted, self.grids, image.frame)
        threshold = self.postprocess.score_threshold
        if prompted is None:
            return score_candidates(prob_kp, threshold)
        return class_candidates(prob_kp, prompted, self.grids, image.frame, threshold)

    def strides(self) -> Tensor:
        """The stride in pixels of the level of each cell, `[p]`."""
        counts = torch.tensor(self.grids.level_sizes, device=self.device)
        return torch.tensor(STRIDES, device=self.device).repeat_interleave(counts)

    def detect_prompted(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]], prompt: str, prompts: Sequence[Prompt]
    ) -> list[Detections]:
        """Detections for prompts, in pixels of the original images.

        With "point" each point gets the mask of its cell on the level with the best mask. With "point_with_size" the
        box chooses the level, and up to 9 cells around its centre give a mask each, before the suppression.
        """
        scaled = [
            prompted.scaled(new[1] / old[1], new[0] / old[0])
            for prompted, new, old in zip(prompts, images.sizes, original_sizes, strict=True)
        ]
        return self.detections(self.forward_heads(images), images.sizes, original_sizes, prompt=prompt, prompts=scaled)

    def _points_of(
        self, owners: Tensor, prompted: Prompt, size: tuple[int, int], original_size: tuple[int, int]
    ) -> Tensor | None:
        """The prompted point of each detection, `[n, 2]` in pixels of the original image."""
        if prompted.points is None:
            return None
        scale = prompted.points.new_tensor([original_size[1] / size[1], original_size[0] / size[0]])
        points = prompted.points * scale
        if self.official:
            points = codes.decode(codes.encode(prompted.points, size), original_size).to(points)
        return torch.cat([points, points.new_zeros(1, 2)])[owners]  # owner -1 gets the zeros at the end
