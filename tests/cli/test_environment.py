import os
import subprocess
import sys

import pytest
from paths import ROOT

from detkit.cli.environment import DEFAULTS, set_environment
from detkit.ops.linear import ONEDNN

KERNELS_OF_MANY_SHAPES = """
import ctypes, os, sys
from detkit.cli.environment import set_environment
set_environment()
assert "torch" not in sys.modules
import torch
class Heap(ctypes.Structure):
    names = "arena free fast mapped in_mapped max fast_free used unused top"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap
def held():
    heap = libc.mallinfo2()
    return heap.used + heap.in_mapped
torch.set_num_threads(1)
weight = torch.randn(64, 64)
for rows in range(64, 70):
    torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 64), weight, None, "none", [], "")
before = held()
for rows in range(100, 400):
    torch.ops.mkldnn._linear_pointwise(torch.randn(rows, 64), weight, None, "none", [], "")
print((held() - before) / 2**20)
"""


def test_what_the_user_sets_stays(monkeypatch):
    for name in (*DEFAULTS, "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is as before after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    set_environment()
    assert os.environ["LRU_CACHE_CAPACITY"] == "7" and os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "256"
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.delenv("OMP_WAIT_POLICY")
    set_environment()
    assert os.environ["GOMP_SPINCOUNT"] == "10000"


@pytest.mark.skipif(not ONEDNN or sys.platform != "linux", reason="looks at the heap of oneDNN on Linux")
def test_the_names_are_those_that_bound_the_kernels_kept():
    """They are read before PyTorch is loaded; another version of it may read others."""

    def megabytes(kernels):
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **dict.fromkeys(DEFAULTS, str(kernels))}
        done = subprocess.run(
            [sys.executable, "-c", KERNELS_OF_MANY_SHAPES], env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return float(done.stdout)

    assert megabytes(20) < 0.3 * megabytes(1000)
