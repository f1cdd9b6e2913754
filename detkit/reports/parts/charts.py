"""Charts as SVG text, to stand inside of a page."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np

SETTINGS: Any = {
    "svg.hashsalt": "detkit",  # the same chart is the same text
    "svg.fonttype": "none",  # text stays text, in the font of the browser
    "text.parse_math": False,  # a class may be called "$x$"
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}
BLUE, GREY = "#3366aa", "#999999"
LABEL_WIDTH = 12  # letters in a line below a bar
LONGEST_NAME = 30  # letters of a name in a legend


def draw(paint: Callable[[Any], None], *, width: float = 6.2, height: float = 4.2) -> str:
    """An SVG element with the axes that `paint` draws on; sizes in inches."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    target = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure.subplots())
        figure.savefig(target, format="svg", metadata=nothing)
    content = target.getvalue()
    content = content[content.index("<svg") :]
    return re.sub(r' xmlns(:xlink)?="[^"]*"', "", content)


def shorten(name: str) -> str:
    """The name, its end left out where it would leave no room for the chart."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def line_chart(
    lines: Mapping[str, tuple[Any, Any]],
    across: str,
    up: str,
    *,
    main: str = "",
    unit: bool = True,
) -> str:
    """Lines over a common axis.

    Args:
        lines: the x and y values of each name.
        across, up: titles of the axes.
        main: the line to draw thick and black.
        unit: both axes run from 0 to 1.
    """

    def paint(axes: Any) -> None:
        handles = []
        for name, (x, y) in lines.items():
            style = dict(color="black", linewidth=2.4, zorder=5) if name == main else dict(linewidth=1.2)
            handles += axes.plot(x, y, marker="." if len(x) < 30 else None, **style)
        axes.set(xlabel=across, ylabel=up)
        axes.set_ylim(bottom=0)
        if unit:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if len(lines) > 1:
            axes.legend(
                handles,
                [shorten(name) for name in lines],
                fontsize="small",
                loc="center left",
                bbox_to_anchor=(1.0, 0.5),
            )

    return draw(paint, width=8 if len(lines) > 1 else 6.2)


def bar_chart(values: Mapping[str, float], up: str, *, notes: Sequence[str] = (), limit: float | None = None) -> str:
    """A bar for each name, with what `notes` says above it."""

    def paint(axes: Any) -> None:
        bars = axes.bar(range(len(values)), list(values.values()), color=BLUE, width=0.65)
        axes.set_xticks(range(len(values)), [fill(name, LABEL_WIDTH) for name in values])
        axes.set(ylabel=up)
        axes.grid(visible=False, axis="x")
        if limit is not None:
            axes.set_ylim(0, limit)
        if notes:
            axes.bar_label(bars, list(notes), fontsize="small", padding=2)

    return draw(paint, width=7.5, height=3.4)


def calibration_chart(bins: Sequence[Mapping[str, float]]) -> str:
    """How often detections of a score are right, against that score."""
    filled = [b for b in bins if b["count"]]

    def paint(axes: Any) -> None:
        middles = [(b["bin_lower"] + b["bin_upper"]) / 2 for b in filled]
        shares = [b["avg_accuracy"] for b in filled]
        width = 0.9 * (filled[0]["bin_upper"] - filled[0]["bin_lower"]) if filled else 0.1
        bars = axes.bar(middles, shares, width=width, color=BLUE)
        axes.bar_label(bars, [str(b["count"]) for b in filled], fontsize="x-small", padding=2)
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--")
        axes.set(xlabel="score", ylabel="share that is right", xlim=(0, 1), ylim=(0, 1.05))

    return draw(paint)


def shade(share: float) -> str:
    """A background for a share of 0 to 1, white to blue."""
    red, green, blue = (round(255 + float(np.clip(share, 0, 1)) * (full - 255)) for full in (120, 160, 225))
    return f"#{red:02x}{green:02x}{blue:02x}"
