"""Run the commands and the Python blocks of a documentation page, in their order, in the current folder.

Blocks in `bash` and `python` are run. A comment on the line above a block changes that for the test alone:

    <!-- test: --set train.max_steps=3 -->    the arguments are added to every command of the block
    <!-- test: not run -->                     the block is left out
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path
from typing import NamedTuple

from detkit.cli import main

BLOCK = re.compile(r"(?:^<!-- test: (.*?) -->\n)?^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "not run"


class Block(NamedTuple):
    """A fenced block of a page, and what stands in the comment above it."""

    note: str
    language: str
    text: str

    def commands(self) -> list[list[str]]:
        """The words of each command of a bash block; comments are left out, a backslash joins lines."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: Path) -> list[Block]:
    """The bash and Python blocks of a page."""
    return [Block(*found) for found in BLOCK.findall(page.read_text(encoding="utf-8"))]


def run_page(page: Path) -> None:
    """Run the blocks; an error of a command or an exception of a Python block goes through."""
    names: dict = {}
    for block in blocks(page):
        if block.note == NOT_RUN:
            continue
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
            continue
        for words in block.commands():
            run_command(words, shlex.split(block.note))


def run_command(words: list[str], added: list[str]) -> None:
    """Run `[NAME=value ...] detkit ... [> file]` in this process."""
    start = words.index("detkit")
    end = words.index(">") if ">" in words else len(words)
    arguments = [*words[start + 1 : end], *added]
    with _environment(words[:start]), _redirected(words[end + 1 :]):
        code = main(arguments)
    assert code == 0, f"{shlex.join(words)} ended with {code}"


@contextlib.contextmanager
def _environment(settings: list[str]):
    before = dict(os.environ)
    os.environ.update(setting.split("=", 1) for setting in settings)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _redirected(target: list[str]):
    if not target:
        yield
        return
    with open(target[0], "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        yield
