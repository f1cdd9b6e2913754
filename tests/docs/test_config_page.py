"""The config reference is made from the code and knows all of it."""

import importlib.util
from typing import Annotated

import pytest
from annotated_types import Ge
from paths import ROOT

from detkit import registry
from detkit.config import SECTIONS


@pytest.fixture(scope="module")
def page():
    path = ROOT / "docs" / "_generate" / "config_page.py"
    spec = importlib.util.spec_from_file_location("config_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_and_component_is_on_the_page(page):
    text = page.page()
    for name, options in SECTIONS.items():
        assert f"### {name}\n" in text
        assert [option for option in options if f"| `{option}` |" not in text] == []
    own = [name for name in registry.names() if registry.lookup(name).__module__.startswith("detkit.")]
    assert [name for name in own if f"### {name}\n" not in text] == []


def test_every_option_says_what_it_does(page):
    rows = [line.split(" | ") for line in page.page().splitlines() if line.startswith("| `")]
    assert [name for name, *_, meaning in rows if not meaning.strip("| ")] == []


def test_every_option_says_what_it_takes(page):
    rows = [line.split(" | ") for line in page.page().splitlines() if line.startswith("| `")]
    assert [name for name, wanted, *_ in rows if not wanted and "**" not in name] == []
    options = {name: (wanted, default) for name, wanted, default, _ in rows}
    assert options["| `clip_norm`"] == ("a number above 0 and at most 1,000,000, or None", "`0.1`")
    assert options["| `multiple`"] == ("a whole number from 1 to 65,536", "`16`")
    assert options["| `cap`"] == ("a whole number from 1 to 1,000,000", "`512`")
    assert options["| `num_heads`"][0].endswith("each item a whole number from 1 to 256, or None")


def test_defaults_and_comments_are_those_of_the_code(page, tmp_path):
    (tmp_path / "options.py").write_text(
        "SECTIONS: dict = {\n"
        "    # About the first.\n"
        '    "first": dict(\n'
        "        size=REQUIRED,  # in pixels\n"
        "        scale=0.5,  # a factor | share\n"
        "    ),\n"
        "}\n"
    )
    types = {"first": {"size": Annotated[int, Ge(1)]}}
    ((name, about, options),) = page.option_tables(tmp_path / "options.py", "SECTIONS", types)
    assert (name, about) == ("first", "About the first.")
    assert page.table(options)[2:] == [
        "| `size` | a whole number of at least 1 | *required* | in pixels |",
        "| `scale` |  | `0.5` | a factor \\| share |",
    ]
