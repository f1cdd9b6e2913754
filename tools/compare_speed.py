"""Show that a change makes nothing slower: a training step and an evaluated image, at a git revision and now.

    python tools/compare_speed.py REVISION [--rounds 7]

Trains and evaluates a small ViDT+ with masks on generated scenes in json files, one thread. The cost of a step is the
CPU time of a run with STEPS more steps, less that of a run without them, so start-up does not count; likewise that of
an image. The two sides take turns, each in fresh processes. Prints the median of every side and of the ratios of the
turns. Takes some minutes; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from compare_losses import AUGMENT, MODELS, ROOT, checked_out, run_training

STEPS, IMAGES = 80, 200
MODEL, _, IOU_TYPES = MODELS["vidt_plus"]


def config_of(scenes: Path, steps: int, split: str) -> dict[str, Any]:
    """A training of some steps and one evaluation on a split."""
    train = dict(
        epochs=100, max_steps=steps, log_every=10, ema=0.9, seed=3, device="cpu", tensorboard=False, draw_samples=0
    )
    files = dict(type="CocoDataset", masks=True)
    data = {
        name: dict(files, annotation_file=f"{scenes}/{part}.json", image_folder=f"{scenes}/images/{part}")
        for name, part in {"train": "train", "val": split}.items()
    }
    return dict(
        model=MODEL,
        data=dict(data, transforms=AUGMENT, batch_size=4, workers=0),
        optimizer=dict(lr=1e-3),
        train=train,
        evaluator=dict(type="CocoEvaluator", iou_types=IOU_TYPES),
    )


def costs(tree: Path, folder: Path, turn: str) -> dict[str, float]:
    """CPU milliseconds of a training step and of an evaluated image, and CPU seconds of a short run."""
    runs = {"short": (4, "few"), "step": (4 + STEPS, "few"), "image": (4, "many")}
    seconds = {}
    for name, (steps, split) in runs.items():
        config = folder / f"{name}.py"
        config.write_text(f"config = {config_of(folder / 'scenes', steps, split)!r}\n", encoding="utf-8")
        seconds[name] = run_training(tree, config, folder / f"{name}_{turn}")
    step, image = ((seconds[name] - seconds["short"]) * 1000 for name in ("step", "image"))
    return {"step, ms": step / STEPS, "image, ms": image / (IMAGES - 10), "short run, s": seconds["short"]}


def export(folder: Path) -> None:
    """Write the scenes: 400 to train on, more than a run sees, and a large and a small split to evaluate."""
    from detkit.data.export import export_scenes

    for split, number in {"train": 400, "many": IMAGES, "few": 10}.items():
        export_scenes(folder / split, train=number, val=0, seed=number)
        (folder / "images").mkdir(exist_ok=True)
        (folder / split / "images" / "train").rename(folder / "images" / split)
        (folder / split / "train.json").rename(folder / f"{split}.json")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="git revision to compare with, such as HEAD~1")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side (default 7)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    measured: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(folder / "scenes")
        with checked_out(options.revision, folder) as other:
            for number in range(options.rounds):
                sides = [("before", other), ("now", ROOT)]
                for side, tree in sides[:: 1 if number % 2 else -1]:
                    measured[side].append(costs(tree, folder, f"{number}_{side}"))
                print({side: {k: round(v, 2) for k, v in m[-1].items()} for side, m in measured.items()}, flush=True)
    for what in measured["now"][0]:
        before, now = ([turn[what] for turn in measured[side]] for side in ("before", "now"))
        ratio = statistics.median(b / a for a, b in zip(before, now, strict=True))
        print(f"{what}: {statistics.median(before):.2f} -> {statistics.median(now):.2f}, {ratio - 1:+.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
