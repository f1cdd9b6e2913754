"""Commands that read and write annotation files."""

from __future__ import annotations

import argparse

from detkit.cli.common import local_path

# Written here, for `detkit --help` imports nothing that takes its time.
FORMATS = ("coco", "yolo", "voc", "labelme", "cvat")
WRITTEN_FORMATS = ("coco", "yolo", "voc")
BY = ("class", "group", "time")


def split_points_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit split-points`."""
    parser.add_argument(
        "annotations", type=local_path, help="a COCO instances json, with masks for --points centre and random"
    )
    parser.add_argument("--percent", type=float, required=True, help="part of the images that stays fully annotated")
    parser.add_argument("--seed", type=int, default=0, help="of the draw and of random points (default 0)")
    parser.add_argument("--points", default="centre", choices=["centre", "random", "given"], help="(default centre)")
    parser.add_argument("--boxes", action="store_true", help="let weak annotations keep their boxes")
    parser.add_argument("--out", type=local_path, required=True, metavar="FOLDER", help="for the three json files")
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def split_points(options: argparse.Namespace) -> None:
    """Split an instances json into a few fully annotated images and many with points only."""
    from detkit.data.annotations import list_problems
    from detkit.data.coco_file import read_instances
    from detkit.data.points.split import split_annotations, write_split

    content = read_instances(options.annotations)
    arguments = dict(percent=options.percent, seed=options.seed, points=options.points, boxes=options.boxes)
    split = split_annotations(content, **arguments, name=options.annotations)
    paths = write_split(split, options.out, force=options.force)
    print(split.table())
    if split.problems:
        print(f"left out {len(split.problems)} annotations: {list_problems(split.problems)}")
    print(f"written to {', '.join(map(str, paths.values()))}")


def check_points_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit check-points`."""
    parser.add_argument(
        "annotations", type=local_path, metavar="POINTS_JSON", help="a COCO json whose annotations have points"
    )
    parser.add_argument("--images", type=local_path, metavar="FOLDER", help="also open the images and compare sizes")


def check_points(options: argparse.Namespace) -> int:
    """Count what is in a file of points and list what cannot be used; exit code 1 where there is such."""
    from detkit.data.points.file import check_points as run

    report = run(options.annotations, options.images)
    print(report.table())
    return 1 if report.problems else 0


def export_scenes_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit export-scenes`."""
    parser.add_argument("out", type=local_path, metavar="OUT", help="folder for train.json, val.json and images")
    parser.add_argument("--train", type=int, required=True, help="number of training scenes")
    parser.add_argument("--val", type=int, default=0, help="number of validation scenes (default 0)")
    parser.add_argument("--seed", type=int, default=0, help="of the training scenes; validation has the next")
    parser.add_argument("--size", type=int, default=128, help="side of the images in pixels (default 128)")
    parser.add_argument("--max-objects", type=int, default=5, help="most objects in a scene (default 5)")
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def export_scenes(options: argparse.Namespace) -> None:
    """Write generated scenes as images and COCO json files."""
    from detkit.data.export import export_scenes as run

    numbers = dict(train=options.train, val=options.val, seed=options.seed)
    scenes = dict(size=options.size, max_objects=options.max_objects)
    paths = run(options.out, **numbers, force=options.force, **scenes)
    print(f"written to {', '.join(map(str, paths.values()))}")


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `detkit data`."""
    commands = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    for name, (add_arguments, run) in DATA_COMMANDS.items():
        command = commands.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_dataset(command)
        add_arguments(command)
        command.set_defaults(data_function=run)


def data(options: argparse.Namespace) -> int:
    """Convert, check, count and split datasets: COCO, YOLO, Pascal VOC, LabelMe, CVAT."""
    return options.data_function(options) or 0


def add_dataset(parser: argparse.ArgumentParser) -> None:
    """Add the positional argument `dataset` and `--format`."""
    help = "a folder, a data.yaml, a json or an XML file"
    parser.add_argument("dataset", type=local_path, metavar="SRC", help=help)
    parser.add_argument("--format", choices=FORMATS, help="of SRC, where it holds several")


def convert_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit data convert`."""
    parser.add_argument("--out", type=local_path, required=True, metavar="DST", help="a new folder")
    parser.add_argument("--to", choices=WRITTEN_FORMATS, default="coco", help="(default coco)")


def convert_data(options: argparse.Namespace) -> None:
    """Write a dataset as COCO json, one file for each part, or as YOLO or Pascal VOC; with its images."""
    from detkit.data.formats import find_dataset, write_dataset

    found = find_dataset(options.dataset, options.format)
    print(found.summary())
    write_dataset(found, options.out, options.to)
    print(f"written as {options.to} to {options.out}")


def doctor_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit data doctor`."""
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write all findings, with ids")
    parser.add_argument("--page", type=local_path, metavar="FILE.html", help="write the findings with pictures")
    parser.add_argument("--size", type=int, default=640, help="longer side of images at the model's input (640)")
    parser.add_argument("--tokens", type=int, default=100, help="most objects that the model finds (100)")


def doctor(options: argparse.Namespace) -> int:
    """Look for mistakes in a dataset, worst first; exit code 1 where there are, 2 where it cannot be read."""
    from detkit.data.doctor import examine, write_page

    sizes = dict(size=options.size, tokens=options.tokens)
    diagnosis = examine(options.dataset, options.format, **sizes)
    print(diagnosis.text())
    if options.json:
        diagnosis.write_json(options.json)
    if options.page:
        write_page(diagnosis, options.page)
    return 1 if diagnosis.findings else 0


def stats(options: argparse.Namespace) -> None:
    """Count images, objects, sizes and classes of a dataset."""
    from detkit.data.doctor import statistics
    from detkit.data.formats import find_dataset

    print(statistics(find_dataset(options.dataset, options.format)))


def split_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `detkit data split`."""
    parser.add_argument("--out", type=local_path, required=True, metavar="DST", help="a new folder")
    parser.add_argument("--by", choices=BY, required=True, help="keep classes balanced, groups together, time in order")
    parser.add_argument(
        "--group", metavar="FIELD", help="of the images in a json; by default the start of the file name"
    )
    parser.add_argument("--val-share", type=float, default=0.2, help="part of the images for validation (0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")


def split(options: argparse.Namespace) -> None:
    """Split train and val of a dataset anew and write it as COCO json with its images; a part test stays."""
    from detkit.data.formats import find_dataset, write_dataset
    from detkit.data.formats.split import split_dataset

    if options.group and options.by != "group":
        raise ValueError("--group is for --by group")
    found = find_dataset(options.dataset, options.format)
    choice = dict(val_share=options.val_share, seed=options.seed, group=options.group)
    parts, how = split_dataset(found, options.by, **choice)
    write_dataset(parts, options.out)
    print(f"{how}: {options.out}")


DATA_COMMANDS = {
    "convert": (convert_data_arguments, convert_data),
    "doctor": (doctor_arguments, doctor),
    "stats": (lambda parser: None, stats),
    "split": (split_arguments, split),
}
