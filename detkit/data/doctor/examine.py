"""Looking through a whole dataset."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkit.data.doctor.findings import Finding, Findings
from detkit.data.doctor.objects import PartCheck
from detkit.data.doctor.pictures import check_pictures
from detkit.data.formats import FoundDataset, Problems, find_dataset
from detkit.files import write_json


@dataclass
class Diagnosis:
    """A dataset and what is wrong with it."""

    dataset: FoundDataset
    findings: Findings

    def text(self) -> str:
        """The result as lines."""
        if not self.findings:
            return f"{self.dataset.summary()}\nnothing is wrong"
        return f"{self.dataset.summary()}\n{len(self.findings):,} findings, worst first:\n{self.findings.table()}"

    def to_json(self) -> dict[str, Any]:
        """The result for a json file."""
        parts = {
            name: {"images": len(part.content["images"]), "annotations": len(part.content["annotations"])}
            for name, part in self.dataset.parts.items()
        }
        head = {"root": str(self.dataset.root), "format": self.dataset.format, "classes": self.dataset.names}
        return {**head, "parts": parts, "count": len(self.findings), "kinds": self.findings.to_json()}

    def write_json(self, path: str | Path) -> None:
        """Write the result as json."""
        write_json(path, self.to_json())


def examine(
    path: str | Path,
    format: str | None = None,
    *,
    size: int = 640,
    tokens: int = 100,
    processes: int | None = None,
) -> Diagnosis:
    """Find what is wrong with a dataset: its files, its images and its annotations; see `findings.KINDS`.

    Memory does not depend on the images: each is read once and only a digest of it is kept.

    Args:
        path: as of `find_dataset`.
        format: of the dataset, where the folder holds several.
        size: the longer side of images at the model's input, in pixels.
        tokens: the most objects that the model can find in an image.
        processes: how many read images; by default one for each core.

    Raises:
        ValueError: there is no dataset to look at, see `find_dataset`; or `size` or `tokens` is below 1.
    """
    for name, value in (("size", size), ("tokens", tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    problems, findings = Problems(strict=False), Findings()
    found = find_dataset(path, format, problems=problems)
    findings.add_problems(problems)
    for name, part in found.parts.items():
        PartCheck(name, part, findings, size=size, tokens=tokens).run()
    check_classes(found, findings)
    check_pictures(found, findings, processes=processes)
    return Diagnosis(found, findings)


def check_classes(found: FoundDataset, findings: Findings) -> None:
    """Find classes that cannot be learned, and names that are probably one class."""
    counts = count_classes(found)
    train = counts.get("train", Counter())
    for name in found.names:
        places = [part for part, count in counts.items() if count[name]]
        if not places:
            findings.add("classes without examples", Finding(repr(name), "there is no object of it"))
        elif not train[name] and "train" in counts:
            what = f"its {sum(counts[part][name] for part in places)} objects are in {', '.join(places)}"
            findings.add("classes only outside of train", Finding(repr(name), what))
    alike: dict[str, list[str]] = {}
    for name in _all_names(found):
        alike.setdefault(re.sub(r"[\s_-]+", "", name.casefold()), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            findings.add("class names alike", Finding(" and ".join(map(repr, names)), "are alike"))


def count_classes(found: FoundDataset) -> dict[str, Counter[str]]:
    """The number of objects of each class, by part; annotations that are broken are not counted."""
    counts = {}
    for part_name, part in found.parts.items():
        names = {category["id"]: category["name"] for category in part.content["categories"]}
        keys = (a.get("category_id") for a in part.content["annotations"] if isinstance(a, dict))
        counts[part_name] = Counter(names[key] for key in keys if type(key) is int and key in names)
    return counts


def _all_names(found: FoundDataset) -> list[str]:
    """The names of all classes; a name that one part has several times, as often."""
    most: Counter[str] = Counter()
    for part in found.parts.values():
        most |= Counter(category["name"] for category in part.content["categories"])
    return list(most.elements())
