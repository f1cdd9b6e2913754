"""CPU time of an image for the smaller detectors, beside RF-DETR of transformers where that is installed.

    python tools/benchmark_small.py [--rounds 5] [--calls 5]
    pip install transformers
    python tools/benchmark_small.py --peer

An image is a square of noise, batch 1, random weights, eval mode, from the normalised image to the predictions of the
last stage. Each measurement is a process of its own with one thread; all take turns. Prints medians of the CPU time.
With `--peer` each `vidt_small` stands beside the RF-DETR of its resolution: nano at 384, small at 512, medium at 576
pixels, built from the sizes that their authors publish. As 576 is not a multiple of 160, windows have 12 patches there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# Of each row the config, the side of the image and changes of the backbone.
OWN: dict[str, tuple[str, int, dict[str, Any]]] = {
    "finetune_cpu at 256": ("finetune_cpu", 256, {}),
    "finetune_lite at 256": ("finetune_lite", 256, {}),
    "vidt_small_384 at 384": ("vidt_small_384", 384, {}),
    "vidt_small_512 at 512": ("vidt_small_512", 512, {}),
    "vidt_small_640 at 576": ("vidt_small_640", 576, {"window": 12}),
    "vidt_small_640 at 640": ("vidt_small_640", 640, {}),
    "vidt_plus_swin_nano at 640": ("vidt_plus_swin_nano", 640, {}),
}
# The RF-DETR beside a row and the number of its decoder layers.
PEERS = {
    "vidt_small_384 at 384": ("nano", 2),
    "vidt_small_512 at 512": ("small", 3),
    "vidt_small_640 at 576": ("medium", 4),
}
MISSING = "transformers is not installed here, so there is no peer to measure: pip install transformers"


def own_forward(row: str) -> Callable[[Any], Any]:
    """The model of a row as a function of the image."""
    from detkit.config import load_config
    from detkit.structures import ImageBatch
    from detkit.studies.benchmark import build_for_benchmark

    name, size, changes = OWN[row]
    config = load_config(name)
    backbone = {**config["model"]["backbone"], **changes}
    if "model_args" in backbone:
        backbone["model_args"] = {**backbone["model_args"], "img_size": size}
    model = build_for_benchmark({**config, "model": {**config["model"], "backbone": backbone}}).eval()
    return lambda image: model.forward_last(ImageBatch.from_images([image[0]]))


def peer_forward(row: str) -> Callable[[Any], Any]:
    """RF-DETR of the resolution of a row, from its published sizes."""
    from detkit.backbones.pretrained import import_timm

    import_timm()  # torchvision, which transformers imports too, may lack operators: see there
    from transformers import RfDetrConfig, RfDetrForObjectDetection

    stages = ["stage3", "stage6", "stage9", "stage12"]
    body = dict(model_type="rf_detr_dinov2", hidden_size=384, num_attention_heads=6, num_hidden_layers=12)
    body |= dict(image_size=OWN[row][1], patch_size=16, num_windows=2, out_features=stages)
    decoder = dict(decoder_layers=PEERS[row][1], decoder_n_points=2, num_queries=300, num_labels=80)
    model = RfDetrForObjectDetection(RfDetrConfig(backbone_config=body, **decoder)).eval()
    return lambda image: model(pixel_values=image)


def measure(side: str, row: str, calls: int) -> float:
    """Median CPU milliseconds of an image in this process."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    forward = own_forward(row) if side == "detkit" else peer_forward(row)
    image, spent = torch.randn(1, 3, OWN[row][1], OWN[row][1]), []
    with torch.inference_mode():
        for _ in range(calls + 2):
            start = time.process_time()
            forward(image)
            spent.append(1000 * (time.process_time() - start))
    return statistics.median(spent[2:])


def in_a_process(side: str, row: str, calls: int) -> float:
    command = [sys.executable, __file__, "--side", side, "--only", row, "--calls", str(calls)]
    variables = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=str(ROOT))
    done = subprocess.run(command, env=variables, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"the process for {side}, {row} failed")
    return json.loads(done.stdout.splitlines()[-1])


def compare(rows: list[str], *, peer: bool, rounds: int, calls: int) -> None:
    """Measure all rows in turn and print the table."""
    jobs = [(side, row) for row in rows for side in (["detkit", "peer"] if peer and row in PEERS else ["detkit"])]
    found: dict[tuple[str, str], list[float]] = {job: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            found[job].append(in_a_process(*job, calls))
    print(f"{'CPU ms of an image, one thread':32}{'detkit':>10}{'RF-DETR':>10}{'ratio':>8}")
    for row in rows:
        own, beside = (statistics.median(found.get((side, row), [float("nan")])) for side in ("detkit", "peer"))
        more = f"{beside:10.0f}{own / beside:8.2f}  {PEERS[row][0]}" if ("peer", row) in found else f"{'-':>10}{'-':>8}"
        print(f"{row:32}{own:10.0f}{more}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="store_true", help="measure RF-DETR of transformers too")
    parser.add_argument("--only", choices=OWN, help="measure only this row")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each (default 5)")
    parser.add_argument("--calls", type=int, default=5, help="timed images of a process (default 5)")
    parser.add_argument("--side", choices=["detkit", "peer"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.only, options.calls)))
        return
    if options.peer and importlib.util.find_spec("transformers") is None:
        sys.exit(MISSING)
    rows = [options.only] if options.only else list(OWN)
    compare(rows, peer=options.peer, rounds=options.rounds, calls=options.calls)


if __name__ == "__main__":
    main()
