"""Where things are that several tests read."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
GOLDEN = ROOT / "tests" / "golden"
HELPERS = ROOT / "tests" / "helpers"
TOOLS = ROOT / "tools"
REAL_DATA = ROOT.parent / "shared" / "data"  # real photographs; tests that need them are skipped without
