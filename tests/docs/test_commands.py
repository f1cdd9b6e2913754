"""The commands in README and documentation exist as they are written."""

import re
import shlex

import pytest
from paths import ROOT

from detkit.cli import COMMANDS
from detkit.cli.parser import make_parser
from detkit.config import SHORT_NAMES, config_names
from detkit.download.published import PUBLISHED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FOLDERS = ("my_folder", "scenes")  # of images, which pages train on
FENCE = re.compile(r"^```(?:bash|text)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def commands(page):
    """The words behind `detkit` of each command in the fenced blocks of a page."""
    for block in FENCE.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"(\w+=\S+ )*(torchrun .* )?detkit ", line):
                words = shlex.split(line.partition(" > ")[0], comments=True)
                yield words[words.index("detkit") + 1 :]


FOUND = [pytest.param(words, id=f"{page.stem}: {shlex.join(words)[:60]}") for page in PAGES for words in commands(page)]


@pytest.mark.parametrize("words", FOUND)
def test_command(words):
    if words == ["--help"]:
        return
    options = make_parser(COMMANDS)[0].parse_args(words)  # ends the process where it does not understand them
    config = getattr(options, "config", None)
    is_file = config is not None and config.endswith((".py", ".safetensors"))
    is_name = config is not None and not config.isupper() and not is_file and config not in FOLDERS
    assert not is_name or config in (*config_names(), *SHORT_NAMES)


def test_configs_that_pages_name_exist():
    """Names in backticks that begin as those of configs do, on the pages that tell which config to take."""
    name = re.compile(r"`((?:vidt|wssis|match|cats|catspp|finetune|quickstart)_\w+)`")
    pages = [page for page in PAGES if page.stem in ("README", "models", "choosing") or page.parent.name == "tutorials"]
    named = {found for page in pages for found in name.findall(page.read_text())}
    assert len(named) > 20 and named <= {*config_names(), *SHORT_NAMES, *PUBLISHED}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900
