"""The kinds of findings, worst first, and their collection."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detkit.data.formats.found import Problems

# What each kind means for training, worst first.
KINDS = {
    "unreadable images": "they cannot be decoded; training leaves them out",
    "missing images": "they are annotated, but not on disk",
    "file names outside": "they lead out of the folder of the dataset",
    "unreadable annotations": "they are left out",
    "orphans": "annotations of an image or a class that the file does not have; they are left out",
    "empty boxes": "boxes without width or height; they are left out",
    "boxes outside": "they reach over the border of the image by more than a pixel and are clipped, or are left out",
    "unreadable masks": "their objects are left out where masks are trained",
    "sizes that disagree": "the image on disk has another size than the annotations say: boxes may lie elsewhere",
    "images in two parts": "the same picture in training and validation makes the validation too good",
    "duplicate images": "the same picture several times in one part",
    "images listed twice": "one file under several ids",
    "doubled boxes": "two objects in one place; one of them will be counted as missed",
    "class names alike": "they differ by case, spaces, hyphens or underscores alone; probably one class is meant",
    "classes only outside of train": "they cannot be learned",
    "classes without examples": "they cannot be learned",
    "more objects than tokens": "the model cannot find all of them: it has one token for each object",
    "tiny objects": "at the model's input they are smaller than 8 x 8 pixels; larger inputs or slices help",
    "orientation": "EXIF turns the image: annotations are turned with it, or leave it open whether they are",
    "annotations without image": "files that belong to no image; they are not used",
    "annotations in no part": "files that no list names; they are not used",
    "images in no part": "images beside the others that no annotation file names; they are not used",
    "shapes without area": "points and lines are no objects; they are not used",
}
LISTED = 10_000  # findings of a kind that are kept; all are counted
SHOWN = 5  # of a kind, in the table


@dataclass
class Finding:
    """One thing that is wrong.

    Attributes:
        where: the part and the file, with ids.
        what: what is wrong.
        images: the files that show it.
        boxes: x, y, width, height in the first of them.
        ids: "image_id" and "annotation_id" as far as there are such.
    """

    where: str
    what: str
    images: Sequence[Path] = ()
    boxes: Sequence[Sequence[float]] = ()
    ids: dict[str, Any] = field(default_factory=dict)


class Findings:
    """Findings by kind: counted without limit, kept up to `LISTED` of a kind."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.kept: dict[str, list[Finding]] = {}

    def __len__(self) -> int:
        return self.counts.total()

    def add(self, kind: str, finding: Finding) -> None:
        """Add one of a kind among `KINDS`."""
        assert kind in KINDS, kind
        self.counts[kind] += 1
        kept = self.kept.setdefault(kind, [])
        if len(kept) < LISTED:
            kept.append(finding)

    def add_problems(self, problems: Problems) -> None:
        """Add what the reader of the format found."""
        for kind, where, what in problems.found:
            self.add(kind, Finding(where, what))

    def by_kind(self) -> Iterator[tuple[str, int, list[Finding]]]:
        """Each kind that there is, how many, and those kept; worst first."""
        for kind in KINDS:
            if self.counts[kind]:
                yield kind, self.counts[kind], self.kept[kind]

    def table(self) -> str:
        """The kinds with their first findings, as lines."""
        lines = []
        for kind, count, kept in self.by_kind():
            lines.append(f"{count:7,}  {kind}: {KINDS[kind]}")
            lines += [f"{'':9}- {finding.where}: {finding.what}" for finding in kept[:SHOWN]]
            lines += [f"{'':9}- and {count - SHOWN:,} more"] if count > SHOWN else []
        return "\n".join(lines)

    def to_json(self) -> list[dict[str, Any]]:
        """The kinds with their findings, for a json file."""
        return [
            {
                "kind": kind,
                "meaning": KINDS[kind],
                "count": count,
                "findings": [
                    {"where": f.where, "what": f.what, **f.ids, "files": [str(image) for image in f.images]}
                    for f in kept
                ],
            }
            for kind, count, kept in self.by_kind()
        ]
