"""What the outputs of a classifier mean."""

from __future__ import annotations

from dataclasses import dataclass

from detkit.registry import nearest


@dataclass
class LabelMap:
    """What the outputs of a classifier mean: output i is class `names[i]` with category id `category_ids[i]`.

    Labels are contiguous from 0 everywhere inside detkit; category ids exist only where data comes in and
    results go out. A name of None marks an output that no category uses (the gaps in the 91 COCO ids of an
    imported official checkpoint).
    """

    names: tuple[str | None, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self):
        self.names, self.category_ids = tuple(self.names), tuple(int(i) for i in self.category_ids)
        if len(self.names) != len(self.category_ids):
            raise ValueError(f"{len(self.names)} class names but {len(self.category_ids)} category ids")
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"category ids repeat: {self.category_ids}")

    def __len__(self) -> int:
        return len(self.names)

    def labels_of(self, *names: str) -> list[int]:
        """The labels of classes.

        Raises:
            ValueError: no class has such a name; the nearest is suggested.
        """
        known = {name: label for label, name in enumerate(self.names) if name is not None}
        for name in names:
            if name not in known:
                shown = ", ".join(list(known)[:10]) + (", ..." if len(known) > 10 else "")
                raise ValueError(f"the model has no class {name!r}{nearest(name, known) or f'; it knows {shown}'}")
        return [known[name] for name in names]

    @classmethod
    def numbered(cls, num_classes: int) -> LabelMap:
        """A map for a model whose classes have no names: output i is category i."""
        return cls(tuple(f"class_{i}" for i in range(num_classes)), tuple(range(num_classes)))

    def to_dict(self) -> dict[str, list]:
        """The fields as lists, as a checkpoint stores them."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}
