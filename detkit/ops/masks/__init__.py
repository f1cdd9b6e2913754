"""Instance masks in little memory, and what is made of them."""

from detkit.ops.masks.crops import MaskCrops
from detkit.ops.masks.regions import RegionMasks
from detkit.ops.masks.roi_align import MASKS_AT_ONCE, crop_masks
from detkit.ops.masks.stretched import BoxMasks

__all__ = ["MASKS_AT_ONCE", "BoxMasks", "MaskCrops", "RegionMasks", "crop_masks"]
