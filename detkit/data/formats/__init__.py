"""Datasets of detection in the formats that people have: COCO, YOLO, Pascal VOC, LabelMe, CVAT."""

from detkit.data.formats.find import FORMATS, find_dataset
from detkit.data.formats.found import FoundDataset, Part, Problem, Problems
from detkit.data.formats.parts import write_parts

__all__ = ["FORMATS", "FoundDataset", "Part", "Problem", "Problems", "find_dataset", "write_parts"]
