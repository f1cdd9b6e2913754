"""Commands that make checkpoints of other checkpoints."""

from __future__ import annotations

import argparse

from detkit.cli.common import add_import, local_path


def convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit convert`."""
    parser.add_argument("source", metavar="SRC", help="an official checkpoint: file or http(s) URL")
    parser.add_argument("destination", metavar="DST", type=local_path, help="the .safetensors checkpoint to write")
    parser.add_argument(
        "--cross-stages", type=int, nargs="+", help="ViDT: stages with [DET] x [PATCH] attention (default 3)"
    )
    parser.add_argument(
        "--num-grids",
        type=int,
        nargs=5,
        help="SOLOv2: cells of its grids (default 40 36 24 16 12; teachers of PointWSSIS have 80 64 32 24 12)",
    )
    parser.add_argument("--layers", type=int, nargs="+", help="CATs: its layers (default those for SPair-71k)")
    parser.add_argument("--sha256", metavar="HEX", help="checksum that SRC must have")
    parser.add_argument("--force", action="store_true", help="replace DST if it exists")


def convert(options: argparse.Namespace) -> None:
    """Convert an official checkpoint of its authors' code."""
    from detkit.checkpoints.convert import convert_checkpoint, describe, layout_of

    names = ("cross_stages", "num_grids", "layers", "sha256", "force")
    arguments = {name: getattr(options, name) for name in names}
    report = convert_checkpoint(options.source, options.destination, **arguments)
    print(describe(report))
    print(f"written to {options.destination}; evaluate it:")
    print(f"  detkit evaluate {options.destination} --set {layout_of(report.config).places}")


def drop_layers_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit drop-layers`."""
    parser.add_argument("source", help="a .safetensors checkpoint of a ViDT")
    parser.add_argument("destination", help="the smaller .safetensors checkpoint to write")
    add_import(parser)
    parser.add_argument("--keep", type=int, required=True, help="decoder layers to keep, from the first")


def drop_layers(options: argparse.Namespace) -> None:
    """Write a checkpoint without its last decoder layers: faster, a little less accurate, not trained again."""
    from detkit.checkpoints.layer_drop import drop_layers as run

    before, after = run(options.source, options.destination, keep=options.keep)
    print(f"{options.destination}: {after / 1e6:.2f} M of {before / 1e6:.2f} M parameters")
