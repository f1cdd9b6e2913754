"""The command line before a command runs: its parser, suggestions for misspelt words, completion by the shell."""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import detkit
from detkit.registry import nearest

Command = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], "int | None"]]

EPILOG = """\
completion of commands, options and names by the TAB key, for bash and zsh; put this line into ~/.bashrc or ~/.zshrc:
  eval "$(register-python-argcomplete detkit)"
"""


class PrintVersion(argparse.Action):
    """The versions of detkit, torch and python."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(f"detkit {detkit.__version__}, torch {version('torch')}, python {platform.python_version()}")
        parser.exit()


def make_parser(commands: Mapping[str, Command]) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of `detkit`, and those of its commands by name."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="detkit", description=detkit.__doc__, epilog=EPILOG, formatter_class=raw)
    parser.add_argument(
        "--version", nargs=0, action=PrintVersion, help="print the versions of detkit, torch and python"
    )
    choices = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (add_arguments, run) in commands.items():
        command = choices.add_parser(name, help=run.__doc__, description=run.__doc__)
        add_arguments(command)
        command.set_defaults(function=run)
    return parser, dict(choices.choices)


def offer_completions(parser: argparse.ArgumentParser) -> None:
    """Print what could follow and end the process, where the shell asks for it after TAB."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def misspelling(words: Sequence[str], parser: argparse.ArgumentParser, commands: Mapping[str, Any]) -> str | None:
    """What is wrong with the names in a command line: an unknown command or option; None where all are known.

    Options may be shortened as far as they stay different from others, as argparse allows it.
    """
    first = words[0] if words else ""
    if first and not first.startswith("-"):
        if first not in commands:
            return f"unknown command {first!r}{nearest(first, commands) or f'; {parser.prog} --help lists them'}"
        parser, words = commands[first], words[1:]
        nested = next((a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction)), {})
        if nested and words and not words[0].startswith("-"):
            return misspelling(words, parser, nested)
    known = parser._option_string_actions
    for word in words:
        if word == "--":
            break
        name = word.partition("=")[0]
        if name.startswith("--") and not any(option.startswith(name) for option in known):
            return f"unknown option {name!r}{nearest(name, known) or f'; {parser.prog} --help lists them'}"
    return None
