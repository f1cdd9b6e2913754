"""What holds for all tests; modules that several of them import are in tests/helpers."""

import torch

torch.set_num_threads(1)  # the tests are small; several threads only wait for each other
