"""One training of `benchmark_learning.py`: a config of detkit, or a model of a peer library, for so many seconds."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _variants import VARIANTS

from detkit.config import apply_overrides, load_config, resolve_config
from detkit.data.export import export_dataset
from detkit.engine.hook import Hook, Run
from detkit.engine.runner import train
from detkit.registry import register
from detkit.runtime.components import build_dataset, import_components

CALIBRATION_STEPS, WARM_UP = 14, 4
EVALUATIONS = 5


def training_seconds() -> float:
    """CPU seconds of this process; on a machine with a GPU seconds of the clock."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


class Clock:
    """The seconds of a training: in all, and of each step with its data."""

    def __init__(self) -> None:
        self.seconds, self.times = 0.0, []

    def start(self, *_: object) -> None:
        """Steps begin, or go on after something that does not count."""
        self._since = training_seconds()

    def step(self, *_: object) -> None:
        """A step is over."""
        now = training_seconds()
        self.seconds += now - self._since
        self.times.append(now - self._since)
        self._since = now


@register
class LearningCurve(Hook):
    """Writes `curve.json` into the run's folder: seconds spent in training, and the figures reached after them.

    Evaluations and checkpoints do not count. `seconds` are those of `training_seconds`.
    """

    def __init__(self) -> None:
        self.clock, self.curve = Clock(), []

    def before_train(self, runner: Run) -> None:
        """Start the clock."""
        self.clock.start()

    def after_step(self, runner: Run) -> None:
        """Add the time of the step and of its data."""
        self.clock.step()

    def after_epoch(self, runner: Run) -> None:
        """Note the figures of an evaluation, and start the clock again."""
        if runner.evaluated_at == runner.step:
            self.curve.append({"seconds": self.clock.seconds, "step": runner.step, **runner.metrics})
        self.clock.start()

    def after_train(self, runner: Run) -> None:
        """Write the file."""
        content = {"seconds_per_step": float(np.median(self.clock.times[WARM_UP:])), "curve": self.curve}
        (runner.out / "curve.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def config_for(job: dict[str, Any]) -> dict[str, Any]:
    """The config of a job with its data and seed, loaded in this process, evaluated a few times."""
    config = apply_overrides(load_config(job["config"]), job["settings"])
    if job["variant"] is not None:
        config = VARIANTS[job["variant"]](config)
    masks = any(key in config["model"] for key in ("mask_vectors", "token_labels"))
    data = {part: {**job["data"][part], "masks": masks} for part in ("train", "val")}
    config = {**config, "data": {**config["data"], **data, "workers": 0}}
    config["train"] = {**config["train"], "seed": job["seed"], "tensorboard": False, "draw_samples": 0}
    if masks:
        config["evaluator"] = {"type": "CocoEvaluator", "iou_types": ["bbox", "segm"]}
    return resolve_config({**config, "hooks": [{"type": "LearningCurve"}], "imports": [__file__]})


def with_epochs(config: dict[str, Any], epochs: int) -> dict[str, Any]:
    """The config with another number of epochs; rates that drop do so after the same share of the training."""
    schedule, share = dict(config["schedule"]), epochs / config["train"]["epochs"]
    if "drop_epochs" in schedule:
        schedule["drop_epochs"] = sorted({min(max(1, round(e * share)), epochs - 1) for e in schedule["drop_epochs"]})
        if epochs == 1:
            schedule = {"type": "constant", "warmup_steps": schedule.get("warmup_steps", 0)}
    options = {"epochs": epochs, "eval_every": max(1, epochs // EVALUATIONS), "checkpoint_epochs": epochs}
    return {**config, "schedule": schedule, "train": {**config["train"], **options}}


def train_ours(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train for the epochs of the job, or for as many whole ones as fit into its seconds."""
    config = config_for(job)
    train(with_epochs(config, job["epochs"] or affordable_epochs(job, config, folder)), folder / "run")
    return json.loads((folder / "run/curve.json").read_text(encoding="utf-8"))


def affordable_epochs(job: dict[str, Any], config: dict[str, Any], folder: Path) -> int:
    """Measure a step: the whole epochs that fit into the seconds of a job."""
    short = with_epochs({**config, "data": {**config["data"], "val": None}}, CALIBRATION_STEPS)
    runner = train({**short, "train": {**short["train"], "max_steps": CALIBRATION_STEPS}}, folder / "calibration")
    epoch = (
        json.loads((folder / "calibration/curve.json").read_text(encoding="utf-8"))["seconds_per_step"]
        * runner.steps_per_epoch
    )
    if epoch > job["seconds"]:
        raise SystemExit(f"{job['config']}: one epoch takes {epoch:.0f} s, more than --seconds {job['seconds']:.0f}")
    return int(job["seconds"] / epoch)


def train_peer(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same with a model of ultralytics: its own recipe, random weights, the same files."""
    from ultralytics import YOLO

    import_components()
    options = dict(
        data=str(write_yolo(job["data"], folder / "data", with_masks(job))),
        imgsz=job["peer_size"],
        batch=job["peer_batch"],
    )
    options |= dict(device="cpu", workers=0, amp=False, pretrained=False, seed=job["seed"])
    options |= dict(project=str(folder.resolve()), exist_ok=True, val=False, plots=False, verbose=False)

    def fit(name: str, epochs: int) -> Clock:
        model, clock = YOLO(job["config"]), Clock()
        model.add_callback("on_train_epoch_start", clock.start)
        model.add_callback("on_train_batch_end", clock.step)
        model.train(name=name, epochs=epochs, **options)
        return clock

    times = fit("calibration", 1).times
    clock = fit("run", job["epochs"] or max(1, int(job["seconds"] / (float(np.median(times)) * len(times)))))
    figures = evaluate_peer(YOLO(str(folder / "run/weights/last.pt")), job, folder / "data")
    curve = [{"seconds": clock.seconds, "step": len(clock.times), **figures}]
    return {"seconds_per_step": float(np.median(clock.times)), "curve": curve}


def outline(mask_hw: np.ndarray) -> list[float]:
    """The largest outline of a mask as x, y, x, y, ... in shares of the image; a point where there is none."""
    import cv2

    outlines, _ = cv2.findContours(mask_hw.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not outlines:
        return [0.0] * 6
    corners = max(outlines, key=cv2.contourArea)[:, 0] + 0.5
    return (corners / mask_hw.shape[::-1]).ravel().tolist()


def write_yolo(data: dict[str, Any], folder: Path, masks: bool) -> Path:
    """Both parts of the data as folders of images and text files of boxes or outlines, and the file that names them."""
    names: list[str] = []
    for part in ("train", "val"):
        dataset = build_dataset({**data[part], "masks": masks}, part)
        images, labels = folder / "images" / part, folder / "labels" / part
        export_dataset(dataset, folder / f"{part}.json", images)
        labels.mkdir(parents=True, exist_ok=True)
        names = [str(name) for name in dataset.label_map.names]
        for index, image_id in enumerate(dataset.image_ids):
            image, objects = dataset[index]
            scale = objects.boxes.new_tensor([image.shape[2], image.shape[1]] * 2)
            low, high = (objects.boxes / scale).split(2, dim=1)
            rows = torch.cat([(low + high) / 2, high - low], dim=1).tolist()
            if masks:
                rows = [outline(mask) for mask in objects.masks.numpy()]
            lines = [
                f"{label} " + " ".join(map(str, row)) for label, row in zip(objects.labels.tolist(), rows, strict=True)
            ]
            (labels / f"{image_id:06d}.txt").write_text("\n".join(lines), encoding="utf-8")
    path = folder / "data.yaml"
    content = {
        "path": str(folder.resolve()),
        "train": "images/train",
        "val": "images/val",
        "names": dict(enumerate(names)),
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def with_masks(job: dict[str, Any]) -> bool:
    """Whether the peer's model predicts masks."""
    return Path(job["config"]).stem.endswith("-seg")


def evaluate_peer(model: Any, job: dict[str, Any], folder: Path) -> dict[str, float]:
    """Its figures on the validation images, by the evaluator of detkit."""
    from detkit.evaluation.coco import CocoEvaluator
    from detkit.structures import Detections

    masks = with_masks(job)
    dataset = build_dataset({**job["data"]["val"], "masks": masks}, "val")
    evaluator = CocoEvaluator(dataset, iou_types=["bbox", "segm"] if masks else ["bbox"])
    options = dict(imgsz=job["peer_size"], conf=0.001, max_det=100, device="cpu", verbose=False, retina_masks=True)
    for index, image_id in enumerate(dataset.image_ids):
        file = str(folder / "images/val" / f"{image_id:06d}.png")
        (found,) = model.predict(file, **options)
        boxes, pixels = found.boxes, None
        if masks:
            pixels = (
                torch.zeros(0, *found.orig_shape, dtype=torch.bool) if found.masks is None else found.masks.data > 0
            )
        detections = Detections(boxes.xyxy, boxes.conf, boxes.cls.long(), pixels, label_map=dataset.label_map)
        evaluator.update([detections], [dataset[index][1]])
    return {name: float(value) for name, value in evaluator.compute().items()}


def run_job(job: dict[str, Any], folder: Path) -> None:
    """Do the job in its folder and write its result as `result.json`; one thread."""
    torch.set_num_threads(1)
    result = (train_peer if job["peer"] else train_ours)(job, folder)
    (folder / "result.json").write_text(json.dumps({**job, **result}, indent=1), encoding="utf-8")
