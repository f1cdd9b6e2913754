"""The IoU of refined masks, and of the rough masks before, with the true masks; over any number of ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from detkit.registry import register


class _Record(NamedTuple):
    """One image: category id, point and IoU (rough, refined) of each object."""

    category_ids: list[int]
    points: list[list[float]]
    rough: list[float]
    refined: list[float]


def mask_ious(masks_nhw: Tensor, others_nhw: Tensor) -> Tensor:
    """Intersection over union of bool masks in pairs, float64 `[n]`; 1 where both are empty."""
    common, either = ((m.flatten(1).sum(1).double()) for m in (masks_nhw & others_nhw, masks_nhw | others_nhw))
    return (common / either).masked_fill(either == 0, 1.0)


@register
class RefineEvaluator:
    """The mean IoU of refined and of rough masks with the true masks.

    Feed it with `update`, on as many ranks as there are, then call `compute` on all of them. An image that a
    distributed sampler gave to two ranks counts once.

    Args:
        dataset: gives `label_map`: a `RefineCrops`.
    """

    def __init__(self, dataset: Any):
        label_map = dataset.label_map
        self._names = dict(zip(label_map.category_ids, map(str, label_map.names), strict=True))
        self.reset()

    def reset(self) -> None:
        """Forget all masks and figures."""
        self._records: dict[int, _Record] = {}
        self._rows: dict[str, tuple[int, float, float]] = {}

    def update(self, predictions: Sequence[Tensor], annotations: Sequence[Any]) -> None:
        """Add the refined masks `[n, h, w]` of some images; `annotations` are their `RoughMasks`.

        Raises:
            ValueError: an image without id, one that came before, or another number of masks.
        """
        for refined, known in zip(predictions, annotations, strict=True):
            if known.image_id is None or known.image_id in self._records:
                problem = "has no id" if known.image_id is None else "was evaluated before; call reset()"
                raise ValueError(f"image {known.image_id} ({known.file_name}) {problem}")
            if refined.shape != known.rough.shape:
                shapes = f"refined masks {tuple(refined.shape)} for rough masks {tuple(known.rough.shape)}"
                raise ValueError(f"image {known.image_id} ({known.file_name}): {shapes}")
            ious = (mask_ious(masks, known.true).tolist() for masks in (known.rough, refined))
            self._records[known.image_id] = _Record(known.category_ids.tolist(), known.points.tolist(), *ious)

    def compute(self) -> dict[str, float]:
        """The figures, the same on every rank; all ranks must call it.

        Returns:
            "IoU", the mean over all objects of the IoU of the refined mask with the true one, and "IoU/rough", that of
            the rough mask; 0..1, or -1 without objects.
        """
        self._records = _merge(self._records)
        by_class: dict[int, list[tuple[float, float]]] = {}
        for record in self._records.values():
            for category_id, *ious in zip(record.category_ids, record.rough, record.refined, strict=True):
                by_class.setdefault(category_id, []).append((ious[0], ious[1]))
        total = [pair for pairs in by_class.values() for pair in pairs]
        self._rows = {"all": _means(total)}
        self._rows |= {self._names.get(i, str(i)): _means(by_class[i]) for i in sorted(by_class)}
        _, rough, refined = self._rows["all"]
        return {"IoU": refined, "IoU/rough": rough}

    def results(self) -> list[dict[str, Any]]:
        """`{"image_id", "category_id", "point", "rough_iou", "iou"}` of each object, ordered by image."""
        names = ("category_id", "point", "rough_iou", "iou")
        return [
            {"image_id": image_id, **dict(zip(names, values, strict=True))}
            for image_id, record in sorted(self._records.items())
            for values in zip(*record, strict=True)
        ]

    def table(self, *, per_class: bool = False) -> str:
        """The last figures as text, in percent; "-" where there is no object."""
        rows = self._rows if per_class else {"all": self._rows["all"]}
        width = max(map(len, ("mean IoU", *rows)))
        lines = [f"{'mean IoU':{width}}{'objects':>10}{'rough':>10}{'refined':>10}"]
        for name, (number, *values) in rows.items():
            lines.append(f"{name:{width}}{number:10}" + "".join(_percent(value) for value in values))
        return "\n".join(lines)


def _means(pairs: Sequence[tuple[float, float]]) -> tuple[int, float, float]:
    if not pairs:
        return 0, -1.0, -1.0
    rough, refined = (sum(values) / len(pairs) for values in zip(*pairs, strict=True))
    return len(pairs), rough, refined


def _percent(value: float) -> str:
    return f"{'-':>10}" if value < 0 else f"{100 * value:10.1f}"


def _merge(records: dict[int, _Record]) -> dict[int, _Record]:
    """The records of all ranks, in the order of the images, so that sums do not depend on the ranks."""
    if dist.is_available() and dist.is_initialized():
        parts: list[dict[int, _Record]] = [{}] * dist.get_world_size()
        dist.all_gather_object(parts, records)
        records = {image_id: record for part in reversed(parts) for image_id, record in part.items()}
    return dict(sorted(records.items()))
