"""What happens before a command runs: help, versions, misspelt words, completion."""

import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

from detkit.cli import COMMANDS, main
from detkit.cli.parser import make_parser

SILENT_START = """
import sys
from detkit.cli import main
for words in (["--version"], ["--help"], ["train", "--help"]):
    try:
        main(words)
    except SystemExit as end:
        assert not end.code
assert main(["trian"]) == 2
heavy = {"torch", "numpy", "PIL", "matplotlib", "argcomplete"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_help_and_version_import_nothing_heavy():
    result = subprocess.run([sys.executable, "-c", SILENT_START], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    version, *help_lines = result.stdout.splitlines()
    assert version.startswith("detkit ") and ", torch " in version and ", python " in version
    assert any(line.startswith("usage: detkit [-h] [--version] COMMAND") for line in help_lines)
    assert 'eval "$(register-python-argcomplete detkit)"' in result.stdout


def test_python_m_detkit():
    command = [sys.executable, "-m", "detkit", "--version"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0 and result.stdout.startswith("detkit ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian", "x.py"], "error: unknown command 'trian', did you mean 'train'?\n"),
        (["zzz"], "error: unknown command 'zzz'; detkit --help lists them\n"),
        (["--verison"], "error: unknown option '--verison', did you mean '--version'?\n"),
        (["train", "x.py", "--prnt-config"], "unknown option '--prnt-config', did you mean '--print-config'?\n"),
        (["predict", "x", "y", "--uot=z"], "error: unknown option '--uot', did you mean '--out'?\n"),
        (["predict", "x", "y", "--zzz"], "error: unknown option '--zzz'; detkit predict --help lists them\n"),
    ],
)
def test_misspelt_words(words, message, capsys):
    assert main(words) == 2
    assert capsys.readouterr().err.endswith(message)


def test_options_may_be_shortened(tmp_path, capsys):
    assert main(["train", str(tmp_path / "absent.py"), "--print"]) == 2
    assert "absent.py does not exist" in capsys.readouterr().err


def completions(line):
    """What the shell would offer after `line`, from the completion that argcomplete does in the process."""
    code = (
        "import os, sys\n"
        "os.dup2(1, 8)\n"
        "from detkit.cli import main\n"
        "try:\n"
        "    main([])\n"
        "finally:\n"
        "    assert 'torch' not in sys.modules"
    )
    environment = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    environment |= {"PATH": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    return [word.strip() for word in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("detkit eva", ["evaluate", "evaluate-corruptions"]),
        ("detkit train x.py --pr", ["--print-config"]),
        ("detkit list back", ["backbones"]),
        ("detkit list backbones Swin", ["Swin", "SwinLayers"]),
    ],
)
def test_completion(line, words):
    assert sorted(completions(line)) == words


def test_predict_has_a_folder_for_what_it_draws():
    parser, _ = make_parser(COMMANDS)
    assert parser.parse_args(["predict", "vidt_plus_swin_tiny", "photo.jpg"]).out == Path("drawn")
