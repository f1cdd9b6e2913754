"""ViDT (arXiv 2110.03921), a backbone with [DET] tokens and an encoder-free deformable decoder, and ViDT+
(arXiv 2204.07962).

Shape letters: s stages, b images, n det tokens, c channels, h/w pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from detkit.backbones.layers import resize_mask
from detkit.modeling.base import InputRule
from detkit.modeling.prompted import PromptedModel
from detkit.ops.linear import Conv2d
from detkit.registry import register
from detkit.registry.ranges import Channels, Depth, NonNegativeFloat, Objects, OptionsOf, ShareBelowOne
from detkit.structures import Annotations, Detections, ImageBatch, LabelMap, Prompt
from detkit.vidt.decoder import DecoderLayer, HeadMlp, Memory, inverse_sigmoid
from detkit.vidt.fusion import PyramidFusion
from detkit.vidt.heads import apply_heads, class_head, input_projection, iou_head, stage_heads, vector_head
from detkit.vidt.losses.criterion import SetCriterion, pad_targets
from detkit.vidt.losses.denoising import Denoised, Denoising, NoisedObjects, split_denoised
from detkit.vidt.losses.distillation import check_teacher, distillation_loss
from detkit.vidt.losses.token_labels import TokenHead
from detkit.vidt.outputs import DistillationFeatures, Stages
from detkit.vidt.postprocess import postprocess
from detkit.vidt.prompts import answer_prompts
from detkit.vidt.proposals import DensePredictions, ProposalHead, Queries


@register
class ViDT(PromptedModel):
    """The detector: every det token becomes one prediction, which each decoder layer refines.

    Stage 0 predicts from the det tokens of the backbone, stage i from those after decoder layer i.

    Args:
        backbone: gives `DetFeatures` from images and padding mask, and has `num_channels`, `det_channels`,
            `pos_dim`.
        num_classes: classifier outputs.
        hidden_dim: channels of the decoder.
        decoder_layers: number of decoder layers; there is one stage more.
        heads, points, ffn_dim, dropout: of each decoder layer; `points` for each head and level.
        box_refine: each stage refines the boxes of the stage before, with heads of its own. Otherwise all stages share
            their heads and predict boxes relative to the reference points.
        fusion: fuse the feature maps from coarse to fine before the decoder (EPFF of ViDT+).
        mask_vectors: DCT coefficients of each predicted mask (UQR of ViDT+, 256 there); 0 predicts no masks.
        vector_hidden_dim: channels inside the head for mask vectors, which all stages share.
        iou_aware: also predict the IoU of each box with its object (ViDT+), as a further loss in training.
        token_labels: also classify the positions of the feature maps (token labeling of ViDT+), as a further loss in
            training.
        teacher: a trained detector to distil from (token-matching distillation), used in training only; for example
            `dict(type="Checkpoint", path="teacher.safetensors")`.
        distil_weight: weight of the distillation loss.
        proposals: start the det tokens at the best predictions of a dense head (see `detkit.vidt.proposals`). By
            default they start at learned reference points, as published.
        queries: with proposals, how many queries the decoder refines. Query i starts from det token i modulo their
            number, so that there may be far more queries than tokens in the backbone, where a token costs most. By
            default one for each token.
        denoising: with proposals, about how many denoising queries are learned beside the others, in training only (see
            `detkit.vidt.losses.denoising`). By default none, as published.
        criterion: loss terms, by default `SetCriterion()`.
        top_k: detections kept for an image.
        input_rule: arguments of `InputRule`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        hidden_dim: Channels = 256,
        decoder_layers: Annotated[int, Ge(0), Le(256)] = 6,
        heads: Depth = 8,
        points: Depth = 4,
        ffn_dim: Channels = 1024,
        dropout: ShareBelowOne = 0.1,
        box_refine: bool = True,
        fusion: bool = False,
        mask_vectors: Annotated[int, Ge(0), Le(16_384)] = 0,
        vector_hidden_dim: Channels = 256,
        iou_aware: bool = False,
        token_labels: bool = False,
        teacher: nn.Module | None = None,
        distil_weight: NonNegativeFloat = 4.0,
        proposals: bool = False,
        queries: Objects | None = None,
        denoising: Annotated[int, Ge(0), Le(10_000)] = 0,
        criterion: SetCriterion | None = None,
        top_k: Objects = 100,
        input_rule: Annotated[Mapping[str, Any], OptionsOf(InputRule)] | None = None,
    ):
        if hidden_dim % heads:
            raise ValueError(f"hidden_dim must be a multiple of heads, got hidden_dim {hidden_dim} and heads {heads}")
        if proposals and not box_refine:
            raise ValueError("proposals need box_refine: boxes to start from that no stage moves make no sense")
        if queries is not None and not proposals:
            raise ValueError("queries need proposals: without them there is one query for each det token")
        if denoising and not (proposals and decoder_layers):
            raise ValueError("denoising needs proposals and at least one decoder layer")
        super().__init__(LabelMap.numbered(num_classes), InputRule(**(input_rule or {})))
        self.backbone = backbone
        self.box_refine, self.top_k = box_refine, top_k
        self.queries = queries
        self.criterion = criterion or SetCriterion()
        channels = backbone.num_channels
        self.input_proj = nn.ModuleList(input_projection(Conv2d, c, hidden_dim) for c in channels)
        self.tgt_proj = input_projection(nn.Conv1d, backbone.det_channels, hidden_dim)
        self.query_pos_proj = input_projection(nn.Conv1d, backbone.pos_dim, hidden_dim)
        self.proposals = ProposalHead(hidden_dim, num_classes) if proposals else None
        self.reference_points = None if proposals else nn.Linear(hidden_dim, 2)
        if self.reference_points is not None:
            nn.init.xavier_uniform_(self.reference_points.weight)
        layer: dict[str, Any] = dict(heads=heads, points=points, ffn_dim=ffn_dim, dropout=dropout)
        self.decoder = nn.ModuleList(DecoderLayer(hidden_dim, len(channels), **layer) for _ in range(decoder_layers))
        stages, shared = decoder_layers + 1, not box_refine
        self.class_embed = stage_heads(lambda: class_head(hidden_dim, num_classes), stages, shared=shared)
        self.bbox_embed = stage_heads(lambda: HeadMlp(hidden_dim, hidden_dim, 4), stages, shared=shared)
        if not proposals:
            nn.init.constant_(self.bbox_embed[0].layers[-1].bias[2:], -2.0)
        self.fusion = PyramidFusion(hidden_dim, len(channels)) if fusion else None
        self.vector_embed = vector_head(hidden_dim, vector_hidden_dim, mask_vectors) if mask_vectors else None
        self.iou_embed = stage_heads(lambda: iou_head(hidden_dim), stages, shared=shared) if iou_aware else None
        self.token_head = TokenHead(hidden_dim, num_classes) if token_labels else None

        self.denoising = Denoising(hidden_dim, num_classes, denoising) if denoising else None
        # In a list, so that the teacher's weights belong neither to the optimizer nor to checkpoints.
        self._teacher = [] if teacher is None else [teacher.eval()]
        self.distil_weight = distil_weight
        if teacher is not None:
            check_teacher(self, teacher)

    @property
    def max_detections(self) -> int:
        """The number of queries: each finds at most one object."""
        return self.queries or self.backbone.num_tokens

    def forward_stages(self, images: ImageBatch, annotations: Sequence[Annotations] | None = None) -> Stages:
        """The predictions of all stages for normalised images.

        Args:
            images: normalised and padded.
            annotations: what is known of them, from which denoising queries are made, if the model has any.
        """
        det, det_pos, memory = self.encode(images)
        queries, dense = self.start(det, det_pos, memory)
        noised = None
        if self.denoising is not None and annotations is not None:
            noised = self.denoising.noised(pad_targets(annotations, images.sizes, det.device))
        det_of_stage, boxes = self.decode(queries, memory, noised)
        denoised = None
        if noised is not None:
            det_of_stage, boxes, tokens, cleaned = split_denoised(det_of_stage, boxes, queries.content.shape[1])
            denoised = Denoised(apply_heads(self.class_embed[1:], tokens), torch.stack(cleaned), noised)
        det_sbnc = torch.stack(det_of_stage)
        return Stages(
            apply_heads(self.class_embed, det_of_stage),
            torch.stack(boxes),
            dense,
            vectors=None if self.vector_embed is None else self.vector_embed(det_sbnc),
            ious=None if self.iou_embed is None else apply_heads(self.iou_embed, det_of_stage),
            token_logits=None if self.token_head is None else self.token_head(memory),
            features=DistillationFeatures(memory.features, memory.shapes, det, det_sbnc),
            denoised=denoised,
        )

    def forward_last(self, images: ImageBatch) -> Stages:
        """The predictions of the last stage, without those that only training uses; detections are made from these."""
        det, det_pos, memory = self.encode(images)
        queries, _ = self.start(det, det_pos, memory)
        det_of_stage, boxes = self.decode(queries, memory)
        last = det_of_stage[-1][None]
        vectors = None if self.vector_embed is None else self.vector_embed(last)
        return Stages(self.class_embed[-1](last), boxes[-1][None], vectors=vectors)

    def encode(self, images: ImageBatch) -> tuple[Tensor, Tensor, Memory]:
        """Run backbone, projections and fusion.

        Returns:
            The det tokens `[b, n, c]`, their position embeddings `[1, n, c]` and the feature maps.
        """
        maps, det, det_pos = self.maps(images)
        return det, det_pos, Memory.from_maps(maps, [resize_mask(images.mask, m.shape[2:]) for m in maps])

    def maps(self, images: ImageBatch) -> tuple[list[Tensor], Tensor, Tensor]:
        """Backbone, projections and fusion for normalised images, before the maps are joined into a `Memory`.

        Returns:
            The feature maps `[b, c, h, w]` of each level, the det tokens `[b, n, c]` and their position embeddings
            `[1, n, c]`.
        """
        found = self.backbone(images.images, images.mask)
        maps = [project(feature) for project, feature in zip(self.input_proj, found.features, strict=True)]
        if self.fusion is not None:
            maps = self.fusion(maps)
        det = self.tgt_proj(found.det.transpose(1, 2)).transpose(1, 2)
        det_pos = self.query_pos_proj(found.det_pos.transpose(1, 2)).transpose(1, 2)
        return maps, det, det_pos

    def start(self, det_bnc: Tensor, det_pos: Tensor, memory: Memory) -> tuple[Queries, DensePredictions | None]:
        """The queries that enter the decoder, and the dense predictions of the proposals, if there are any."""
        if self.proposals is not None:
            dense = self.proposals(memory)
            return self.proposals.start(dense, memory, det_bnc, det_pos, self.max_detections), dense
        assert self.reference_points is not None
        references = self.reference_points(det_pos).float().sigmoid().expand(len(det_bnc), -1, -1)
        return Queries(det_bnc, det_pos, references), None

    def decode(
        self, queries: Queries, memory: Memory, noised: NoisedObjects | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Run the decoder; the boxes of a stage are the references of the next one.

        Returns:
            The queries `[b, q, c]` and the boxes `[b, q, 4]` (cxcywh, 0..1) of each stage. From stage 1 on the queries
            of `noised` objects follow, if there are any.
        """
        tokens, boxes, mask = [], [], None
        for stage in range(len(self.decoder) + 1):
            if stage == 1 and noised is not None:
                assert self.denoising is not None and self.proposals is not None
                queries, mask = self.denoising.join(queries, noised, self.proposals)
            content, references = queries.content, queries.references
            if stage > 0:
                ratios = memory.valid_ratios.repeat(1, 1, references.shape[-1] // 2)
                scaled = references[:, :, None] * ratios[:, None]
                content = self.decoder[stage - 1](content, queries.positions, scaled, memory, mask)
            tokens.append(content)
            boxes.append(self._refine(self.bbox_embed[stage](content).float(), references))
            if self.box_refine:
                references = boxes[-1].detach()
            queries = replace(queries, content=content, references=references)
        return tokens, boxes

    @staticmethod
    def _refine(change: Tensor, references: Tensor) -> Tensor:
        """Boxes `[b, n, 4]`: reference points or boxes moved by `change` in logit space."""
        base = inverse_sigmoid(references)
        if base.shape[-1] == 2:
            base = torch.cat([base, torch.zeros_like(base)], dim=-1)
        return (change + base).sigmoid()

    def losses(
        self, images: ImageBatch, annotations: Sequence[Annotations], num_objects: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Weighted loss terms; boxes of the annotations in pixels of the unpadded `images`."""
        stages = self.forward_stages(images, annotations)
        losses = self.criterion(stages, annotations, images.sizes, num_objects)
        for teacher in self._teacher:
            with torch.no_grad():
                wanted = teacher.to(images.images.device).forward_stages(images).features
            assert stages.features is not None and wanted is not None
            losses["loss_distil"] = self.distil_weight * distillation_loss(stages.features, wanted)
        return losses

    def keep_layers(self, number: int) -> None:
        """Remove all decoder layers after the first `number`, and the heads of their stages.

        Raises:
            ValueError: there are not more than `number` layers.
        """
        if not 0 <= number < len(self.decoder):
            raise ValueError(f"cannot keep {number} of {len(self.decoder)} decoder layers and leave some out")
        self.decoder = self.decoder[:number]
        self.class_embed, self.bbox_embed = self.class_embed[: number + 1], self.bbox_embed[: number + 1]
        if self.iou_embed is not None:
            self.iou_embed = self.iou_embed[: number + 1]
        if not number:
            self.denoising = None

    def postprocess(self, stages: Stages, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """Detections in pixels of images of (h, w) `original_sizes`."""
        return postprocess(stages, original_sizes, self.label_map, self.top_k)

    def detect(self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        """The `top_k` best pairs of query and class in the last stage, best first; see `detkit.vidt.postprocess`.

        Args:
            images: normalised and padded.
            original_sizes: (h, w) of the images, in whose pixels the detections are.
        """
        return self.postprocess(self.forward_last(images), original_sizes)

    def detect_prompted(
        self, images: ImageBatch, original_sizes: Sequence[tuple[int, int]], prompt: str, prompts: Sequence[Prompt]
    ) -> list[Detections]:
        """The queries that answer prompts in pixels of the original images: see `detkit.vidt.prompts`."""
        last = self.forward_last(images)
        return [*answer_prompts(last, prompt, prompts, original_sizes, self.label_map, self.top_k)]
