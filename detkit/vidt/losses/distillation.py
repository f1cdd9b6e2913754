"""Token-matching distillation (ViDT, arXiv 2110.03921, section 3.4): the features of a small detector learn to equal
those of a larger one. Both have equally many det tokens, stages and levels, and equally many channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detkit.vidt.outputs import DistillationFeatures


def distillation_loss(student: DistillationFeatures, teacher: DistillationFeatures) -> Tensor:
    """The square root of a sum of mean distances between features of student and teacher.

    The sum is over the feature maps (each level), the det tokens that enter the decoder, and those of each stage.
    """
    sizes = [h * w for h, w in student.shapes]
    levels = zip(student.patches.split(sizes, 1), teacher.patches.split(sizes, 1), strict=True)
    stages = zip(student.stages, teacher.stages, strict=True)
    pairs = [*levels, (student.det, teacher.det), *stages]
    total = torch.stack([mean_distance(a, b) for a, b in pairs]).sum()
    return total.clamp(min=torch.finfo(total.dtype).eps).sqrt()


def mean_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean Euclidean distance of features `[b, n, c]`, in float32; the teacher gets no gradient.

    For images with few positions a model with proposals has fewer det tokens; then the first ones are compared.
    """
    n = min(student.shape[1], teacher.shape[1])
    return torch.linalg.vector_norm(student[:, :n].float() - teacher[:, :n].detach().float(), dim=-1).mean()


def check_teacher(student: nn.Module, teacher: nn.Module) -> None:
    """Check that the features of student and teacher can be compared one by one.

    Raises:
        ValueError: their numbers or channels differ, the teacher is no ViDT, or its images are normalised otherwise.
    """
    if not hasattr(teacher, "tgt_proj"):
        raise ValueError(f"the teacher is a {type(teacher).__name__}: only a ViDT can be distilled from")
    wanted, given = _counts(student), _counts(teacher)
    differing = [f"{name} {given[name]}, not {wanted[name]}" for name in wanted if given[name] != wanted[name]]
    if differing:
        raise ValueError(f"the teacher does not fit the student: it has {', '.join(differing)}")


def _counts(model: nn.Module) -> dict[str, object]:
    return {
        "channels": model.tgt_proj[0].out_channels,
        "det tokens": model.backbone.num_tokens,
        "stages": len(model.decoder) + 1,
        "levels": len(model.input_proj),
        "mean and std": (tuple(model.input_rule.mean), tuple(model.input_rule.std)),
    }
