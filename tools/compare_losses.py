"""Show that a change changes no number: short trainings at a git revision and in the working tree, compared bit by bit.

    python tools/compare_losses.py REVISION [--steps 20] [--only NAME ...]

Trains the models below on generated data, once with the code of REVISION and once with that of the working tree, with
one seed and one thread, and compares the losses, gradient norms and learning rate of every step, the validation figures
and every tensor of the last weights. Exit code 1 if anything differs. Takes some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
SPEED = {"seconds_per_step", "images_per_second", "data_wait", "memory_gib", "seconds_left", "seconds"}
SWIN = dict(type="Swin", embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 2, 4, 8], num_tokens=20, pos_dim=32)
SCENES = dict(train=dict(type="SyntheticScenes", length=80), val=dict(type="SyntheticScenes", length=10, seed=9))
MASKS = {name: dict(scenes, masks=True) for name, scenes in SCENES.items()}
PAIRS = dict(train=dict(type="SyntheticPairs", length=80), val=dict(type="SyntheticPairs", length=10, seed=9))
INPUT = dict(shortest=96, longest=128)
AUGMENT = [dict(type="DetrAugment", shortest=[80, 96], longest=128, crop_resize=[96], crop_size=[64, 96])]
MODELS = {
    "vidt": (dict(type="ViDT", backbone=SWIN, hidden_dim=64, decoder_layers=2, input_rule=INPUT), SCENES, ["bbox"]),
    "vidt_plus": (
        dict(
            type="ViDT",
            backbone=SWIN,
            hidden_dim=64,
            decoder_layers=2,
            fusion=True,
            mask_vectors=64,
            iou_aware=True,
            token_labels=True,
            proposals=True,
            input_rule=INPUT,
        ),
        MASKS,
        ["bbox", "segm"],
    ),
    "vidt_without_neck": (dict(type="ViDTWithoutNeck", backbone=SWIN, input_rule=INPUT), SCENES, ["bbox"]),
    "solov2": (
        dict(
            type="SOLOv2",
            backbone=dict(type="FPN", body=dict(type="ResNet", depth=18), out_channels=64),
            instance_channels=64,
            instance_convs=2,
            kernel_channels=64,
            mask_channels=64,
            input_rule=INPUT,
        ),
        MASKS,
        ["segm"],
    ),
    "cats": (
        dict(type="CATs", backbone=dict(type="ResNetLayers", depth=50, layers=[3, 7, 13]), side=64, grid=4, heads=4),
        PAIRS,
        None,
    ),
}


def config_of(name: str, steps: int) -> dict:
    """The config of one of MODELS."""
    model, data, iou_types = MODELS[name]
    evaluator = dict(type="PCKEvaluator") if iou_types is None else dict(type="CocoEvaluator", iou_types=iou_types)
    transforms = [] if iou_types is None else AUGMENT
    train = dict(epochs=100, max_steps=steps, log_every=1, ema=0.9, seed=3, device="cpu", tensorboard=False)
    return dict(
        model=model,
        data=dict(**data, transforms=transforms, batch_size=4, workers=0),
        optimizer=dict(lr=1e-3),
        train=dict(train, draw_samples=0),
        evaluator=evaluator,
    )


@contextlib.contextmanager
def checked_out(revision: str, folder: Path) -> Iterator[Path]:
    """The files of a git revision, in `folder / "revision"` for as long as they are needed."""
    tree, git = folder / "revision", ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(tree), revision], check=True)
    try:
        yield tree
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def run_training(tree: Path, config: Path, out: Path) -> float:
    """Train with the code in `tree`, with one thread and an environment without what the user has set.

    Returns:
        The CPU seconds that it took.
    """
    command = [sys.executable, str(tree / "tools" / "train.py"), str(config), "--out", str(out)]
    environment = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PATH": ""}
    log = out.with_suffix(".log")
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, cwd=tree, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"training in {tree} failed:\n{log.read_text()[-4000:]}")
    return usage.ru_utime + usage.ru_stime


def train(tree: Path, config: Path, out: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """The rows of a training with the code in `tree`, without its speed, and its last weights."""
    run_training(tree, config, out)
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k not in SPEED} for line in lines]
    return rows, load_file(out / "last.safetensors")


def differences(first: tuple, second: tuple) -> list[str]:
    """What differs between two trainings."""
    found = [f"row {one} and {two}" for one, two in zip(first[0], second[0], strict=False) if one != two]
    if len(first[0]) != len(second[0]):
        found.append(f"{len(first[0])} and {len(second[0])} rows")
    names = first[1].keys() | second[1].keys()
    same = {n for n in first[1].keys() & second[1].keys() if torch.equal(first[1][n], second[1][n])}
    return found + [f"tensor {name}" for name in sorted(names - same)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", help="git revision to compare with, such as HEAD~1")
    parser.add_argument("--steps", type=int, default=20, help="of each training (default 20)")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), help="(default all)")
    options = parser.parse_args()
    changed = False
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with checked_out(options.revision, folder) as other:
            for name in options.only:
                config = folder / f"{name}.py"
                config.write_text(f"config = {config_of(name, options.steps)!r}\n", encoding="utf-8")
                before, now = (train(tree, config, folder / f"{name}_{tree.name}") for tree in (other, ROOT))
                found = differences(before, now)
                changed |= bool(found)
                rows = f"{len(now[0])} rows, {len(now[1])} tensors"
                print(f"{name}: {rows}: " + (f"{len(found)} differences: {found[:3]}" if found else "bit-equal"))
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
