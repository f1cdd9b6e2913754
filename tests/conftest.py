"""What holds for all tests; modules that several of them import are in tests/helpers."""

import os

import torch

# The tests are small; several threads only wait for each other.
torch.set_num_threads(int(os.environ.get("DETKIT_TEST_THREADS", 1)))
