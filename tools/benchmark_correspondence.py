"""How long a forward pass of CATs takes and how much memory, beside the official code where a clone of it is at hand.

    git clone https://github.com/SunghwanHong/Cost-Aggregation-transformers
    python tools/benchmark_correspondence.py --official Cost-Aggregation-transformers

One pair of 256 x 256 pixels, ResNet-101, the eight layers for SPair-71k. Both sides load the same random weights in
the official layout and see the same images. Each measurement is a process of its own and the sides take turns. Times
are CPU times. Memory (Linux only) is the most that a process held during its forward passes, with Python and the
libraries, and how much of it the passes added to the loaded model.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = (0, 8, 20, 21, 26, 28, 29, 30)
STATUS = Path("/proc/self/status")


# In a process of its own, the only ones that import torch -----------------------------------------------------------


def official_model(clone: Path) -> Any:
    from _official import StandIns, check_clone

    check_clone(clone, "models/cats.py", "SunghwanHong/Cost-Aggregation-transformers")
    StandIns({"torchvision": None}).install()
    sys.path.insert(0, str(clone))
    resnet = importlib.import_module("models.feature_backbones.resnet")
    build = resnet.resnet101
    resnet.resnet101 = lambda pretrained: build(pretrained=False)
    return importlib.import_module("models.cats").CATs(depth=1, hyperpixel_ids=list(LAYERS)).eval()


def write_weights(clone: Path, file: Path) -> None:
    """Random official weights; the last batch norm of each block is small, so that activations do not grow."""
    import torch

    rng = torch.Generator().manual_seed(0)
    weights = official_model(clone).state_dict()
    for name, value in weights.items():
        if value.ndim > 1:
            deviation = 0.02 if "pos_embed" in name else value[0].numel() ** -0.5
            value.copy_(deviation * torch.randn(value.shape, generator=rng))
        elif name.endswith("bn3.weight"):
            value.fill_(0.2)
    torch.save(weights, file)


def load_side(side: str, clone: Path | None, file: Path) -> Any:
    """The flow of a pair by one side."""
    import torch

    if side == "official":
        model = official_model(clone)
        model.load_state_dict(torch.load(file))
        return lambda source, target: model(target, source)
    from detkit.correspondence.cats import CATs
    from detkit.correspondence.convert import from_official
    from detkit.correspondence.features import ResNetLayers

    own = from_official(torch.load(file), LAYERS)[0] if clone else CATs(ResNetLayers(101, LAYERS)).eval()
    return own.flow


def measure(side: str, options: argparse.Namespace) -> dict[str, float]:
    """The figures of one side; its flow goes into a file."""
    import torch

    torch.set_num_threads(options.threads)
    rng = torch.Generator().manual_seed(1)
    source = torch.randn(1, 3, 256, 256, generator=rng)
    target = 0.9 * source.roll((32, -16), (2, 3)) + 0.3 * torch.randn(source.shape, generator=rng)
    with torch.inference_mode():
        flow = load_side(side, options.official, options.folder / "weights.pt")
        loaded = forget_peak()
        spent = []
        for _ in range(options.calls + 1):
            start = time.process_time()
            found = flow(source, target)
            spent.append(1000 * (time.process_time() - start))
    np.save(options.folder / f"{side}.npy", found.numpy())
    peak = megabytes("VmHWM")
    return {"CPU ms": statistics.median(spent[1:]), "peak MB": peak, "added MB": peak - loaded}


def megabytes(field: str) -> float:
    """VmRSS (memory held now) or VmHWM (the most so far) of this process; NaN where there is no such file."""
    if not STATUS.exists():
        return float("nan")
    (line,) = (line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def forget_peak() -> float:
    """Give back what loading left behind and begin the peak anew. Returns the memory held now."""
    gc.collect()
    if STATUS.exists():
        ctypes.CDLL(None).malloc_trim(0)
        STATUS.with_name("clear_refs").write_text("5")
    return megabytes("VmRSS")


# The parent -------------------------------------------------------------------------------------------------------


def run(job: str, options: argparse.Namespace) -> dict[str, float]:
    """What this script prints in a process of its own."""
    command = [sys.executable, __file__, *options.arguments, "--job", job, "--folder", str(options.folder)]
    variables = dict(os.environ, OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the process for {job} failed")
    return json.loads(done.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> None:
    sides = ["official", "detkit"] if options.official else ["detkit"]
    if options.official:
        run("weights", options)
    figures: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(options.rounds):
        for side in sides:
            figures[side].append(run(side, options))
    medians = {
        side: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for side, found in figures.items()
    }
    print(f"{'CATs, one pair':20}" + "".join(f"{side:>12}" for side in sides) + ("   ratio" if len(sides) > 1 else ""))
    for name, own in medians["detkit"].items():
        ratio = f"{medians['official'][name] / own:7.2f}x" if options.official else ""
        print(f"{name:20}" + "".join(f"{medians[side][name]:12.1f}" for side in sides) + ratio)
    if options.official:
        official, detkit = (np.load(options.folder / f"{side}.npy") for side in sides)
        error, longest = np.abs(official - detkit).max(), np.abs(official).max()
        print(f"largest difference of the flows: {error:.1e} cells (of {longest:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--official", type=Path, metavar="FOLDER", help="a clone of the official repository")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each side (default 5)")
    parser.add_argument("--calls", type=int, default=10, help="timed forward passes of a process (default 10)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", choices=["weights", "official", "detkit"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.arguments = sys.argv[1:]
    if options.job == "weights":
        write_weights(options.official, options.folder / "weights.pt")
        print("{}")
    elif options.job:
        print(json.dumps(measure(options.job, options)))
    else:
        with tempfile.TemporaryDirectory() as folder:
            options.folder = Path(folder)
            compare(options)


if __name__ == "__main__":
    main()
