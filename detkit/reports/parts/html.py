"""Parts of an HTML page. Whatever comes from data goes through `escape`."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape

Cell = str | int | float | None

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1100px; margin: 2em auto;
  padding: 0 1em; overflow-wrap: anywhere; }
h1 { font-size: 1.6em; margin-bottom: 0; }
h2 { font-size: 1.25em; margin-top: 2.2em; border-bottom: 1px solid #ddd; padding-bottom: .2em; }
h3 { font-size: 1.05em; margin-bottom: .3em; }
nav a { margin-right: 1em; white-space: nowrap; }
a { color: #2754a8; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: .6em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; border-bottom: 1px solid #e4e4e4; text-align: right; overflow-wrap: normal; }
th { font-weight: 600; background: #f6f6f6; }
th:first-child, td:first-child { text-align: left; max-width: 22em; overflow-wrap: anywhere; }
.numbers { display: flex; flex-wrap: wrap; gap: .8em; margin: 1em 0; }
.numbers div { border: 1px solid #ddd; border-radius: 6px; padding: .4em 1em; }
.numbers b { display: block; font-size: 1.5em; }
.note { color: #555; font-size: .92em; max-width: 52em; }
img, svg { max-width: 100%; height: auto; }
figure { margin: 1em 0; } figcaption { font-size: .92em; color: #555; }
pre { background: #f6f6f6; padding: .8em; overflow-x: auto; font-size: .85em; }
.swatch { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .35em 0 .9em; }
"""


def page(title: str, sections: Sequence[tuple[str, str]], head: str = "") -> str:
    """A whole page.

    Args:
        title: plain text.
        sections: title and HTML of each.
        head: HTML above the sections.
    """
    links = "".join(f'<a href="#s{n}">{escape(name)}</a>' for n, (name, _) in enumerate(sections))
    body = "".join(f'<h2 id="s{n}">{escape(name)}</h2>\n{content}\n' for n, (name, content) in enumerate(sections))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{head}\n<nav>{links}</nav>\n{body}</body></html>\n"
    )


def table(titles: Sequence[str], rows: Iterable[Sequence[Cell]], colors: Sequence[Sequence[str]] = ()) -> str:
    """A table of text and numbers.

    Args:
        titles: of the columns.
        rows: the cells; None is shown as "-", a float with three digits.
        colors: a CSS background for each cell, or nothing.
    """
    head = "".join(f"<th>{escape(title)}</th>" for title in titles)
    body = []
    for number, row in enumerate(rows):
        styles = [f' style="background:{color}"' for color in colors[number]] if colors else [""] * len(row)
        cells = "".join(f"<td{style}>{escape(text(cell))}</td>" for style, cell in zip(styles, row, strict=True))
        body.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(body) + "</table></div>"


def text(cell: Cell) -> str:
    """How a table shows a value."""
    if cell is None:
        return "-"
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)


def percent(value: float | None) -> str:
    """A share of 1 in percent; "-" for None and for the -1 of what is not defined."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def numbers(values: Iterable[tuple[str, str]]) -> str:
    """Large figures in a row, each a name and a value."""
    return '<div class="numbers">' + "".join(f"<div>{escape(n)}<b>{escape(v)}</b></div>" for n, v in values) + "</div>"


def note(content: str) -> str:
    """A paragraph of explanation, plain text."""
    return f'<p class="note">{escape(content)}</p>'


def listing(content: str) -> str:
    """Text as it is, such as a config."""
    return f"<pre>{escape(content)}</pre>"


def picture(jpeg: bytes, caption: str) -> str:
    """An image inside of the page, with plain text below it."""
    data = base64.b64encode(jpeg).decode()
    about = escape(caption)
    image = f'<img alt="{about}" src="data:image/jpeg;base64,{data}">'
    return f"<figure>{image}<figcaption>{about}</figcaption></figure>"
