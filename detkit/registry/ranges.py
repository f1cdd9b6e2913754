"""Types with ranges, for the arguments of components and the options of sections: `epochs: PositiveInt`.

`detkit.registry.values` checks them before anything is built. The largest values are far above what makes sense; they
keep a slip from filling the memory or from stretching a run over years.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le, Lt, MinLen

LARGEST = 1_000_000_000

PositiveInt = Annotated[int, Ge(1), Le(LARGEST)]
NonNegativeInt = Annotated[int, Ge(0), Le(LARGEST)]
Seed = Annotated[int, Ge(0), Lt(2**32)]
Images = Annotated[int, Ge(1), Le(65_536)]  # of a batch
Workers = Annotated[int, Ge(0), Le(1024)]

Pixels = Annotated[int, Ge(1), Le(65_536)]  # of a side
PictureSide = Annotated[int, Ge(32), Le(16_384)]  # of a generated picture or a crop, in pixels
Channels = Annotated[int, Ge(1), Le(16_384)]  # of a layer
Depth = Annotated[int, Ge(1), Le(256)]  # layers, blocks, heads, or cells of a side
Objects = Annotated[int, Ge(1), Le(100_000)]  # or tokens, of an image
Index = Annotated[int, Ge(0), Le(1024)]  # of a layer

Finite = Annotated[float, Ge(-LARGEST), Le(LARGEST)]
PositiveFloat = Annotated[float, Gt(0), Le(1_000_000)]
NonNegativeFloat = Annotated[float, Ge(0), Le(1_000_000)]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
InnerShare = Annotated[float, Gt(0), Lt(1)]
Rate = Annotated[float, Ge(0), Le(100)]  # learning rate; at 0 the weights stay
Decay = Annotated[float, Ge(0), Le(100)]

Scale = Annotated[float, Gt(0), Le(1000)]  # a factor of lengths
Pixel = Annotated[float, Ge(0), Le(1)]  # the value of a pixel, divided by 255
Deviation = Annotated[float, Gt(0), Le(10)]  # of such values

Text = Annotated[str, MinLen(1)]
Texts = Annotated[Sequence[Text], MinLen(1)]


@dataclass(frozen=True)
class ComponentDict:
    """Marks an option that is the config of a component; `dict[str, Any]` alone stands for any dict."""


Component = Annotated[dict[str, Any], ComponentDict()]


@dataclass(frozen=True)
class AsIs:
    """Marks an argument that is handed over as it is: a dict with a "type" inside of it is no component of detkit."""


@dataclass(frozen=True, eq=False)
class OneOf:
    """Marks a value that is one of a table's."""

    values: Collection[Any]


@dataclass(frozen=True)
class Pattern:
    """Marks a text that a regular expression matches as a whole; `words` say the same."""

    expression: str
    words: str


Device = Annotated[str, Pattern(r"auto|cpu|mps|cuda(:\d{1,3})?", "auto, cpu, cuda, cuda:1, ...")]


@dataclass(frozen=True)
class OptionsOf:
    """Marks a dict, or `**options`, that holds arguments of another constructor.

    Attributes:
        target: whose arguments; those with a default can be given.
        without: names that cannot be given, because the program sets them.
    """

    target: Callable[..., Any]
    without: tuple[str, ...] = ()
