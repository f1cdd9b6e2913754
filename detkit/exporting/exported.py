"""Exported files as models that predict: the same methods as the models that they were made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkit.correspondence.matcher import Matcher
from detkit.exporting.description import LEAST, Description
from detkit.exporting.formats import onnx, openvino
from detkit.exporting.formats import torch as torch_export
from detkit.images import check_shape, image_size, resize_image, resized_size
from detkit.modeling.base import InputRule
from detkit.modeling.image_model import ImageModel
from detkit.pointseg.geometry import mask_boxes
from detkit.pointseg.heads import SoloOutputs
from detkit.pointseg.postprocess import SoloPostprocess
from detkit.structures import Detections, Flow, ImageBatch, LabelMap

FORMATS = {".onnx": onnx, ".xml": openvino, ".pt2": torch_export}


def is_exported(path: str | Path) -> bool:
    """Whether the name of a file is that of an exported model."""
    return Path(path).suffix in FORMATS


def load_exported(path: str | Path) -> ExportedModel:
    """The model in an exported file, to predict with on the CPU.

    Raises:
        ValueError: the file is missing, damaged or not of `detkit export`, or a package to run it is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    session = FORMATS[path.suffix].Session(path)
    kinds = {"detection": ExportedDetector, "segmentation": ExportedSegmenter, "matching": ExportedMatcher}
    task = session.description.task
    inputs = ["source", "target"] if task == "matching" else ["images", "sizes"]
    if list(session.inputs) != inputs:
        raise ValueError(f"{path}: its inputs are {session.inputs}, not {inputs}: detkit export did not write it so")
    try:
        return kinds[task](session)
    except (TypeError, KeyError, ValueError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path}: its metadata is damaged: {type(error).__name__} {error}") from error


@dataclass(frozen=True)
class FrameRule(InputRule):
    """An input rule for a graph of one image size: an image that the rule makes too large is made to fit.

    Attributes:
        frame: (h, w).
    """

    frame: tuple[int, int] = (0, 0)

    def resize(self, image: Tensor) -> Tensor:
        """Resize `[3, h, w]` by the rule or, where that does not fit into the frame, as large as fits."""
        size = image_size(image)
        check_shape(size, self.longest, self.multiple)
        wanted = resized_size(size, self.shortest, self.longest, self.multiple)
        if wanted[0] > self.frame[0] or wanted[1] > self.frame[1]:
            scale = min(self.frame[0] / size[0], self.frame[1] / size[1])
            wanted = max(1, int(size[0] * scale + 1e-6)), max(1, int(size[1] * scale + 1e-6))
        return resize_image(image, wanted)


class Exported(nn.Module):
    """What exported models share: the session that runs the file, and its description."""

    session: Any
    description: Description
    thresholds: dict[str, float] | None

    def _open(self, session: Any) -> None:
        self.session, self.description = session, session.description
        self.label_map = LabelMap(**self.description.label_map)
        self.thresholds = self.description.thresholds
        self.eval()

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    def parameters(self, recurse: bool = True) -> Any:
        """An empty tensor, which tells the device."""
        return iter([nn.Parameter(torch.zeros(0), requires_grad=False)])

    def normalize(self, images: ImageBatch) -> ImageBatch:
        """As of any model, or nothing where the graph does it."""
        if self.description.preprocessing == "outside":
            return super().normalize(images)
        return ImageBatch(images.images.float(), images.mask, images.sizes)

    def batch_losses(self, batch: Any) -> NoReturn:
        """Raises a RuntimeError."""
        raise RuntimeError("an exported model cannot be trained: train the checkpoint that it was made of")

    def run(self, *inputs: Tensor) -> list[Tensor]:
        """The outputs for inputs `[n, ...]`, in as many calls as the graph's batch needs."""
        count, batch = len(inputs[0]), self.description.batch or len(inputs[0])
        parts = []
        for start in range(0, count, batch):
            chunk = [x[start : start + batch] for x in inputs]
            chunk = [torch.cat([x, x[-1:].expand(batch - len(x), *x.shape[1:])]) for x in chunk]
            parts.append([torch.from_numpy(np.asarray(x)) for x in self.session.run([x.numpy() for x in chunk])])
        return [torch.cat(column)[:count] for column in zip(*parts, strict=True)]


def rule_of(description: Description) -> InputRule:
    """How images are resized for an exported model."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in description.input_rule.items()}
    return InputRule(**fields) if description.size is None else FrameRule(**fields, frame=description.size)


class ExportedImageModel(Exported, ImageModel):
    """Predicts objects in images by an exported file."""

    def __init__(self, session: Any):
        description = session.description
        super().__init__(LabelMap(**description.label_map), rule_of(description))
        self._open(session)

    def framed(self, images: ImageBatch) -> ImageBatch:
        """The batch padded to the size of the graph or, where it takes any, to a multiple of what it takes.

        Raises:
            ValueError: the images are larger than the graph.
        """
        height, width = images.images.shape[2:]
        step = self.description.multiple
        least = LEAST * step
        frame = self.description.size or (max(least, height + -height % step), max(least, width + -width % step))
        if height > frame[0] or width > frame[1]:
            raise ValueError(f"images of {width} x {height} pixels do not fit into the graph's {frame[1]} x {frame[0]}")
        padding = (0, frame[1] - width, 0, frame[0] - height)
        return ImageBatch(F.pad(images.images, padding), F.pad(images.mask, padding, value=True), images.sizes)

    def outputs(self, images: ImageBatch) -> list[Tensor]:
        """The outputs of the graph."""
        framed = self.framed(images)
        return self.run(framed.images, torch.tensor(framed.sizes))

    def losses(self, *_: Any, **__: Any) -> NoReturn:
        """Raises a RuntimeError."""
        self.batch_losses(None)


class ExportedDetector(ExportedImageModel):
    """A ViDT in an exported file."""

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """See `ImageModel.detect`."""
        from detkit.ops.masks import BoxMasks
        from detkit.vidt.outputs import Stages
        from detkit.vidt.postprocess import postprocess

        outputs = self.outputs(images)
        if self.description.postprocessing == "outside":
            logits, boxes, *vectors = (output[None] for output in outputs)
            stages = Stages(logits, boxes, vectors=vectors[0] if vectors else None)
            return postprocess(stages, original_sizes, self.label_map, self.description.settings["top_k"])
        found = []
        for i, (new, old) in enumerate(zip(original_sizes, images.sizes, strict=True)):
            boxes, scores, labels, *bitmaps = (output[i] for output in outputs)
            boxes = boxes * boxes.new_tensor([new[1] / old[1], new[0] / old[0]]).repeat(2)
            detections = Detections(boxes, scores, labels, label_map=self.label_map)
            if bitmaps:
                detections.masks = BoxMasks(bitmaps[0], boxes, new)
            found.append(detections)
        return found


class ExportedSegmenter(ExportedImageModel):
    """A SOLOv2 in an exported file."""

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """See `ImageModel.detect`."""
        settings, outputs = self.description.settings, self.outputs(images)
        rule = SoloPostprocess(**settings["postprocess"])
        if self.description.postprocessing == "outside":
            return self._detect_raw(outputs, rule, images.sizes, original_sizes)
        found = []
        for i, (new, old) in enumerate(zip(original_sizes, images.sizes, strict=True)):
            scores, labels, prob = (output[i][outputs[0][i] > 0] for output in outputs)
            masks = rule.full_masks(prob, old, new)
            found.append(Detections(mask_boxes(masks), scores, labels, masks, self.label_map))
        return found

    def _detect_raw(
        self,
        outputs: list[Tensor],
        rule: SoloPostprocess,
        sizes: Sequence[tuple[int, int]],
        original_sizes: Sequence[tuple[int, int]],
    ) -> list[Detections]:
        from detkit.pointseg.candidates import peaks, score_candidates, split_images
        from detkit.pointseg.solov2 import STRIDES

        sides = self.description.settings["sides"]
        counts = [side * side for side in sides]
        category, kernels = (
            [level.unflatten(2, (side, side)) for level, side in zip(flat.split(counts, 2), sides, strict=True)]
            for flat in outputs[:2]
        )
        solo = SoloOutputs(category, kernels, outputs[2])
        strides = torch.tensor(STRIDES).repeat_interleave(torch.tensor(counts))
        found = []
        for i, (image, prob_kp) in enumerate(zip(split_images(solo), peaks(solo), strict=True)):
            candidates = score_candidates(prob_kp, rule.score_threshold)
            detections, _ = rule(image, candidates, strides, sizes[i], original_sizes[i])
            detections.label_map = self.label_map
            found.append(detections)
        return found


class ExportedMatcher(Exported, Matcher):
    """A CATs or CATs++ in an exported file."""

    def __init__(self, session: Any):
        description = session.description
        settings = {name: description.settings[name] for name in ("grid", "temperature", "official")}
        rule = {name: description.input_rule[name] for name in ("mean", "std")}
        classes = len(description.label_map["names"])
        super().__init__(side=description.size[0], num_classes=classes, input_rule=rule, **settings)
        self._open(session)
        for name in ("x_positions", "y_positions"):  # with `official` they are trained
            getattr(self, name).data.copy_(torch.tensor(description.settings[name]))

    def correlation(self, source_b3hw: Tensor, target_b3hw: Tensor) -> Tensor:
        """The correlation `[b, s, t]` or, where the graph gives the flow, flow and confidence `[b, 3, grid, grid]`."""
        outputs = self.run(source_b3hw, target_b3hw)
        return outputs[0] if len(outputs) == 1 else torch.cat([outputs[0], outputs[1][:, None]], dim=1)

    def flow_of(self, corr_bst: Tensor) -> Flow:
        """The flow of what `correlation` gives."""
        if corr_bst.ndim == 3:
            return super().flow_of(corr_bst)
        return Flow(corr_bst[:, :2], corr_bst[:, 2])


ExportedModel = ExportedDetector | ExportedSegmenter | ExportedMatcher
