"""Dataclasses with instance masks, which they keep in little memory until somebody reads them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from torch import Tensor

from detkit.ops.masks import RegionMasks
from detkit.structures.tensors import TensorStruct


class DenseMasks:
    """The field `masks`: masks that came as `RegionMasks` are made full when they are first read."""

    def __get__(self, struct: MaskStruct | None, owner: type) -> Tensor | None:
        if struct is None:
            return None  # the field's default
        if isinstance(struct.stored_masks, RegionMasks):
            self.__set__(struct, struct.stored_masks.dense())
        return struct.stored_masks

    def __set__(self, struct: MaskStruct, masks: Tensor | RegionMasks | None) -> None:
        vars(struct)["masks"] = masks


DENSE_MASKS = DenseMasks()


class MaskStruct(TensorStruct):
    """Base of dataclasses with a field `masks: DenseMasks = DENSE_MASKS`."""

    @property
    def stored_masks(self) -> Any:
        """`masks` as they are kept: `RegionMasks` that nobody has read yet, a tensor, or None."""
        return vars(self)["masks"]

    @property
    def mask_size(self) -> tuple[int, int] | None:
        """(h, w) of the image that the masks belong to; None where there are no masks."""
        masks = self.stored_masks
        if isinstance(masks, RegionMasks):
            return masks.size
        return None if masks is None else (masks.shape[1], masks.shape[2])

    def __repr__(self) -> str:
        shown = (field.name for field in fields(self) if field.repr)  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={vars(self)[name]}' for name in shown)})"
