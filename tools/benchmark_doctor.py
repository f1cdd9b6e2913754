"""Time and memory of `detkit data doctor` on generated images with ten objects each.

    python tools/benchmark_doctor.py [--images 10000] [--width 640] [--height 480] [--processes 2]

Prints the seconds of the clock, the CPU seconds of all processes together (a machine that does nothing else needs about
these divided by the processes), and the most memory of the first process.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from detkit.data.doctor import examine

OBJECTS = 10
PICTURES = 200  # different ones; the doctor finds the others to be duplicates


def write_images(root: Path, count: int, width: int, height: int) -> None:
    """Write a COCO dataset of pictures with the detail of a photograph."""
    rng = np.random.default_rng(0)
    pictures = [encode_picture(rng, width, height) for _ in range(min(count, PICTURES))]
    images, annotations = [], []
    for i in range(1, count + 1):
        (root / f"{i:06d}.jpg").write_bytes(pictures[i % len(pictures)])
        images.append({"id": i, "file_name": f"{i:06d}.jpg", "width": width, "height": height})
        boxes = rng.random((OBJECTS, 4)) * [width / 2, height / 2, width / 3, height / 3] + [0, 0, 20, 20]
        for box in boxes.tolist():
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "bbox": box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "object"}]}
    (root / "all.json").write_text(json.dumps(content))


def encode_picture(rng: np.random.Generator, width: int, height: int) -> bytes:
    """Coarse coloured clouds with noise, as JPEG."""
    coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((width, height))
    pixels = (np.asarray(coarse) + rng.normal(0, 6, (height, width, 3))).clip(0, 255).astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=85)
    return data.getvalue()


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main() -> None:
    """Generate, examine, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 10000), ("width", 640), ("height", 480), ("processes", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), options.images, options.width, options.height)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.jpg")) / options.images / 1000
        clock, cpu = time.perf_counter(), cpu_seconds()
        diagnosis = examine(folder, processes=options.processes)
        clock, cpu = time.perf_counter() - clock, cpu_seconds() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{options.images} images of {options.width} x {options.height} pixels, {size:.0f} kB each")
    print(f"{clock:.1f} s by the clock, {cpu:.1f} CPU seconds, {memory:.0f} MB; {len(diagnosis.findings)} findings")


if __name__ == "__main__":
    main()
