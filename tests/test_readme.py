"""What the README tells people to run is what the automatic check runs."""

import os
import re

from paths import ROOT


def commands_under(heading):
    """The commands of the first bash block under a heading of the README; a backslash joins lines."""
    readme = (ROOT / "README.md").read_text()
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", readme, flags=re.MULTILINE | re.DOTALL)
    assert section, f"README.md has no section '## {heading}'"
    block = re.search(r"^```bash\n(.*?)^```", section[1], flags=re.MULTILINE | re.DOTALL)
    assert block, f"README.md has no bash block under '## {heading}'"
    lines = (" ".join(line.split()) for line in block[1].replace("\\\n", " ").splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def test_the_automatic_check_runs_the_test_command_of_the_readme():
    commands = commands_under("Tests")
    assert len(commands) == 1
    script = ROOT / ".ci" / "run"
    assert commands[0] in script.read_text().splitlines()
    assert os.access(script, os.X_OK)


def test_quickstart_has_commands():
    assert commands_under("Quickstart")
