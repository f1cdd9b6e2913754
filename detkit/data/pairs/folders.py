"""The benchmarks of semantic correspondence (SPair-71k, PF-PASCAL, PF-WILLOW), read from their original folders."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from detkit.config import missing_data_hint
from detkit.data.coco_file import load_json
from detkit.data.pairs.dataset import PairDataset, PairOptions, Side, upright_side
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


def _cell(row: dict[str, str], column: str, path: Path) -> str:
    if column not in row:
        raise ValueError(f"{path}: no column {column!r}{suggest(column, (name for name in row if name))}")
    if row[column] is None:
        raise ValueError(f"{path}: the row {next(iter(row.values()))!r},... ends before column {column!r}")
    return row[column]


def _number(row: dict[str, str], column: str, path: Path) -> float:
    """A cell that holds a finite number."""
    cell = _cell(row, column, path)
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{path}: column {column!r} must hold numbers, got {cell!r}")
    return number


def _flag(row: dict[str, str], column: str, path: Path) -> bool:
    """A cell that holds 0 or 1."""
    number = _number(row, column, path)
    if number not in (0, 1):
        raise ValueError(f"{path}: column {column!r} must hold 0 or 1, got {row[column]!r}")
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
        except OSError as error:
            raise ValueError(f"cannot read list of pairs {layout}: {error}{missing_data_hint(layout)}") from error
        if not self._lines:
            raise ValueError(f"{layout}: no pairs")
        names = sorted(path.name for path in (self.root / "JPEGImages").glob("*") if path.is_dir())
        numbers = {name: i for i, name in enumerate(names)}
        classes = [line.rpartition(":")[2] for line in self._lines]
        if unknown := sorted(set(classes) - numbers.keys()):
            raise ValueError(f"{layout}: classes {unknown} have no folder in {self.root / 'JPEGImages'}")
        super().__init__(_label_map(names), [numbers[name] for name in classes], **options)

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
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: is not a pair of SPair-71k: {type(error).__name__} {error}") from error
        return source, target

    def _side(self, annotation: dict[str, Any], name: str) -> Side:
        file = self.root / "JPEGImages" / annotation["category"] / annotation[f"{name}_imname"]
        points = np.array(annotation[f"{name}_kps"], np.float64).reshape(-1, 2)
        width, height = annotation[f"{name}_imsize"][:2]
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
        numbers = [_number(row, "class", self.path) for row in self._rows]
        if unknown := set(numbers) - set(range(1, len(VOC_CLASSES) + 1)):
            raise ValueError(f"{self.path}: classes must lie in 1..{len(VOC_CLASSES)}, got {min(unknown):g}")
        labels = [int(number) - 1 for number in numbers]
        self._mirrored = [bool(row.get("flip")) and _flag(row, "flip", self.path) for row in self._rows]
        self._classes = [VOC_CLASSES[label] for label in labels]
        super().__init__(_label_map(VOC_CLASSES), labels, **options)

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target with the key-points that are known in both .mat files, mirrored where `flip` is 1.

        Raises:
            ValueError: a file cannot be read, or the two have different numbers of key-points.
        """
        row, name = self._rows[pair], self._classes[pair]
        files = [Path(_cell(row, f"{which}_image", self.path)).name for which in ("source", "target")]
        found = [read_pascal_points(self.root / "Annotations" / name / f"{Path(file).stem}.mat") for file in files]
        counts = [len(points) for points, _ in found]
        if counts[0] != counts[1]:
            raise ValueError(f"{self.path}: {' and '.join(files)} have {counts[0]} and {counts[1]} points")
        common = ~(np.isnan(found[0][0]).any(axis=1) | np.isnan(found[1][0]).any(axis=1))
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
        return content["kps"].astype(np.float64).reshape(-1, 2), content["bbox"].astype(np.float64).reshape(4)
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
        rows = _read_rows(path)
        self._files = [[_cell(row, f"image{which}", path) for which in "AB"] for row in rows]
        self._points = [[self._read_points(row, which, path) for which in "AB"] for row in rows]
        classes = [Path(source).parts[1:2] for source, _ in self._files]
        unknown = sorted(
            {
                str(source)
                for (source, _), c in zip(self._files, classes, strict=True)
                if not c or c[0] not in WILLOW_CLASSES
            }
        )
        if unknown:
            raise ValueError(f"{path}: these paths do not hold a class in second place: {', '.join(unknown[:5])}")
        super().__init__(_label_map(WILLOW_CLASSES), [WILLOW_CLASSES.index(c[0]) for c in classes], **options)

    @staticmethod
    def _read_points(row: dict[str, str], which: str, path: Path) -> np.ndarray:
        columns = [[f"{axis}{which}{i}" for axis in "XY"] for i in range(1, 11)]
        return np.array([[_number(row, name, path) for name in names] for names in columns])

    def sides(self, pair: int) -> tuple[Side, Side]:
        """Source and target of a row of the csv file, with their ten key-points and the boxes around these."""
        source, target = (
            Side(self.root.joinpath(*Path(file).parts[1:]), points, np.concatenate([points.min(0), points.max(0)]))
            for file, points in zip(self._files[pair], self._points[pair], strict=True)
        )
        return source, target
