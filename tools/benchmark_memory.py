"""Memory of a training on a CPU, at git revisions and now: how it grows with the steps, or what many objects need.

    python tools/benchmark_memory.py growth [REVISION ...] [--steps 1000] [--plot memory.png]
    python tools/benchmark_memory.py objects [REVISION ...] [--objects 375 500] [--steps 5]

Trains finetune_cpu_masks (masks of ViDT+) on generated scenes in files, from random weights, each run in a process of
its own with one thread. Memory is what that process holds resident.

growth: images of many sizes, with 2 to 20 objects. The table has the most memory of the ten steps up to some steps, how
much it grew from step 50 to the last, and the CPU time of a step.
objects: the peak for 8 images of 256 x 256 pixels with so many objects each, small ones that overlap.

Linux only. 1000 steps take about half an hour of one core at the batch size of 8; `--set data.batch_size=2` is faster.
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

import numpy as np
from compare_losses import ROOT, checked_out
from PIL import Image, ImageDraw

# Runs at any revision, also where there is no such hook.
HOOK = """
import resource
from detkit.engine.hook import Hook
from detkit.registry import register

@register
class MemoryLog(Hook):
    def before_train(self, runner):
        self.file = open(runner.out / "memory.csv", "w", buffering=1)

    def after_step(self, runner):
        used = resource.getrusage(resource.RUSAGE_SELF)
        pages = int(open("/proc/self/statm").read().split()[1])
        row = runner.step, pages * resource.getpagesize() / 2**20, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024
        print(*row, sep=",", file=self.file)
"""
SHOWN = (10, 50, 100, 200, 400, 600, 800, 1000)
GROWTH_SIDES, GROWTH_OBJECTS = (200, 420), (2, 21)
MANY_SIZES = dict(
    type="DetrAugment",
    shortest=[192, 208, 224, 240, 256, 272, 288],
    longest=384,
    crop_resize=[224, 256, 320],
    crop_size=[160, 256],
)


# Data ---------------------------------------------------------------------------------------------------------------


def draw_scene(rng: np.random.Generator, size: tuple[int, int], objects: int) -> tuple[Image.Image, list[dict]]:
    """An image of `size` (w, h) with ellipses of 4 % to 15 % of its side on noise, and their COCO annotations."""
    width, height = size
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    draw, annotations = ImageDraw.Draw(image), []
    turn = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    for _ in range(objects):
        radius = rng.uniform(0.02, 0.075, 2) * min(size)
        centre = rng.uniform(radius, np.array(size) - radius)
        outline = (centre + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)).round(1)
        category = int(rng.integers(1, 4))
        draw.polygon([tuple(corner) for corner in outline], fill=tuple(80 * (category == i) + 120 for i in (1, 2, 3)))
        low, high = outline.min(0), outline.max(0)
        box, polygon = [*low.tolist(), *(high - low).tolist()], outline.ravel().tolist()
        annotations.append({"category_id": category, "bbox": box, "segmentation": [polygon], "iscrowd": 0})
    return image, annotations


def write_scenes(folder: Path, number: int, sides: tuple[int, int], objects: tuple[int, int]) -> None:
    """Scenes as files: `images` and `scenes.json`; sides and numbers of objects are drawn below the second number."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    content: dict[str, list] = {"images": [], "annotations": [], "categories": []}
    content["categories"] = [{"id": i, "name": name} for i, name in enumerate(("red", "green", "blue"), 1)]
    for image_id in range(1, number + 1):
        width, height = rng.integers(*sides, 2).tolist()
        image, annotations = draw_scene(rng, (width, height), int(rng.integers(*objects)))
        name = f"{image_id:04}.png"
        image.save(folder / "images" / name)
        content["images"].append({"id": image_id, "file_name": name, "width": width, "height": height})
        for annotation in annotations:
            own = {"id": len(content["annotations"]) + 1, "image_id": image_id, "area": 1}
            content["annotations"].append({**own, **annotation})
    (folder / "scenes.json").write_text(json.dumps(content))


# Runs ---------------------------------------------------------------------------------------------------------------


def train(tree: Path, scenes: Path, out: Path, steps: int, settings: list[str]) -> np.ndarray:
    """Rows of a training with the code in `tree`: step, resident MB, CPU seconds, peak MB."""
    hook, config = out.with_name(f"{out.name}_hook.py"), out.with_name(f"{out.name}_config.py")
    hook.write_text(HOOK)
    files = dict(annotation_file=str(scenes / "scenes.json"), image_folder=str(scenes / "images"))
    never = dict.fromkeys(("epochs", "checkpoint_epochs", "eval_every"), 100_000)
    options = dict(never, max_steps=steps, draw_samples=0, tensorboard=False)
    config.write_text(
        f"import sys\nsys.path.insert(0, {str(tree / 'configs')!r})\n"
        "from finetune_cpu_masks import MASKS, config as base\n"
        f"files, options = {files!r}, {options!r}\n"
        "config = dict(base, imports=[" + repr(str(hook)) + "], hooks=[dict(type='MemoryLog')],\n"
        "    data=dict(base['data'], train=dict(MASKS, **files), val=None, workers=0),\n"
        "    train={**base['train'], **options})\n"
    )
    command = [sys.executable, str(tree / "tools" / "train.py"), str(config), "--out", str(out)]
    command += ["--set", *settings] if settings else []
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tree, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"training in {tree} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return np.loadtxt(out / "memory.csv", delimiter=",", ndmin=2)


@contextlib.contextmanager
def trees(revisions: list[str], folder: Path) -> Iterator[dict[str, Path]]:
    """The folders of revisions, and of the working tree under the name "now"."""
    with contextlib.ExitStack() as stack:
        found = {r: stack.enter_context(checked_out(r, folder / f"tree_{i}")) for i, r in enumerate(revisions)}
        yield {**found, "now": ROOT}


def growth(options: argparse.Namespace, folder: Path) -> None:
    write_scenes(folder / "scenes", 200, GROWTH_SIDES, GROWTH_OBJECTS)
    shown = [step for step in SHOWN if step < options.steps] + [options.steps]
    print("resident MB after step " + "".join(f"{step:>7}" for step in shown) + "  from step 50  CPU ms of a step")
    settings, curves = [f"data.transforms=[{MANY_SIZES}]", *options.set], {}
    with trees(options.revisions, folder) as sides:
        for name, tree in sides.items():
            rows = train(tree, folder / "scenes", folder / f"run_{len(curves)}", options.steps, settings)
            curves[name] = rows[:, 1]
            values = [resident(rows, step) for step in shown]
            grown = values[-1] / resident(rows, min(50, options.steps)) - 1
            cpu = 1000 * (rows[-1, 2] - rows[9, 2]) / max(1, len(rows) - 10)
            cells = "".join(f"{value:7.0f}" for value in values)
            print(f"{name:22.22} {cells}{grown:+14.1%}{cpu:18.0f}", flush=True)
    if options.plot:
        plot(curves, options.plot)


def resident(rows: np.ndarray, step: int) -> float:
    """The most MB of the ten steps up to this one: the sizes of the images vary."""
    return rows[max(0, step - 10) : step, 1].max()


def plot(curves: dict[str, np.ndarray], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="resident memory, MB")
    for name, memory in curves.items():
        axes.plot(np.arange(1, len(memory) + 1), memory, label=name)
    axes.set_ylim(0)
    axes.legend()
    figure.savefig(path, dpi=120)


def objects(options: argparse.Namespace, folder: Path) -> None:
    print(f"{'peak MB, objects an image':26}" + "".join(f"{number:>8}" for number in options.objects))
    for number in options.objects:
        write_scenes(folder / f"scenes_{number}", 16, (256, 257), (number, number + 1))
    same = ["data.transforms=[{'type': 'Resize', 'shortest': 256, 'longest': 256}]", *options.set]
    with trees(options.revisions, folder) as sides:
        for name, tree in sides.items():
            runs = {n: folder / f"run_{len(name)}_{tree.name}_{n}" for n in options.objects}
            peaks = [train(tree, folder / f"scenes_{n}", out, options.steps, same)[-1, 3] for n, out in runs.items()]
            print(f"{name:26.26}" + "".join(f"{peak:8.0f}" for peak in peaks), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for run, steps in ((growth, 1000), (objects, 5)):
        command = commands.add_parser(run.__name__)
        command.add_argument("revisions", nargs="*", help="git revisions to compare with")
        command.add_argument("--steps", type=int, default=steps, help=f"of each training (default {steps})")
        command.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="override values of the config")
        command.set_defaults(run=run)
        if run is growth:
            command.add_argument("--plot", type=Path, help="write the curves as a png")
        else:
            command.add_argument("--objects", type=int, nargs="+", default=[375, 500])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options.run(options, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
