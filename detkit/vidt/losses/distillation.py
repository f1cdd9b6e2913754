"""Token-matching distillation (ViDT, arXiv 2110.03921, section 3.4): the tokens of a small detector are drawn to those
of a larger one that has as many of the same width."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detkit.vidt.outputs import DistillationFeatures


def distillation_loss(student: DistillationFeatures, teacher: DistillationFeatures) -> Tensor:
    """Square root of the summed mean distances of patch tokens (each level), body and neck det tokens (each stage)."""
    sizes = [h * w for h, w in student.shapes]
    levels = zip(student.patches.split(sizes, 1), teacher.patches.split(sizes, 1), strict=True)
    stages = zip(student.stages, teacher.stages, strict=True)
    pairs = [*levels, (student.det, teacher.det), *stages]
    total = torch.stack([mean_distance(a, b) for a, b in pairs]).sum()
    return total.clamp(min=torch.finfo(total.dtype).eps).sqrt()


def mean_distance(tokens: Tensor, wanted: Tensor) -> Tensor:
    """Mean Euclidean distance of tokens `[..., c]`, in float32."""
    return torch.linalg.vector_norm(tokens.float() - wanted.detach().float(), dim=-1).mean()


def check_teacher(student: nn.Module, teacher: nn.Module) -> None:
    """DistillationFeatures are matched one by one, so teacher and student need as many of each kind, equally wide.

    Raises:
        ValueError: they have not, the teacher is no ViDT, or it wants its images normalised in another way.
    """
    if not hasattr(teacher, "tgt_proj"):
        raise ValueError(f"the teacher is a {type(teacher).__name__}: only a ViDT has tokens to match")
    wanted, given = _counts(student), _counts(teacher)
    differing = [f"{name} {given[name]}, not {wanted[name]}" for name in wanted if given[name] != wanted[name]]
    if differing:
        raise ValueError(f"the teacher's tokens do not match the student's: it has {', '.join(differing)}")


def _counts(model: nn.Module) -> dict[str, object]:
    return {
        "channels": model.tgt_proj[0].out_channels,
        "det tokens": model.backbone.num_tokens,
        "stages": len(model.decoder) + 1,
        "levels": len(model.input_proj),
        "mean and std": (tuple(model.input_rule.mean), tuple(model.input_rule.std)),
    }
