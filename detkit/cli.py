"""The `detkit` command. The files in tools/ are its subcommands as plain scripts."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detkit.config import apply_overrides, format_config, load_config, resolve_config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; errors of the user's making are printed without a traceback, with exit code 2."""
    parser = argparse.ArgumentParser(prog="detkit", description=sys.modules["detkit"].__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (add_arguments, run) in COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_arguments(command)
        command.set_defaults(function=run)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", force=True)
    try:
        return options.function(options) or 0
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError, ArithmeticError) as error:
        if os.environ.get("DETKIT_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="config file")
    _add_set(parser)


def _add_set(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="override values: a.b=value"
    )


def default_out(config_path: str) -> Path:
    """Where the run of a config goes that names no other folder."""
    return Path("runs") / Path(config_path).stem


def _train_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--out", type=Path, help="folder of the run (default: runs/CONFIG_NAME)")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out where it stopped")
    parser.add_argument("--print-config", action="store_true", help="print the resolved config and stop")


def train(options: argparse.Namespace) -> int:
    """Train a model as a config says (on several GPUs: start with torchrun)."""
    config = apply_overrides(load_config(options.config), options.set)
    if options.print_config:
        print(format_config(resolve_config(config)), end="")
        return 0
    from detkit.engine.runner import train as run

    runner = run(config, options.out or default_out(options.config), resume=options.resume)
    return 130 if runner.interrupted else 0


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a .safetensors checkpoint, or a config whose run is in --run")
    _add_set(parser)
    parser.add_argument("--run", type=Path, help="with a config: folder of its run (default: runs/CONFIG_NAME)")
    parser.add_argument("--out", type=Path, help="write the results here, as COCO json")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a checkpoint on its validation data, or on the data given with --set data.val.…"""
    from detkit.engine.components import build_evaluation
    from detkit.engine.distributed import distributed, is_main
    from detkit.engine.evaluate import evaluate as run
    from detkit.engine.weights import load_model, read_header

    checkpoint, config = _find_checkpoint(options)
    config = resolve_config(apply_overrides(config or read_header(checkpoint)["config"], options.set))
    with distributed(options.device) as device:
        model = load_model(checkpoint, device)
        dataset, evaluator = build_evaluation(config, model.label_map)
        data = config["data"]
        run(
            model,
            dataset,
            evaluator,
            batch_size=data["eval_batch_size"],
            workers=data["workers"],
            precision=config["train"]["precision"],
            skip_broken=data["skip_broken"],
        )
        if is_main():
            print(f"{checkpoint} on {len(dataset)} images")
            print(evaluator.table(per_class=True))
            if options.out:
                evaluator.save_results(options.out)
                print(f"results written to {options.out}")


def _find_checkpoint(options: argparse.Namespace) -> tuple[Path, dict[str, Any] | None]:
    if not options.checkpoint.endswith(".py"):
        return Path(options.checkpoint), None
    config = load_config(options.checkpoint)
    run = options.run or default_out(options.checkpoint)
    for name in ("best.safetensors", "last.safetensors"):
        if (run / name).is_file():
            return run / name, config
    raise ValueError(f"{run} holds no best.safetensors or last.safetensors: train the config first, or give --run")


def _predict_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="a .safetensors checkpoint")
    parser.add_argument("images", nargs="+", type=Path, help="image files or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the drawn images and predictions.json")
    parser.add_argument("--min-score", type=float, default=0.3, help="leave out what scores lower (default 0.3)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")


def predict(options: argparse.Namespace) -> None:
    """Find objects in images; write drawn images and a json."""
    from detkit.engine.distributed import choose_device
    from detkit.engine.predict import predict_files
    from detkit.engine.weights import load_model

    model = load_model(options.checkpoint, choose_device(options.device))
    summary = predict_files(model, options.images, options.out, min_score=options.min_score)
    print(f"{summary.objects} objects in {summary.images} images: {options.out}")
    if summary.broken:
        print(f"{len(summary.broken)} files could not be read: {', '.join(map(str, summary.broken))}")


def _benchmark_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--dry-run", action="store_true", help="build the model and print its parameters only")
    parser.add_argument("--size", type=int, nargs="+", default=[640], help="image side, or height and width")
    parser.add_argument("--batch", type=int, default=1, help="images of a forward pass (default 1)")
    parser.add_argument("--train-batch", type=int, default=2, help="images of a training step (default 2)")
    parser.add_argument("--repeats", type=int, default=10, help="timed repetitions; the median is printed")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--json", type=Path, help="write the figures here as well")


def benchmark(options: argparse.Namespace) -> None:
    """Measure images/s, memory, parameters and FLOPs of a config's model, with random weights."""
    from detkit.engine.benchmark import benchmark_model, build_for_benchmark, count_parameters
    from detkit.engine.distributed import choose_device

    config = apply_overrides(load_config(options.config), options.set)
    model = build_for_benchmark(config).to(choose_device(options.device))
    figures: dict[str, float] = dict(count_parameters(model))
    if not options.dry_run:
        height, width = options.size * 2 if len(options.size) == 1 else options.size
        figures |= benchmark_model(
            model,
            size=(height, width),
            batch=options.batch,
            train_batch=options.train_batch,
            repeats=options.repeats,
            precision=options.precision,
        )
    for name, value in figures.items():
        print(f"{name:32} {value:,.2f}" if isinstance(value, float) else f"{name:32} {value:,}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="an official checkpoint: file or http(s) URL")
    parser.add_argument("destination", metavar="DST", type=Path, help="the .safetensors checkpoint to write")
    parser.add_argument(
        "--cross-stages", type=int, nargs="+", default=[3], help="stages with [DET] x [PATCH] attention (default 3)"
    )
    parser.add_argument("--sha256", metavar="HEX", help="checksum that SRC must have")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")


def convert(options: argparse.Namespace) -> None:
    """Convert an official checkpoint of its authors' code."""
    from detkit.engine.convert import convert_checkpoint, describe

    arguments = dict(cross_stages=options.cross_stages, sha256=options.sha256, force=options.force)
    print(describe(convert_checkpoint(options.source, options.destination, **arguments)))
    print(f"written to {options.destination}; evaluate it:")
    print(f"  detkit evaluate {options.destination} --set data.val.annotation_file=JSON data.val.image_folder=FOLDER")


def _drop_layers_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a .safetensors checkpoint of a ViDT")
    parser.add_argument("destination", help="the smaller .safetensors checkpoint to write")
    parser.add_argument("--keep", type=int, required=True, help="decoder layers to keep, from the first")


def drop_layers(options: argparse.Namespace) -> None:
    """Write a checkpoint without its last decoder layers: faster, a little less accurate, not trained again."""
    from detkit.engine.layer_drop import drop_layers as run

    before, after = run(options.source, options.destination, keep=options.keep)
    print(f"{options.destination}: {after / 1e6:.2f} M of {before / 1e6:.2f} M parameters")


def _ablate_arguments(parser: argparse.ArgumentParser) -> None:
    _add_config(parser)
    parser.add_argument("--out", type=Path, help="folder of the ladder (default: runs/CONFIG_NAME)")


def ablate(options: argparse.Namespace) -> None:
    """Train the ladder of ViDT+ components from a ViDT config, one run a row; a stopped ladder goes on."""
    from detkit.engine.ablate import run_ladder

    out = options.out or default_out(options.config)
    run_ladder(apply_overrides(load_config(options.config), options.set), out)
    print((out / "table.md").read_text(), end="")


Command = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], "int | None"]]
COMMANDS: dict[str, Command] = {
    "train": (_train_arguments, train),
    "evaluate": (_evaluate_arguments, evaluate),
    "predict": (_predict_arguments, predict),
    "benchmark": (_benchmark_arguments, benchmark),
    "convert": (_convert_arguments, convert),
    "drop-layers": (_drop_layers_arguments, drop_layers),
    "ablate": (_ablate_arguments, ablate),
}


if __name__ == "__main__":
    sys.exit(main())
