"""Measuring what models find."""

from detkit.evaluation.coco import CocoEvaluator

__all__ = ["CocoEvaluator"]
