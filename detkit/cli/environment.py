"""How the libraries below PyTorch behave, which they read from the environment once: before they are loaded."""

from __future__ import annotations

import os

# How many compiled kernels oneDNN keeps, and how many PyTorch keeps of them for itself: a kernel is made for each shape
# of its inputs and takes up to half a megabyte. By default it is 1024 of each. Images of many sizes fill that, and what
# stays between the tensors of a step breaks up the memory that the next step needs. With 128 a step on small images of
# twenty sizes takes a fifth longer, because it makes its kernels again and again; with 256 a few percent.
KERNELS = "256"
DEFAULTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": KERNELS, "LRU_CACHE_CAPACITY": KERNELS}
# Threads that wait for each other spin for a moment only, then sleep. The default of 300,000 turns makes steps many
# times slower where other programs want the processors too.
SPIN = {"GOMP_SPINCOUNT": "10000"}


def set_environment() -> None:
    """Set what the user has not set; call this before PyTorch is imported."""
    defaults = DEFAULTS if "OMP_WAIT_POLICY" in os.environ else {**DEFAULTS, **SPIN}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
