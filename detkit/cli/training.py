"""Commands that train."""

from __future__ import annotations

import argparse
from pathlib import Path

from detkit.cli.common import (
    add_config,
    add_device,
    add_import,
    add_print_config,
    add_set,
    complete_config,
    default_out,
    local_path,
)
from detkit.config import apply_overrides, format_config, load_config, resolve_config


def train_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit train`."""
    source = parser.add_argument(
        "config", metavar="SRC", help="a folder of images, a data.yaml or a json; or a config: file or name"
    )
    source.completer = complete_config  # type: ignore[attr-defined]
    add_set(parser)
    parser.add_argument("--data", metavar="SRC", help="with a config: train on this folder, data.yaml or json")
    parser.add_argument("--format", help="of the data, where it is in doubt: coco, yolo, voc, labelme, cvat")
    parser.add_argument("--minutes", type=float, help="train about so long; the schedule spans that time")
    parser.add_argument("--freeze", choices=["backbone"], help="leave the weights of the backbone as they are")
    parser.add_argument("--out", type=local_path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out where it stopped")
    add_print_config(parser)


def train(options: argparse.Namespace) -> int:
    """Train on a folder of images, or as a config says (on several GPUs: start with torchrun)."""
    if options.print_config:
        if Path(options.config).is_dir() or options.data:
            raise ValueError("--print-config is for a config alone; a run on data has its config as config.py")
        print(format_config(resolve_config(apply_overrides(load_config(options.config), options.set))), end="")
        return 0
    from detkit.pipelines.finetune.program import train as run

    names = ("data", "out", "set", "resume", "format", "minutes", "freeze")
    runner = run(options.config, **{name: getattr(options, name) for name in names})
    return 130 if runner.interrupted else 0


def replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit replay`."""
    parser.add_argument("batch", metavar="BATCH.pt", help="nonfinite_batch_step_N.pt, which a stopped run has written")
    parser.add_argument(
        "source", metavar="RUN", help="the run's folder (newest weights), a .safetensors checkpoint or a config"
    )
    add_import(parser)
    add_device(parser)


def replay(options: argparse.Namespace) -> int:
    """Run a saved bad batch again and tell where its values stop being finite; exit code 1 if they do."""
    from detkit.engine.guard import load_batches
    from detkit.engine.replay import load_for_replay, replay_batch
    from detkit.runtime.processes import choose_device

    batches, saved = load_batches(options.batch)
    model, config = load_for_replay(options.source, choose_device(options.device))
    terms = ", ".join(f"{name} {value:.4g}" for name, value in saved["values"].items())
    print(f"in the run, at step {saved['step']}: {terms}")
    results = []
    for number, batch in enumerate(batches, 1):
        results.append(replay_batch(model, batch, precision=config["train"]["precision"]))
        print(f"batch {number} of {len(batches)}, images {results[-1].image_ids}:", *results[-1].lines(), sep="\n")
    if all(result.is_finite for result in results):
        print("all values are finite: the run's weights were others, or its random numbers (dropout) matter")
        return 0
    return 1


def ablate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit ablate`."""
    add_config(parser)
    parser.add_argument("--out", type=local_path, help="folder of the ladder (default: runs/CONFIG_NAME)")


def ablate(options: argparse.Namespace) -> None:
    """Train the ladder of ViDT+ components from a ViDT config, one run a row; repeat it to resume."""
    from detkit.studies.ablation import run_ladder

    out = options.out or default_out(options.config)
    run_ladder(apply_overrides(load_config(options.config), options.set), out)
    print((out / "table.md").read_text(), end="")


def program_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `detkit wssis` and `detkit match` share."""
    add_config(parser)
    parser.add_argument("--out", type=local_path, help="folder of all stages (default: runs/CONFIG_NAME)")
    parser.add_argument("--processes", type=int, default=1, help="of each training, one for each GPU (default 1)")
    add_print_config(parser)


def wssis(options: argparse.Namespace) -> None:
    """Learn instance segmentation from a few masks and many points, in stages; repeat it to resume."""
    from detkit.pipelines.wssis.config import complete, override
    from detkit.pipelines.wssis.program import run_wssis

    out = options.out or default_out(options.config)
    config = override(load_config(options.config), options.set)
    if options.print_config:
        print(format_config(complete(config)), end="")
        return
    print(run_wssis(config, out, processes=options.processes).read_text(), end="")


def match(options: argparse.Namespace) -> None:
    """Learn to match images from few labelled pairs and many unlabelled ones, in rounds; repeat it to resume."""
    from detkit.pipelines.matchme.config import complete, override
    from detkit.pipelines.matchme.program import run_rounds

    out = options.out or default_out(options.config)
    config = override(load_config(options.config), options.set)
    if options.print_config:
        print(format_config(complete(config)), end="")
        return
    print(run_rounds(config, out, processes=options.processes).read_text(), end="")
