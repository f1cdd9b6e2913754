"""The findings on a dataset as one HTML file with pictures, which opens from disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw

from detkit.data.doctor.examine import Diagnosis
from detkit.data.doctor.findings import KINDS, Finding
from detkit.files import write_text
from detkit.images import read_photo

PICTURES = 12  # of a kind
LISTED = 50  # findings of a kind
SIDE = 280  # pixels of the longer side of a picture
RED = (230, 30, 30)

HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; color: #222; }}
h2 {{ margin: 2rem 0 0; font-size: 1.2rem; }} td {{ padding: 0 1rem 0 0; }} td.n {{ text-align: right; }}
.pictures {{ display: flex; flex-wrap: wrap; gap: .8rem; }} figure {{ margin: 0; width: 280px; }}
figcaption {{ font-size: 12px; overflow-wrap: anywhere; }} li {{ font-size: 13px; overflow-wrap: anywhere; }}
</style></head><body><h1>{title}</h1><p>{summary}</p>
"""


def write_page(diagnosis: Diagnosis, path: str | Path) -> None:
    """Write the findings as a page with pictures of the first of each kind; it needs no other file and no network."""
    write_text(path, "".join(_page(diagnosis)))


def _page(diagnosis: Diagnosis) -> Iterator[str]:
    title = f"{diagnosis.dataset.root.absolute().name}: {len(diagnosis.findings):,} findings"
    yield HEAD.format(title=escape(title), summary=escape(diagnosis.dataset.summary()))
    yield "<table>"
    for number, (kind, count, _) in enumerate(diagnosis.findings.by_kind()):
        yield f'<tr><td class="n">{count:,}</td><td><a href="#k{number}">{kind}</a></td><td>{KINDS[kind]}</td></tr>'
    yield "</table>"
    for number, (kind, count, kept) in enumerate(diagnosis.findings.by_kind()):
        figures = list(filter(None, map(_figure, [finding for finding in kept if finding.images][:PICTURES])))
        yield f'<h2 id="k{number}">{count:,} {kind}</h2><p>{KINDS[kind]}</p>'
        yield f'<div class="pictures">{"".join(figures)}</div>'
        yield f"<details{'' if figures else ' open'}><summary>list</summary><ul>"
        for finding in kept[:LISTED]:
            yield f"<li>{escape(finding.where)}: {escape(finding.what)}</li>"
        yield f"<li>and {count - LISTED:,} more</li></ul></details>" if count > LISTED else "</ul></details>"
    yield "</body></html>\n"


def _figure(finding: Finding) -> str | None:
    """The pictures of a finding with its text; None where none of them can be read."""
    pictures = [_picture(image, finding if i == 0 else None) for i, image in enumerate(finding.images)]
    readable = "".join(filter(None, pictures))
    text = escape(f"{finding.where}: {finding.what}")
    return f"<figure>{readable}<figcaption>{text}</figcaption></figure>" if readable else None


def _picture(path: Path, finding: Finding | None) -> str | None:
    """An image with the boxes of a finding, as an HTML element; None where it cannot be read."""
    try:
        pixels, frame = read_photo(path)
    except ValueError:
        return None
    picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    width, height = picture.size
    picture.thumbnail((SIDE, SIDE))
    if finding is not None and frame.orientation == 1:
        draw = ImageDraw.Draw(picture)
        for x, y, w, h in finding.boxes:
            scale_x, scale_y = picture.width / width, picture.height / height
            corners = sorted((x * scale_x, (x + w) * scale_x)), sorted((y * scale_y, (y + h) * scale_y))
            (x1, x2), (y1, y2) = corners
            draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=RED, width=2)
    data = io.BytesIO()
    picture.save(data, format="JPEG", quality=80)
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}">'
