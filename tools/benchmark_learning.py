"""How well configs learn: AP against the seconds that training takes.

    python tools/benchmark_learning.py finetune_cpu --data bccd pennfudan --seconds 324 --seeds 0 1 2
    python tools/benchmark_learning.py finetune_cpu --data bccd --vary all
    python tools/benchmark_learning.py quickstart --data scenes --seconds 516 --peer yolo11n.yaml --peer-size 128

Every config is trained on every data set with every seed, from random weights unless `--set` says otherwise, for as
many whole epochs as fit into the seconds; its schedule spans them. On a CPU these are CPU seconds of one thread, and on
a GPU seconds of the clock; evaluations do not count. With `--epochs` all have the same number of steps, which compares
changes that cost no time where the machine's speed varies. `--peer` trains models of ultralytics (if you have installed
it) beside them, by its own recipe, from random weights, on the same files, and evaluates them in the same way; names in
`-seg` with masks.

With `--vary` each config is trained as it is and with one change at a time, a part of it switched off or another added:
the names of such changes (see `_variants.py`), or `all`.

Writes `table.md` and `curves.png` into the folder `--out`, and a folder for each training. A training that has a
`result.json` there is not run again, so the command may be stopped and repeated.

`--data` names `scenes` (generated: 4000 to train on, 200 to evaluate), or a folder in `--data-folder` with
`instances_train.json`, `instances_val.json` and the images in `train` and `val`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _learning import run_job
from _variants import VARIANTS


def data_of(name: str, folder: Path) -> dict[str, Any]:
    """The training and validation dataset."""
    if name == "scenes":
        scenes = dict(type="SyntheticScenes", masks=False)
        return {"train": dict(scenes, length=4000, seed=0), "val": dict(scenes, length=200, seed=1)}
    parts = {part: (folder / name / f"instances_{part}.json", folder / name / part) for part in ("train", "val")}
    for file, _ in parts.values():
        if not file.is_file():
            raise SystemExit(f"--data {name}: no file {file}; --data-folder names the folder that has {name}")
    return {
        part: dict(type="CocoDataset", annotation_file=str(file), image_folder=str(images))
        for part, (file, images) in parts.items()
    }


def jobs_of(options: argparse.Namespace) -> dict[Path, dict[str, Any]]:
    """All trainings by their folder."""
    common = {"settings": options.set, "seconds": options.seconds, "epochs": options.epochs}
    common |= {"peer_size": options.peer_size, "peer_batch": options.peer_batch}
    variants = VARIANTS if options.vary == ["all"] else options.vary
    models = [{"config": name, "peer": False, "variant": variant} for name in options.configs for variant in variants]
    models = [{"config": name, "peer": False, "variant": None} for name in options.configs] + models
    models += [{"config": name, "peer": True, "variant": None} for name in options.peer]
    jobs = {}
    for data in options.data:
        parts = data_of(data, options.data_folder)
        for model in models:
            for seed in options.seeds:
                folder = options.out / data / f"{name_of(model).replace(' ', '_')}_seed{seed}"
                jobs[folder] = {**model, "seed": seed, "data_name": data, "data": parts, **common}
    return jobs


def name_of(job: dict[str, Any]) -> str:
    """The config of a job, and the change of it."""
    return " ".join(filter(None, [Path(job["config"]).stem, job.get("variant")]))


def finish(jobs: dict[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """Run what has no result yet, each in a process of its own; all results.

    Raises:
        SystemExit: a training failed, or a result is of another training.
    """
    results = []
    for folder, job in jobs.items():
        file = folder / "result.json"
        if not file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            process = multiprocessing.get_context("spawn").Process(target=run_job, args=(job, folder), daemon=True)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(f"the training in {folder} failed; the command may be repeated")
        result = json.loads(file.read_text(encoding="utf-8"))
        if changed := [key for key, value in job.items() if result.get(key) != value]:
            raise SystemExit(
                f"{file} was made with another {', '.join(changed)}: delete {folder} or choose another --out"
            )
        results.append(result)
    return results


def groups_of(results: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """The results of all seeds by data set and config."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["data_name"], name_of(result)), []).append(result)
    return groups


def table(results: Sequence[dict[str, Any]]) -> str:
    """One line for each data set and config: means over the seeds of the last figures, and the range of AP."""
    lines = [
        "| data | config | AP (range) | AP50 | mask AP | seconds | steps | ms/step |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (data, config), group in groups_of(results).items():
        last = [result["curve"][-1] for result in group]
        ap = [figures["bbox/AP"] for figures in last]
        masks = [figures["segm/AP"] for figures in last if "segm/AP" in figures]
        cells = [
            f"{statistics.mean(ap):.3f} ({min(ap):.3f}-{max(ap):.3f})",
            f"{statistics.mean(figures['bbox/AP50'] for figures in last):.3f}",
            f"{statistics.mean(masks):.3f}" if masks else "",
            f"{statistics.mean(figures['seconds'] for figures in last):.0f}",
            f"{statistics.mean(figures['step'] for figures in last):.0f}",
            f"{1e3 * statistics.mean(result['seconds_per_step'] for result in group):.0f}",
        ]
        lines.append(f"| {data} | {config} | {' | '.join(cells)} |")
    return "\n".join(lines)


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """AP against seconds: a panel for each data set, a colour for each config, a line for each seed."""
    from matplotlib.figure import Figure

    groups = groups_of(results)
    names = list(dict.fromkeys(data for data, _ in groups))
    figure = Figure(figsize=(6 * len(names), 4.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        configs = [config for data, config in groups if data == name]
        for number, config in enumerate(configs):
            for result in groups[name, config]:
                points = [(figures["seconds"], figures["bbox/AP"]) for figures in result["curve"]]
                axes.plot(*zip(*points, strict=True), marker=".", color=f"C{number % 10}", alpha=0.7)
            axes.plot([], [], color=f"C{number % 10}", label=config)
        axes.set(title=name, xlabel="seconds of training", ylabel="box AP")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", help="names or files of configs")
    parser.add_argument("--data", nargs="+", default=["scenes"], help="(default scenes)")
    parser.add_argument("--data-folder", type=Path, default=Path("../shared/data"), help="(default ../shared/data)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0], help="(default 0)")
    parser.add_argument("--seconds", type=float, default=324, help="of one training (default 324)")
    parser.add_argument("--epochs", type=int, help="of one training, however long they take, instead of --seconds")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="(default runs/learning)")
    parser.add_argument("--set", nargs="+", default=[], metavar="PATH=VALUE", help="change values of all configs")
    known = ", ".join(VARIANTS)
    parser.add_argument("--vary", nargs="+", default=[], metavar="CHANGE", help=f"train each config also with: {known}")
    parser.add_argument("--peer", nargs="+", default=[], help="models of ultralytics such as yolo11n.yaml")
    parser.add_argument("--peer-size", type=int, default=256, help="their image size (default 256)")
    parser.add_argument("--peer-batch", type=int, default=8, help="their batch size (default 8)")
    options = parser.parse_args()
    if options.vary != ["all"] and (unknown := set(options.vary) - VARIANTS.keys()):
        raise SystemExit(f"--vary: unknown {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}, or all")
    if not options.configs and not options.peer:
        raise SystemExit("give at least one config, or a --peer")
    if options.peer and importlib.util.find_spec("ultralytics") is None:
        raise SystemExit("--peer: ultralytics is not installed; install it yourself, or leave --peer out")
    results = finish(jobs_of(options))
    (options.out / "table.md").write_text(table(results) + "\n", encoding="utf-8")
    plot(results, options.out / "curves.png")
    print(table(results))


if __name__ == "__main__":
    main()
