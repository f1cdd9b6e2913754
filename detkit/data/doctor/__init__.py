"""What is wrong with a dataset, and what is in it."""

from detkit.data.doctor.examine import Diagnosis, examine
from detkit.data.doctor.page import write_page
from detkit.data.doctor.stats import statistics

__all__ = ["Diagnosis", "examine", "statistics", "write_page"]
