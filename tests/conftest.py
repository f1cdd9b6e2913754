"""Helpers that tests import by name live beside the tests that use them."""

import sys
from pathlib import Path

import torch

for folder in ("vidt", "correspondence"):
    sys.path.insert(0, str(Path(__file__).parent / folder))
torch.set_num_threads(1)  # the tests are small; several threads only wait for each other
