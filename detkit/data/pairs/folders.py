"""The benchmarks of semantic correspondence (SPair-71k, PF-PASCAL, PF-WILLOW), read from their original folders."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from detkit.config import missing_data_hint
from detkit.data.annotations import short
from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset, PairOptions, Side, upright_side
from detkit.data.pairs.judging import point_array, usable
from detkit.files import refuse_url
from detkit.images import read_frame
from detkit.registry import register, suggest
from detkit.registry.ranges import OneOf
from detkit.structures import LabelMap

SPLITS = ("trn", "val", "test")
VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
WILLOW_CLASSES = (
    *("car(G)", "car(M)", "car(S)", "duck(S)", "motorbike(G)", "motorbike(M)", "motorbike(S)"),
    *("winebottle(M)", "winebottle(wC)", "winebottle(woC)"),
)


def _label_map(names: Sequence[str]) -> LabelMap:
    return LabelMap(tuple(names), tuple(range(1, len(names) + 1)))


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")


def _read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a csv file with a header."""
    refuse_url(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot read list of pairs {path}: {error}{missing_data_hint(path)}") from error
    if not rows:
        raise ValueError(f"{path}: no pairs")
    return rows


def _cell(row: dict[str, str], column: str, name: str) -> str:
    if column not in row:
        raise ValueError(f"{name}: no column {column!r}{suggest(column, (known for known in row if known))}")
    if row[column] is None:
        raise ValueError(f"{name}: the row {next(iter(row.values()))!r},... ends before column {column!r}")
    return row[column]


def _number(row: dict[str, str], column: str, name: str) -> float:
    """A cell that holds a finite number."""
    cell = _cell(row, column, name)
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name}: column {column!r} must hold numbers, got {cell!r}")
    return number


def _flag(row: dict[str, str], column: str, name: str) -> bool:
    """A cell that holds 0 or 1."""
    number = _number(row, column, name)
    if number not in (0, 1):
        raise ValueError(f"{name}: column {column!r} must hold 0 or 1, got {row[column]!r}")
    return number == 1


@register
class SPair71k(PairDataset):
    """SPair-71k (arXiv 1908.10543): `JPEGImages`, `Layout/<size>/<split>.txt` and `PairAnnotation/<split>`.

    Published figures use the threshold "bbox".

    Args:
        root: the folder `SPair-71k`.
        split: "trn", "val" or "test".
        size: the list of pairs, "large" or "small".
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file that is missing or not as it should be; annotations are read with their pair.
    """

    def __init__(
        self,
        root: str | Path,
        split: Annotated[str, OneOf(SPLITS)],
        *,
        size: Annotated[str, OneOf(("large", "small"))] = "large",
        **options: PairOptions,
    ):
        _check_split(split)
        self.root, self.folder = Path(root), Path(root) / "PairAnnotation" / split
        refuse_url(root, "folder")
        layout = self.root / "Layout" / size / f"{split}.txt"
        try:
            self._lines = layout.read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"cannot read list of pairs {layout}: {error}{missing_data_hint(layout)}") from error
        if not self._lines:
            raise ValueError(f"{layout}: no pairs")
        names = sorted(path.name for path in (self.root / "JPEGImages").glob("*") if path.is_dir())
        numbers = {name: i for i, name in enumerate(names)}

        def label(number: int, line: str) -> int:
            name = line.rpartition(":")[2]
            if name not in numbers:
                raise ValueError(f"pair {line}: class {name} has no folder in {self.root / 'JPEGImages'}")
            return numbers[name]

        super().__init__(_label_map(names), usable(layout, "pairs", self._lines, label), **options)

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of the pair's json, with its key-points and the boxes of the objects in pixels.

        Raises:
            ValueError: the json cannot be read or is of another form.
        """
        line = self._lines[pair]
        path = self.folder / f"{line}.json"
        if not path.is_file():  # as unpacked where file names cannot have colons
            path = self.folder / f"{line.replace(':', '-')}.json"
        annotation = load_json(path)
        try:
            source, target = (self._side(annotation, name) for name in ("src", "trg"))
        except (KeyError, ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{path}: is not a pair of SPair-71k: {type(error).__name__} {error}") from error
        return source, target

    def _side(self, annotation: dict[str, Any], name: str) -> Side:
        file = self.root / "JPEGImages" / annotation["category"] / annotation[f"{name}_imname"]
        points = point_array(annotation[f"{name}_kps"])
        width, height = annotation[f"{name}_imsize"][:2]
        if type(width) is not int or type(height) is not int:
            raise ValueError(f"{name}_imsize is {short(annotation[f'{name}_imsize'])}, not width, height, channels")
        return Side(file, points, np.array(annotation[f"{name}_bndbox"], np.float64), (height, width))


@register
class PFPascal(PairDataset):
    """PF-PASCAL (arXiv 1703.07144): `<split>_pairs.csv`, `JPEGImages` and `Annotations/<class>/<name>.mat`.

    A pair has the points that are annotated in both images. Training pairs with `flip` 1 are mirrored: x becomes
    width - x. Published figures use the threshold "img".

    Args:
        root: the folder `PF-PASCAL`.
        split: "trn", "val" or "test".
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file that is missing or not as it should be; annotations are read with their pair.
    """

    def __init__(self, root: str | Path, split: Annotated[str, OneOf(SPLITS)], **options: PairOptions):
        _check_split(split)
        self.root, self.path = Path(root), Path(root) / f"{split}_pairs.csv"
        self._rows = _read_rows(self.path)
        found = usable(self.path, "pairs", self._rows, self._read_row)
        self._mirrored = [row is not None and row[1] for row in found]
        super().__init__(_label_map(VOC_CLASSES), [None if row is None else row[0] for row in found], **options)

    @staticmethod
    def _read_row(number: int, row: dict[str, str]) -> tuple[int, bool]:
        """The label of a pair, and whether it is mirrored."""
        name = f"pair {number}"
        label = _number(row, "class", name)
        if label not in range(1, len(VOC_CLASSES) + 1):
            raise ValueError(f"{name}: classes must lie in 1..{len(VOC_CLASSES)}, got {label:g}")
        for column in ("source_image", "target_image"):
            _cell(row, column, name)
        return int(label) - 1, bool(row.get("flip")) and _flag(row, "flip", name)

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target with the key-points that are known in both .mat files, mirrored where `flip` is 1.

        Raises:
            ValueError: a file cannot be read, or the two have different numbers of key-points.
        """
        row, name = self._rows[pair], VOC_CLASSES[int(float(self._rows[pair]["class"])) - 1]
        files = [Path(row[f"{which}_image"]).name for which in ("source", "target")]
        found = [read_pascal_points(self.root / "Annotations" / name / f"{Path(file).stem}.mat") for file in files]
        counts = [len(points) for points, _ in found]
        if counts[0] != counts[1]:
            raise ValueError(f"{self.path}: {' and '.join(files)} have {counts[0]} and {counts[1]} points")
        common = np.isfinite(found[0][0]).all(axis=1) & np.isfinite(found[1][0]).all(axis=1)
        parts = zip(files, found, strict=True)
        sides = [Side(self.root / "JPEGImages" / file, points[common], box) for file, (points, box) in parts]
        if self._mirrored[pair]:
            sides = [mirror_side(side) for side in sides]
        return sides[0], sides[1]


def read_pascal_points(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The key-points [n, 2], NaN where unknown, and the box [4] of a .mat file of PF-PASCAL, in pixels.

    Raises:
        ValueError: the file cannot be read or lacks one of them.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, appendmat=False)
        points, box = content["kps"].astype(np.float64), content["bbox"].astype(np.float64).reshape(4)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"kps has shape {points.shape}, expected [n, 2]")
        return points, box
    except Exception as error:  # scipy raises all kinds of errors for damaged or foreign files
        raise ValueError(f"cannot read key-points from {path}: {type(error).__name__} {error}") from error


def mirror_side(side: Side) -> Side:
    """The same image mirrored left to right, with its points and box.

    Raises:
        ValueError: the image, whose width is needed, cannot be read.
    """
    side, width = upright_side(side)[0], read_frame(side.file).size[1]
    points, box = side.points.copy(), side.box
    points[:, 0] = width - points[:, 0]
    if box is not None:
        box = np.array([width - box[2], box[1], width - box[0], box[3]])
    return Side(side.file, points, box, side.size, mirrored=not side.mirrored)


@register
class PFWillow(PairDataset):
    """PF-WILLOW (arXiv 1511.05065): `test_pairs.csv` and a folder of images for each class; for testing only.

    Boxes are those around the ten key-points. Published figures use the threshold "bbox-kp-padded" (DHPF, CATs) or
    "bbox-kp" (CATs++).

    Args:
        root: the folder `PF-WILLOW`.
        direction, limit, seed: see `PairDataset`.

    Raises:
        ValueError: a file that is missing or not as it should be.
    """

    def __init__(self, root: str | Path, **options: PairOptions):
        self.root, path = Path(root), Path(root) / "test_pairs.csv"
        self._rows = usable(path, "pairs", _read_rows(path), self._read_row)
        labels = [None if row is None else row[0] for row in self._rows]
        super().__init__(_label_map(WILLOW_CLASSES), labels, **options)

    @staticmethod
    def _read_row(number: int, row: dict[str, str]) -> tuple[int, list[tuple[Path, np.ndarray]]]:
        """The label of a pair, and the file and the points [10, 2] of both images."""
        name = f"pair {number}"
        files = [Path(_cell(row, f"image{which}", name)) for which in "AB"]
        if files[0].parts[1:2] == () or files[0].parts[1] not in WILLOW_CLASSES:
            raise ValueError(f"{name}: the path {files[0]} does not hold a class in second place")
        columns = [[[f"{axis}{which}{i}" for axis in "XY"] for i in range(1, 11)] for which in "AB"]
        points = [np.array([[_number(row, cell, name) for cell in cells] for cells in of_one]) for of_one in columns]
        return WILLOW_CLASSES.index(files[0].parts[1]), list(zip(files, points, strict=True))

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of a row of the csv file, with their ten key-points and the boxes around these."""
        row = self._rows[pair]
        assert row is not None
        source, target = (
            Side(self.root.joinpath(*file.parts[1:]), points, np.concatenate([points.min(0), points.max(0)]))
            for file, points in row[1]
        )
        return source, target
