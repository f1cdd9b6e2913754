"""Follow an image, or an image with a clicked point, through the code: the files that it passes, in order.

    python tools/walk.py image
    python tools/walk.py point

Trains a tiny SOLOv2 for two steps, predicts with it as `detkit predict` does, and lists each file of detkit with the
first function in it that ran. With PYTHONPATH set to another checkout it follows the code there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from detkit.cli import main as detkit

MODEL = dict(
    type="SOLOv2",
    backbone=dict(type="FPN", body=dict(type="ResNet", depth=18), out_channels=32),
    instance_channels=32,
    instance_convs=1,
    kernel_channels=16,
    mask_channels=16,
    input_rule=dict(shortest=96, longest=96),
)
CONFIG = dict(
    model=MODEL,
    data=dict(train=dict(type="SyntheticScenes", length=4, size=96), batch_size=2, workers=0),
    train=dict(epochs=1, draw_samples=0, tensorboard=False, device="cpu"),
)


def quietly(*arguments: str) -> None:
    """Run a `detkit` command without its output."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = detkit(list(arguments))
    if code:
        raise SystemExit(f"detkit {' '.join(arguments)} ended with exit code {code}")


def prepare(folder: Path) -> None:
    """A checkpoint, an image and a file with one point in `folder`."""
    (folder / "config.py").write_text(f"config = {CONFIG!r}\n", encoding="utf-8")
    quietly("train", str(folder / "config.py"), "--out", str(folder / "run"))
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    content = dict(
        images=[dict(id=1, file_name="photo.png", width=96, height=96)],
        annotations=[dict(id=1, image_id=1, category_id=1, point=[40, 50])],
        categories=[dict(id=1, name="disk")],
    )
    (folder / "points.json").write_text(json.dumps(content), encoding="utf-8")


def follow(package: Path, arguments: list[str]) -> dict[str, str]:
    """{file: first function in it that ran} of a command, in the order of these calls."""
    visited: dict[str, str] = {}

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(package)) and not frame.f_code.co_name.startswith("<"):
            visited.setdefault(str(Path(name).relative_to(package.parent)), frame.f_code.co_qualname)

    sys.setprofile(note)
    try:
        quietly(*arguments)
    finally:
        sys.setprofile(None)
    return visited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["image", "point"])
    what = parser.parse_args().what
    package = Path(sys.modules["detkit"].__file__ or "").resolve().parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(folder)
        command = ["predict", str(folder / "run" / "last.safetensors"), str(folder / "photo.png"), "--out"]
        command += [str(folder / "drawn"), "--device", "cpu"]
        command += ["--points", str(folder / "points.json")] if what == "point" else []
        visited = follow(package, command)
    for number, (file, function) in enumerate(visited.items(), 1):
        print(f"{number:3} {file:45} {function}")
    print(f"{len(visited)} files in {len({Path(file).parent for file in visited})} folders")


if __name__ == "__main__":
    main()
