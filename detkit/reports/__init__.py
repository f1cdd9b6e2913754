"""Reports on detectors: what they find, what they miss, where to set the threshold; and two of them compared."""

from detkit.reports.comparing import compare
from detkit.reports.page import report

__all__ = ["compare", "report"]
