"""Mutated annotation files and images through training, evaluation, prediction, splitting and points.

    python tools/faults.py data --number 10000

Every case changes a small dataset at one to three places: a value in the json, its bytes, or an image file. A process
with limited memory then passes it through every door. Reported are:

    raw       an exception that `detkit` would show as a traceback, or a message of several lines
    vague     a refusal that names neither the file nor an id
    crash     the process died, or ran out of memory
    silent    annotations that vanished and were not reported
    nonsense  a sample, loss or figure that cannot be

All must be 0. What was accepted is listed by its mutations, for a look at why it is sense.
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import math
import multiprocessing
import re
import resource
import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

IMAGES, SIDE = 4, 64
CLEAN = (ValueError, OSError, ArithmeticError)  # what the command line shows in one line
HOSTILE: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3.5, -5.5, 1e8, -1e7, 1e300, math.nan, math.inf, 2**53 + 1, 2**63, 10**400),
    *("", "0", "1", "yes", "f81d4fae-7dec-11d0", "é\ud800", "x" * 300, "../../etc/passwd", "a\0b"),
    *([], [[]], {}, [48, 32], [[48, 32]], [1, 2, 3, 4, 5, 6], [[1, 2, 3, 4, 5, 1e8]], [[1, 2, 3, math.nan, 5, 6]]),
    *([True, 2, 3, 4], ["1", 2, 3, 4], [0, 0, 1e9, 1e9], [-5, -5, 10, 10], [60, 60, 30, 30], [[0, 0, 900, 9] * 2000]),
    {"size": 3, "counts": "abc"},
    {"size": [SIDE, SIDE], "counts": [2**40, SIDE * SIDE - 2**40]},
    {"size": [SIDE, SIDE], "counts": "ooooooooooo0"},
    {"size": [SIDE, SIDE], "counts": [SIDE * SIDE]},
]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300)
    parser.add_argument("--first", type=int, default=0, help="number of the first case; a case depends on it only")
    parser.add_argument("--memory", type=float, default=8, help="address space of the process in GiB")
    options = parser.parse_args(arguments)
    numbers = range(options.first, options.first + options.number)
    with tempfile.TemporaryDirectory() as folder:
        outcomes, peak = run_cases(numbers, Path(folder), options.memory)
    kinds = Counter(kind for kind, *_ in outcomes)
    bad = [o for o in outcomes if o[0] not in ("accepted", "refused")]
    for kind, number, what, text in bad[:50]:
        print(f"{kind} {number}: {what}: {text}")
    print("accepted:")
    listed = (f"{text}: {what}" for kind, _, what, text in outcomes if kind == "accepted")
    for text, count in sorted(Counter(re.sub(r"\.\d+", ".#", text) for text in listed).items()):
        print(f"  {count:5} {text}")
    print(f"{len(outcomes)} cases, peak memory {peak / 2**20:.2f} GiB: {dict(kinds)}")
    return 1 if bad else 0


def run_cases(numbers: range, folder: Path, memory: float) -> tuple[list[tuple[str, int, str, str]], int]:
    """The outcome (kind, number, mutations, text) of each case, and the peak memory of a process in KiB."""
    context = multiprocessing.get_context("fork")
    outcomes: list[tuple[str, int, str, str]] = []
    peak, left = 0, list(numbers)
    while left:
        queue: Any = context.SimpleQueue()
        process = context.Process(target=work, args=(left, folder, memory, queue))
        process.start()
        running = None
        while (message := receive(queue, process)) is not None:
            if message[0] == "start":
                running = message[1]
            else:
                peak = max(peak, message[1])
                outcomes.append(message[2])
                left.remove(message[2][1])
                running = None
        process.join()
        if left:
            if running is None:
                raise SystemExit(f"the process ended with code {process.exitcode} before any case")
            what = mutate(running, folder, folder / "crashed")
            outcomes.append(("crash", running, what, f"exit code {process.exitcode}"))
            left.remove(running)
    return outcomes, peak


def receive(queue: Any, process: Any) -> Any:
    """The next message of a process, or None when it has ended."""
    while True:
        if queue._reader.poll(0.5):
            try:
                return queue.get()
            except EOFError:
                return None
        if not process.is_alive() and not queue._reader.poll(0):
            return None


def work(numbers: list[int], folder: Path, memory: float, queue: Any) -> None:
    """Run cases in this process, whose memory is limited."""
    import torch

    torch.set_num_threads(1)
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    make_base(folder)
    model = make_model()
    for number in numbers:
        queue.put(("start", number))
        outcome = run_case(number, folder, model)
        queue.put(("done", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, outcome))


def make_base(folder: Path) -> None:
    """Write the dataset that cases change: polygons and run lengths, a crowd, points."""
    from PIL import Image

    from detkit.data.export import export_scenes
    from detkit.ops.rle import decode_mask, mask_areas

    if (folder / "base" / "train.json").is_file():
        return
    export_scenes(folder / "base", train=IMAGES, val=0, size=SIDE, min_objects=2, max_objects=3)
    path = folder / "base" / "train.json"
    content = json.loads(path.read_text())
    for number, a in enumerate(content["annotations"]):
        x, y, w, h = a["bbox"]
        a["point"] = [x + w / 2, y + h / 2]
        if number % 2:
            a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        assert decode_mask(a["segmentation"], SIDE, SIDE).any() or mask_areas([a["segmentation"]])
    content["annotations"][0]["iscrowd"] = 1
    path.write_text(json.dumps(content))
    first = sorted((folder / "base" / "images" / "train").iterdir())[0]
    Image.open(first).save(first, format="JPEG")


def make_model() -> Any:
    """A small ViDT with random weights."""
    import torch

    from detkit.data.synthetic import SyntheticScenes
    from detkit.runtime.components import build_model, import_components

    import_components()
    torch.manual_seed(0)
    backbone = dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), num_tokens=9, pos_dim=32)
    config = dict(type="ViDT", backbone=backbone, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64)
    config["input_rule"] = dict(shortest=SIDE, longest=SIDE)
    return build_model(config, SyntheticScenes(1).label_map)


def mutate(number: int, folder: Path, case: Path) -> str:
    """Write the dataset of a case; returns what was changed."""
    rng = np.random.default_rng(number)
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(folder / "base", case)
    kind = rng.choice(["json", "json", "json", "bytes", "image"])
    if kind == "image":
        files = sorted((case / "images" / "train").iterdir())
        return mutate_image(files[rng.integers(len(files))], rng)
    path = case / "train.json"
    if kind == "bytes":
        return mutate_bytes(path, rng)
    content = json.loads(path.read_text())
    what = [mutate_value(content, rng) for _ in range(rng.integers(1, 4))]
    path.write_bytes(json.dumps(content, ensure_ascii=True).encode())
    return ", ".join(what)


def mutate_value(content: Any, rng: np.random.Generator) -> str:
    """Change one place in a json."""
    parent: Any = content
    key: Any = rng.choice(["annotations", "annotations", "annotations", "images", "categories"])
    where = [str(key)]
    while isinstance(parent.get(key) if isinstance(parent, dict) else parent[key], (dict, list)) and parent[key]:
        if rng.random() < 0.1:
            break
        parent = parent[key]
        key = list(parent)[rng.integers(len(parent))] if isinstance(parent, dict) else int(rng.integers(len(parent)))
        where.append(str(key))
    if isinstance(parent, dict) and key not in parent:
        return "nothing"
    action = rng.choice(["replace", "replace", "replace", "delete", "double"])
    if action == "delete":
        del parent[key]
    elif action == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    else:
        parent[key] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
        return f"{'.'.join(where)}={str(parent[key])[:40]!r}"
    return f"{action} {'.'.join(where)}"


def mutate_bytes(path: Path, rng: np.random.Generator) -> str:
    """Change the bytes of a json."""
    data = path.read_bytes()
    action = rng.choice(["flip", "cut", "bom", "utf-16", "latin-1", "deep", "digits", "empty", "zeros"])
    at = int(rng.integers(len(data)))
    changed = {
        "flip": data[:at] + bytes([data[at] ^ (1 << int(rng.integers(8)))]) + data[at + 1 :],
        "cut": data[:at],
        "bom": b"\xef\xbb\xbf" + data,
        "utf-16": data.decode().encode("utf-16"),
        "latin-1": data.replace(b"disk", b"d\xefsk"),
        "deep": data[:-1] + b', "x": ' + b"[" * 10**5 + b"]" * 10**5 + b"}",
        "digits": data.replace(b"64", b"6" * 5000, 1),
        "empty": b"",
        "zeros": bytes(len(data)),
    }
    path.write_bytes(changed[action])
    return f"json: {action}"


def mutate_image(path: Path, rng: np.random.Generator) -> str:
    """Change an image file."""
    from PIL import Image

    data = bytearray(path.read_bytes())
    action = rng.choice(["flip", "cut", "empty", "text", "missing", "thin", "folder", "mode", "frames", "huge header"])
    if action == "flip":
        for at in rng.integers(len(data), size=rng.integers(1, 20)):
            data[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
    elif action == "cut":
        path.write_bytes(data[: rng.integers(len(data))])
    elif action in ("empty", "text"):
        path.write_bytes(b"<html>not found</html>" if action == "text" else b"")
    elif action in ("missing", "folder"):
        path.unlink()
        if action == "folder":
            path.mkdir()
    elif action == "huge header":
        path.write_bytes(b"BM" + b"\0" * 8 + b"\x36\0\0\0\x28\0\0\0" + b"\xff\xff\0\0" * 2 + b"\1\0\x18\0" + b"\0" * 24)
    else:
        size = (1, 5000) if action == "thin" else (SIDE, SIDE)
        mode = str(rng.choice(["1", "L", "P", "LA", "RGBA", "I;16"])) if action == "mode" else "RGB"
        images = [Image.new(mode, size), Image.new(mode, size)]
        images[0].save(path, format="TIFF" if action == "frames" else "PNG")
    return f"image: {action}"


class Messages(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def run_case(number: int, folder: Path, model: Any) -> tuple[str, int, str, str]:
    """Pass one case through every door."""
    case = folder / "case"
    what = mutate(number, folder, case)
    root, heard = logging.getLogger(), Messages()
    root.handlers = [heard]
    root.setLevel(logging.INFO)
    accepted, path = [], case / "train.json"
    for door in (train_and_evaluate, predict, split, points):
        heard.lines.clear()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                problem = door(case, model, heard)
        except CLEAN as error:
            text = str(error)
            named = "train.json" in text or "image" in text or "annotation" in text or str(path.parent) in text
            if "\n" in text or isinstance(error, UnicodeError):
                return "raw", number, what, f"{door.__name__}: {text}"
            if not named:
                return "vague", number, what, f"{door.__name__}: {text}"
            continue
        except MemoryError:
            return "crash", number, what, f"{door.__name__}: out of memory"
        except Exception:
            return "raw", number, what, f"{door.__name__}: {traceback.format_exc()[-600:]}"
        if problem:
            return problem[0], number, what, f"{door.__name__}: {problem[1]}"
        if door is not predict or what.startswith("image:"):  # predictions do not read the json
            accepted.append(door.__name__)
    return "accepted" if accepted else "refused", number, what, " ".join(accepted)


def train_and_evaluate(case: Path, model: Any, heard: Messages) -> tuple[str, str] | None:
    """A training step and an evaluation with both backends; what is wrong in the samples, losses and figures."""
    import torch

    from detkit.data.coco import CocoDataset
    from detkit.data.loading import train_loader
    from detkit.data.transforms import RandomFlip
    from detkit.evaluation.coco import CocoEvaluator
    from detkit.runtime.evaluate import evaluate

    dataset = CocoDataset(case / "train.json", case / "images" / "train", masks=True)
    total = len(json.loads((case / "train.json").read_bytes())["annotations"])
    counts = [int(c) for line in heard.lines for c in re.findall(r"left out (\d+) annotations", line)]
    if total != len(dataset._boxes) + dataset.crowds + sum(counts):
        return "silent", f"{total} annotations, {dataset.summary()}, {heard.lines}"
    if not len(dataset._boxes):
        raise ValueError(f"{case}: no image has an object to learn from")  # as detkit.runtime.components says
    loader = train_loader(dataset, [RandomFlip()], batch_size=min(len(dataset), IMAGES))
    for batch in loader:
        for (height, width), one in zip(batch.images.sizes, batch.annotations, strict=True):
            limits = torch.tensor([width, height, width, height])
            if not ((one.boxes >= 0) & (one.boxes <= limits)).all() or not (one.boxes[:, 2:] > one.boxes[:, :2]).all():
                return "nonsense", f"boxes {one.boxes.tolist()} in {width} x {height}"
        if (one.labels >= len(dataset.label_map)).any():
            return "nonsense", f"labels {one.labels.tolist()}"
        if all((a.labels < len(model.label_map)).all() for a in batch.annotations):
            losses = model.train()(batch)
            if not all(math.isfinite(float(loss.detach())) for loss in losses.values()):
                return "nonsense", f"losses {losses}"
    figures = []
    for backend in ("hotcoco", "pycocotools"):
        evaluator = CocoEvaluator(dataset, backend=backend)
        figures.append(evaluate(model, dataset, evaluator, progress=False))
        if not {r["image_id"] for r in evaluator.results()} <= set(dataset.image_ids):
            return "nonsense", "results carry ids of no image"
    if figures[0] != figures[1] or not all(-1 <= value <= 1 for value in figures[0].values()):
        return "nonsense", f"figures {figures}"
    return None


def predict(case: Path, model: Any, heard: Messages) -> tuple[str, str] | None:
    """Predictions for the folder of images."""
    from detkit.inference.images import Options, predict_files

    predict_files(model.eval(), [case / "images" / "train"], case / "drawn", Options(min_score=0.0))
    for record in json.loads((case / "drawn" / "predictions.json").read_text()):
        if not all(math.isfinite(v) and v >= 0 for entry in record["objects"] for v in entry["bbox"]):
            return "nonsense", f"{record}"
    return None


def split(case: Path, model: Any, heard: Messages) -> tuple[str, str] | None:
    """`detkit split-points`."""
    from detkit.data.coco_file import read_instances
    from detkit.data.points.split import split_annotations

    content = read_instances(case / "train.json")
    parts = split_annotations(content, percent=50, name=case / "train.json")
    found = len(parts.strong["annotations"]) + len(parts.truth["annotations"]) + len(parts.problems)
    return None if found == len(content["annotations"]) else ("silent", f"{found} of {len(content['annotations'])}")


def points(case: Path, model: Any, heard: Messages) -> tuple[str, str] | None:
    """`detkit check-points`."""
    from detkit.data.points.file import check_points

    report = check_points(case / "train.json")
    total = len(json.loads((case / "train.json").read_bytes())["annotations"])
    found = report.points + report.crowds + len(report.problems)
    return None if found == total else ("silent", f"{found} of {total}")
