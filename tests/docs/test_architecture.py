"""The way through the code on the page "Architecture" is the way through this code."""

import pkgutil
import re

import pytest
from paths import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
LINK = re.compile(r"\]\[(detkit[\w.]*)\]")
ROWS = re.findall(r"^\| \d+ \| (`\S+\.py`.*?) \| (.*?) \| .* \|$", PAGE, flags=re.MULTILINE)


def file_of(name):
    """The file in detkit/ of a module, or of the module that a class, function or method stands in."""
    parts = name.split(".")[1:]
    for end in range(len(parts), 0, -1):
        path = "/".join(parts[:end])
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if (ROOT / "detkit" / file).is_file():
                return file
    raise ValueError(f"{name} is in no file")


@pytest.mark.parametrize("name", sorted(set(LINK.findall(PAGE))))
def test_what_the_page_links_to_exists(name):
    pkgutil.resolve_name(name)


@pytest.mark.parametrize(("files", "functions"), ROWS)
def test_functions_stand_in_the_files_that_the_page_names(files, functions):
    assert {file_of(name) for name in LINK.findall(functions)} <= set(re.findall(r"`(\S+)`", files))


def test_the_page_has_rows():
    assert len(ROWS) > 20
