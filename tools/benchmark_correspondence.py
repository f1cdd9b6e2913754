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
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
from _official import StandIns, add_process_options, check_clone, measure, print_comparison, run, run_job

LAYERS = (0, 8, 20, 21, 26, 28, 29, 30)


# In a process of its own, the only ones that import torch -----------------------------------------------------------


def official_model(clone: Path) -> Any:
    check_clone(clone, "models/cats.py", "SunghwanHong/Cost-Aggregation-transformers")
    StandIns({"torchvision": None}).install()
    sys.path.insert(0, str(clone))
    resnet = importlib.import_module("models.feature_backbones.resnet")
    build = resnet.resnet101
    resnet.resnet101 = lambda pretrained: build(pretrained=False)
    return importlib.import_module("models.cats").CATs(depth=1, hyperpixel_ids=list(LAYERS)).eval()


def write_weights(options: argparse.Namespace) -> None:
    """Random official weights; the last batch norm of each block is small, so that activations do not grow."""
    import torch

    rng = torch.Generator().manual_seed(0)
    weights = official_model(options.official).state_dict()
    for name, value in weights.items():
        if value.ndim > 1:
            deviation = 0.02 if "pos_embed" in name else value[0].numel() ** -0.5
            value.copy_(deviation * torch.randn(value.shape, generator=rng))
        elif name.endswith("bn3.weight"):
            value.fill_(0.2)
    torch.save(weights, options.folder / "weights.pt")


def load_side(side: str, clone: Path | None, file: Path) -> Any:
    """The flow of a pair by one side."""
    import torch

    if side == "official":
        model = official_model(clone)
        model.load_state_dict(torch.load(file))
        return lambda source, target: model(target, source)
    from detkit.correspondence.cats import CATs
    from detkit.correspondence.convert import from_official
    from detkit.correspondence.features.maps import ResNetLayers

    own = from_official(torch.load(file), LAYERS)[0] if clone else CATs(ResNetLayers(101, LAYERS)).eval()
    return own.flow


def measure_side(options: argparse.Namespace) -> dict[str, float]:
    """The figures of one side; its flow goes into a file."""
    import torch

    torch.set_num_threads(options.threads)
    rng = torch.Generator().manual_seed(1)
    source = torch.randn(1, 3, 256, 256, generator=rng)
    target = 0.9 * source.roll((32, -16), (2, 3)) + 0.3 * torch.randn(source.shape, generator=rng)
    with torch.inference_mode():
        flow = load_side(options.job, options.official, options.folder / "weights.pt")
        figures, found = measure(lambda: flow(source, target), options.calls)
    np.save(options.folder / f"{options.job}.npy", found.numpy())
    return figures


# The parent -------------------------------------------------------------------------------------------------------


def compare(options: argparse.Namespace) -> None:
    if options.official:
        run("weights", options)
    print_comparison("CATs, one pair", options)
    if options.official:
        official, detkit = (np.load(options.folder / f"{side}.npy") for side in ("official", "detkit"))
        error, longest = np.abs(official - detkit).max(), np.abs(official).max()
        print(f"largest difference of the flows: {error:.1e} cells (of {longest:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_process_options(parser, calls=10)
    options = parser.parse_args()
    run_job(options, write_weights, measure_side, compare)


if __name__ == "__main__":
    main()
