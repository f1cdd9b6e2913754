"""The code on the page "Parts of your own" is that of the examples, which other tests run."""

import re
import textwrap

import pytest
from paths import ROOT

PAGE = (ROOT / "docs" / "own_parts.md").read_text()
EXAMPLES = [path.read_text() for path in sorted((ROOT / "examples").glob("*.py"))]
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split("\n")[0])
def test_code_is_taken_from_the_examples(block):
    indented = (textwrap.indent(block, " " * depth) for depth in (0, 4, 8))
    assert any(code in example for code in indented for example in EXAMPLES)


def test_the_page_shows_each_kind_of_part():
    classes = set(re.findall(r"^class (\w+)", "".join(EXAMPLES), flags=re.MULTILINE))
    assert all(f'type="{name}"' in PAGE for name in classes)


def test_the_files_that_commands_name_exist():
    paths = set(re.findall(r"\bexamples/\w+\.py", PAGE))
    assert paths and all((ROOT / path).is_file() for path in paths)
