"""Kills at any moment: `python tools/faults.py kills [--number 100] [--seed 0] [--only NAME ...]`.

Runs each program below once undisturbed. Then NUMBER times, in turn: starts one anew, kills it by SIGKILL at a moment
drawn uniformly over its whole life (start-up, first checkpoint, evaluation, drawing and end included), and repeats the
same command until it is done; every third time it kills the repetition too. Lives are measured in CPU time of the
program's main process, so that a busy machine does not move the moments. The weights must then be bit-equal to
those of the undisturbed program, and its rows and figures equal but for speed and memory. Prints what each kill hit;
exit code 1 if anything differs.

    plain, workers, ema, ema_workers    a training of ViDT: 0 or 2 data workers, without or with a moving average
    wssis, match                        all stages of both programs
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import math
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from processes import run_process, wait_for  # noqa: E402

from detkit.cli import main as detkit  # noqa: E402
from detkit.config import format_config  # noqa: E402
from detkit.runtime.components import import_components  # noqa: E402

SPEED = {"seconds_per_step", "images_per_second", "data_wait", "memory_gib", "seconds_left", "seconds"}
SWIN = dict(type="Swin", embed_dim=16, depths=[1, 1, 1, 1], num_heads=[2, 2, 4, 4], window=4, num_tokens=4, pos_dim=16)
RUN = dict(device="cpu", tensorboard=False, draw_samples=1, log_every=2)
SCENES = dict(type="SyntheticScenes", size=48)
PAIRS = dict(type="SyntheticPairs", size=48, images=12)


def vidt(*, workers: int = 0, ema: float | None = None) -> dict[str, Any]:
    """The config of a training of three epochs of three steps; a checkpoint may come within one."""
    return dict(
        model=dict(
            type="ViDT",
            backbone=SWIN,
            hidden_dim=16,
            decoder_layers=1,
            heads=2,
            ffn_dim=16,
            input_rule=dict(shortest=48, longest=48, multiple=1),
        ),
        data=dict(
            train=dict(SCENES, length=6),
            val=dict(SCENES, length=3, seed=1),
            transforms=[dict(type="RandomFlip")],
            batch_size=2,
            workers=workers,
        ),
        train=dict(RUN, epochs=3, checkpoint_every=2, ema=ema, early_stop=9),
    )


def wssis() -> dict[str, Any]:
    """The config of all ten stages of PointWSSIS, of two steps each."""
    solo = dict(
        type="SOLOv2",
        backbone=dict(type="FPN", body=dict(SWIN, num_tokens=1), out_channels=16),
        num_grids=(6, 5, 4, 3, 2),
        scale_ranges=((1, 24), (16, 40), (32, 64), (48, 96), (64, 2048)),
        instance_channels=16,
        instance_convs=1,
        kernel_channels=16,
        mask_channels=16,
        postprocess=dict(type="SoloPostprocess", nms="mask", score_threshold=0.0),
        input_rule=dict(shortest=48, longest=48),
    )
    run = dict(model=solo, data=dict(batch_size=2, workers=0), train=dict(RUN, max_steps=2))
    return dict(
        scenes=dict(images=8, val_images=1, percent=50, options=dict(size=48, object_size=(0.3, 0.6), max_objects=2)),
        teacher=run,
        refine=dict(
            teacher_steps=(1, 2),
            crops=dict(size=32),
            model=dict(type="MaskRefiner", encoder="resnet18", width=16, size=32),
            data=dict(batch_size=4, workers=0),
            train=dict(RUN, max_steps=2),
        ),
        pseudo=dict(batch_size=2, device="cpu"),
        student=run,
        bound=True,
    )


def match() -> dict[str, Any]:
    """The config of all stages of MatchMe: two rounds of three steps, with a control and densified labels."""
    everything = dict(relative=10.0, absolute=1000.0, confidence=0.0, boxes=False, minimum=1)
    backbone = dict(type="ConvLayers", channels=[8, 8, 8])
    return dict(
        model=dict(
            type="CATs", backbone=backbone, side=48, grid=6, appearance_dim=12, heads=4, temperature=0.1, field=17
        ),
        data=dict(train=dict(PAIRS, length=8), val=dict(PAIRS, length=4, seed=1), batch_size=4, workers=0),
        train=dict(RUN, max_steps=3),
        evaluator=dict(type="PCKEvaluator", alphas=[0.1]),
        rounds=dict(
            pool=dict(type="PairImages", pairs=dict(PAIRS, length=12, seed=2)),
            pairs=8,
            rounds=2,
            min_gain=-1,
            gate=0,
            annotate=everything,
            student=dict(train=dict(max_steps=3)),
            pictures=1,
            control=True,
            densify=True,
        ),
    )


PROGRAMS: dict[str, tuple[list[str], Callable[[], dict[str, Any]]]] = {
    "plain": (["train"], vidt),
    "workers": (["train"], lambda: vidt(workers=2)),
    "ema": (["train"], lambda: vidt(ema=0.9)),
    "ema_workers": (["train"], lambda: vidt(ema=0.9, workers=2)),
    "wssis": (["wssis"], wssis),
    "match": (["match"], match),
}


def import_all() -> None:
    """Import what the programs need, so that the processes forked from this one begin at once."""
    import_components()
    for module in ("engine.runner", "pipelines.wssis.program", "pipelines.matchme.program", "visualize.curves"):
        importlib.import_module(f"detkit.{module}")
    torch.set_num_threads(1)


def start(name: str, config: Path, out: Path) -> int:
    """Start the program `name` in a process of its own; the command is the same the first time and every other."""
    (command,), _ = PROGRAMS[name]
    words = [command, str(config), "--out", str(out), *(["--resume"] if command == "train" else [])]

    def run() -> None:
        os.setpgid(0, 0)
        if code := detkit(words):
            raise SystemExit(code)

    return run_process(run, out.with_suffix(".log"))


def results(out: Path) -> dict[str, Any]:
    """Everything that a program has computed: weights, rows and figures by file, without the config and the speed."""
    found: dict[str, Any] = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name.startswith("."):
            found[name] = "left over"
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                found[name] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        elif path.name == "metrics.jsonl":
            found[name] = [without_speed(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.name == "metrics.csv":
            found[name] = [without_speed(row) for row in csv.DictReader(path.read_text().splitlines())]
        elif path.suffix == ".json" and path.name not in ("config.json", "done.json", "sources.json"):
            found[name] = json.loads(path.read_text().replace(str(out), "OUT"))
        elif path.suffix == ".png":
            found[name] = path.read_bytes()[:8]
    return found


def without_speed(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the log without what differs between two runs of the same."""
    return {key: value for key, value in row.items() if key not in SPEED}


def same(first: Any, second: Any) -> bool:
    """Whether two results are equal, tensors bit for bit."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, float) and first != first:
        return second != second
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


def differences(whole: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The files that differ. Only the end of a run counts: which older checkpoints it keeps depends on the kills."""
    names = [name for name in {**whole, **other} if "/checkpoints/" not in f"/{name}" and "pair" not in name]
    return sorted(name for name in names if not same(whole.get(name), other.get(name)))


def state_of(out: Path) -> str:
    """What the newest thing in a folder is, for the table of what was hit."""
    files = [path for path in out.rglob("*") if path.is_file()] if out.is_dir() else []
    if not files:
        return "nothing written"
    if any((path / "done.json").is_file() for path in out.iterdir()) or any(out.glob("*/begun.json")):
        begun = sorted(path.parent.name for path in out.glob("*/begun.json"))
        return f"in stage {begun[0]}" if begun else "between stages"
    if (out / "last.safetensors").is_file():
        return "after the last weights"
    if not any(out.glob("checkpoints/step_*.safetensors")):
        return "before the first checkpoint"
    return "after a checkpoint"


def kill(process: int) -> int:
    """End a process and return its exit code, negative for the signal."""
    os.kill(process, signal.SIGKILL)
    return wait_for([process])[0]


def cpu_seconds(process: int) -> float | None:
    """The CPU time of a process so far; None when it has ended."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return None if fields[0] == "Z" else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(process: int, limit: float = math.inf) -> float:
    """Wait until a process has used `limit` seconds of CPU time, or has ended; returns what it has used."""
    used = 0.0
    while used < limit and (now := cpu_seconds(process)) is not None:
        used = now
        time.sleep(0.002)
    return used


class Programs:
    """The programs, and what they give when nothing disturbs them."""

    def __init__(self, folder: Path, names: Sequence[str]):
        self.folder, self.whole, self.seconds = folder, {}, {}
        for name in names:
            self.config(name).write_text(format_config(PROGRAMS[name][1]()))
            process = start(name, self.config(name), folder / name)
            self.seconds[name] = watch(process)
            (code,) = wait_for([process], 600)
            if code:
                raise RuntimeError(f"{name} fails undisturbed: {(folder / name).with_suffix('.log').read_text()}")
            self.whole[name] = results(folder / name)

    def config(self, name: str) -> Path:
        """The config file of a program."""
        return self.folder / f"{name}.py"

    def disturb(self, name: str, out: Path, moments: Sequence[float]) -> tuple[list[str], list[str]]:
        """Kill a program at these parts of its life, and repeat it until its end.

        Returns:
            What each kill hit, and what differs at the end; its output if it does not come to an end.
        """
        hit = []
        for moment in moments:
            process = start(name, self.config(name), out)
            watch(process, moment * self.seconds[name])
            hit.append(state_of(out) if kill(process) < 0 else "after the end")
        (code,) = wait_for([start(name, self.config(name), out)], 600)
        if code:
            return hit, [f"exit code {code}: {out.with_suffix('.log').read_text()[-2000:]}"]
        return hit, differences(self.whole[name], results(out))


def main(arguments: Sequence[str]) -> int:
    """See the docstring of the file."""
    parser = argparse.ArgumentParser(prog="tools/faults.py kills", description="Kill programs at any moment.")
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    options = parser.parse_args(arguments)
    draw, hits, failed = random.Random(options.seed), Counter(), 0
    import_all()
    with tempfile.TemporaryDirectory() as folder:
        programs = Programs(Path(folder), options.only)
        for number in range(options.number):
            name = options.only[number % len(options.only)]
            moments = [draw.random() for _ in range(2 if number // len(options.only) % 3 == 2 else 1)]
            hit, differing = programs.disturb(name, Path(folder) / f"{number}_{name}", moments)
            hits.update(f"{name}: {what}" for what in hit)
            failed += bool(differing)
            where = ", ".join(f"{moment:.0%} ({what})" for moment, what in zip(moments, hit, strict=True))
            print(f"{number + 1:4} {name:12} killed at {where}: {'; '.join(differing) or 'equal'}", flush=True)
    for what, count in sorted(hits.items()):
        print(f"{count:6}  {what}")
    print(f"{options.number - failed} of {options.number} equal: weights bit for bit, rows and figures")
    return int(failed > 0)
