"""Datasets of detection in the formats that people have: COCO, YOLO, Pascal VOC, LabelMe, CVAT."""

from detkit.data.formats.find import FORMATS, find_dataset
from detkit.data.formats.found import FoundDataset, Part, Problem, Problems
from detkit.data.formats.parts import write_parts
from detkit.data.formats.write import write_dataset

__all__ = ["FORMATS", "FoundDataset", "Part", "Problem", "Problems", "find_dataset", "write_dataset", "write_parts"]
