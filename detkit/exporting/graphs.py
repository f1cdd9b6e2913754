"""Models as functions from tensors to tensors, as other runtimes run them.

Shape letters: b images, q queries, k classes, n detections, p cells of all levels, d kernel channels, h/w pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from detkit.backbones.layers import resize_mask
from detkit.correspondence.cats import CATs
from detkit.correspondence.catspp import CATsPlusPlus
from detkit.exporting.description import Description
from detkit.exporting.portable import GridAttention, ValueProjections, portable_copy
from detkit.modeling.base import Model
from detkit.ops.boxes import cxcywh_to_xyxy
from detkit.pointseg.candidates import peaks
from detkit.pointseg.solov2 import SOLOv2
from detkit.structures import ImageBatch
from detkit.vidt.decoder import Memory, inverse_sigmoid
from detkit.vidt.masks import vectors_to_masks
from detkit.vidt.model import ViDT
from detkit.vidt.proposals import Queries, gather_rows

LOGIT_LIMIT = 11.512915  # logit(1 - 1e-5), where `inverse_sigmoid` ends


def graph_of(model: Model, description: Description) -> Graph:
    """The function that is exported of a model.

    Raises:
        ValueError: a model of a kind that cannot be exported, or something of `description` that it cannot do.
    """
    copy = portable_copy(model, fixed_size=description.size is not None)
    return kind_of(model)(copy, description).eval()


def kind_of(model: Model) -> type[Graph]:
    """The class of a model's graph.

    Raises:
        ValueError: a model of a kind that cannot be exported.
    """
    kinds: dict[Any, type[Graph]] = {ViDT: DetectorGraph, SOLOv2: SegmenterGraph}
    kinds |= {CATs: MatcherGraph, CATsPlusPlus: MatcherGraph}
    for kind, made in kinds.items():
        if isinstance(model, kind):
            return made
    raise ValueError(f"a {type(model).__name__} cannot be exported: ViDT, SOLOv2, CATs and CATsPlusPlus can")


class Graph(nn.Module):
    """A model whose inputs and outputs are tensors.

    Attributes:
        inputs, outputs: their names, in order.
    """

    inputs: tuple[str, ...] = ("images", "sizes")
    outputs: tuple[str, ...]

    def __init__(self, model: Any, description: Description):
        super().__init__()
        self.model, self.description = model, description
        rule = model.input_rule
        self.register_buffer("mean", torch.tensor(rule.mean)[:, None, None] * 255)
        self.register_buffer("std", torch.tensor(rule.std)[:, None, None] * 255)

    def normalized(self, images: Tensor) -> Tensor:
        """Images `[b, 3, h, w]` in 0..255 as the network wants them; unchanged where that is done outside."""
        return (images - self.mean) / self.std if self.description.preprocessing == "inside" else images

    def batch(self, images: Tensor, sizes: Tensor) -> ImageBatch:
        """Normalised images and their padding by their unpadded `sizes` `[b, 2]` (h, w)."""
        rows = torch.arange(images.shape[2], device=images.device)[None, :, None]
        columns = torch.arange(images.shape[3], device=images.device)[None, None, :]
        mask = (rows >= sizes[:, :1, None]) | (columns >= sizes[:, 1:, None])
        return ImageBatch(self.normalized(images).masked_fill(mask[:, None], 0), mask, [])


class DetectorGraph(Graph):
    """ViDT: the last stage, with the value projections of all layers in one product.

    The logits of the first reference points are constants: OpenVINO folds their logarithm to wrong values.
    """

    def __init__(self, model: ViDT, description: Description):
        super().__init__(model, description)
        raw, masks = description.postprocessing == "outside", model.vector_embed is not None
        names = ("logits", "boxes", "vectors") if raw else ("boxes", "scores", "labels", "masks")
        self.outputs = names if masks else names[:-1]
        attentions = [layer.cross_attn for layer in model.decoder]
        self.project = ValueProjections(attentions) if attentions else None
        for i, layer in enumerate(model.decoder):
            layer.cross_attn = GridAttention(layer.cross_attn, i)
        if model.reference_points is not None:
            with torch.no_grad():
                positions = model.query_pos_proj(model.backbone.det_pos_embed.transpose(1, 2)).transpose(1, 2)
                logits = model.reference_points(positions).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            self.register_buffer("first_logits", logits.clone())
            self.register_buffer("first_points", logits.sigmoid())

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names."""
        batch = self.batch(images, sizes)
        maps, det, det_pos = self.model.maps(batch)
        masks = [resize_mask(batch.mask, m.shape[2:]) for m in maps]
        token, boxes = self.decode(maps, masks, det, det_pos)
        logits = self.model.class_embed[-1](token)
        vectors = None if self.model.vector_embed is None else self.model.vector_embed(token)
        if self.description.postprocessing == "outside":
            return (logits, boxes) if vectors is None else (logits, boxes, vectors)
        return self.best(logits, boxes, vectors, sizes)

    def decode(self, maps: list[Tensor], masks: list[Tensor], det: Tensor, det_pos: Tensor) -> tuple[Tensor, Tensor]:
        """The queries `[b, q, c]` and boxes `[b, q, 4]` (cxcywh, 0..1) of the last stage."""
        model, memory = self.model, Memory.from_maps(maps, masks)
        projected = None if self.project is None else self.project(maps, masks)
        queries, base = self.start(memory, det, det_pos)
        token, references = queries.content, queries.references
        for stage in range(len(model.decoder) + 1):
            if stage > 0:
                ratios = memory.valid_ratios.repeat(1, 1, references.shape[-1] // 2)
                scaled = references[:, :, None] * ratios[:, None]
                token = model.decoder[stage - 1](token, queries.positions, scaled, projected)
            moved = model.bbox_embed[stage](token)
            moved = moved + torch.cat([base, torch.zeros_like(base)], dim=-1)[..., :4]
            boxes = moved.sigmoid()
            if model.box_refine:
                references, base = boxes, moved.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        return token, boxes

    def start(self, memory: Memory, det: Tensor, det_pos: Tensor) -> tuple[Queries, Tensor]:
        """What enters the decoder, and the logits of its references."""
        proposals = self.model.proposals
        if proposals is None:
            logits, points = (x.expand(det.shape[0], -1, -1) for x in (self.first_logits, self.first_points))
            return Queries(det, det_pos, points), logits
        queries = proposals.start(proposals(memory), memory, det, det_pos, self.model.max_detections)
        return queries, inverse_sigmoid(queries.references)

    def best(self, logits: Tensor, boxes: Tensor, vectors: Tensor | None, sizes: Tensor) -> tuple[Tensor, ...]:
        """The detections as `detkit.vidt.postprocess` chooses them: boxes in pixels, scores, labels, bitmaps."""
        classes = logits.shape[-1]
        scores, best = logits.sigmoid().flatten(1).topk(min(self.model.top_k, logits.shape[1] * classes), dim=1)
        queries, labels = best // classes, best % classes
        scale = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)
        found = gather_rows(cxcywh_to_xyxy(boxes), queries) * scale, scores, labels
        return found if vectors is None else (*found, vectors_to_masks(gather_rows(vectors, queries)))


class SegmenterGraph(Graph):
    """SOLOv2: the masks of the best cells, at a quarter of the image's size, after the matrix NMS.

    A row whose score is 0 is no detection.
    """

    def __init__(self, model: SOLOv2, description: Description):
        super().__init__(model, description)
        self.register_buffer("strides", model.strides())
        self.outputs = ("scores", "labels", "masks")
        if description.postprocessing == "outside":
            self.outputs = ("category", "kernels", "mask_features")
        elif model.postprocess.nms != "matrix":
            raise ValueError(
                f"the {model.postprocess.nms} NMS of this model repeats until nothing changes, which no exported graph "
                "can: leave it outside, --postprocessing outside"
            )

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names."""
        outputs = self.model.forward_heads(self.batch(images, sizes))
        if self.description.postprocessing == "outside":
            return outputs.flat_category(), outputs.flat_kernels(), outputs.mask_features
        parts = zip(peaks(outputs), outputs.flat_kernels(), outputs.mask_features, strict=True)
        scores, labels, masks = zip(*[self.one_image(*part) for part in parts], strict=True)
        return torch.stack(scores), torch.stack(labels), torch.stack(masks)

    def one_image(self, prob_kp: Tensor, kernels_dp: Tensor, features_dhw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores `[n]`, labels `[n]` and mask probabilities `[n, h / 4, w / 4]` of one image, best first."""
        rule, cells = self.model.postprocess, prob_kp.shape[1]
        scores, best = prob_kp.flatten().topk(min(rule.pre_nms, prob_kp.numel()))
        likely = scores > rule.score_threshold
        prob = (kernels_dp[:, best % cells].T @ features_dhw.flatten(1)).sigmoid()
        inside = (prob > rule.mask_threshold).to(prob.dtype)
        area = inside.sum(1)
        likely = likely & (area > self.strides[best % cells])
        scores = torch.where(likely, scores * ((prob * inside).sum(1) / area.clamp(min=1)), 0)
        scores, order = scores.topk(len(scores))
        labels = (best // cells)[order]
        scores = scores * self.decay(inside[order], area[order], labels)
        scores = torch.where(scores >= rule.update_threshold, scores, 0)
        scores, kept = scores.topk(min(rule.max_detections, len(scores)))
        return scores, labels[kept], prob[order][kept].unflatten(1, features_dhw.shape[1:])

    def decay(self, inside_np: Tensor, area: Tensor, labels: Tensor) -> Tensor:
        """The factors `[n]` of `detkit.pointseg.nms.matrix_nms`."""
        rule, common = self.model.postprocess, inside_np @ inside_np.T
        iou = common / (area[:, None] + area - common).clamp(min=1)
        overlap = torch.where(labels[:, None] == labels, iou, 0).triu(1)
        most = overlap.amax(0)[:, None]
        if rule.kernel == "gaussian":
            return torch.exp(rule.sigma * (most**2 - overlap**2)).amin(0)
        return torch.where(overlap < 1, (1 - overlap) / (1 - most), 0).amin(0)


class MatcherGraph(Graph):
    """CATs and CATs++: the flow on the target, in cells, and its confidence."""

    inputs = ("source", "target")

    def __init__(self, model: CATs | CATsPlusPlus, description: Description):
        super().__init__(model, description)
        raw = description.postprocessing == "outside"
        self.outputs = ("correlation",) if raw else ("flow", "confidence")

    def forward(self, source: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """What `outputs` names."""
        correlation = self.model.correlation(self.normalized(source), self.normalized(target))
        if self.description.postprocessing == "outside":
            return (correlation,)
        flow = self.model.flow_of(correlation)
        return flow.vectors, flow.weights
