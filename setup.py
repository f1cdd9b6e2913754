"""What pyproject.toml cannot say about the package: the configs inside of it, and its description on an index."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def config_packages() -> list[str]:
    """The folder configs/ and those in it, which become `detkit.configs`."""
    folders = {path.parent for path in (ROOT / "configs").rglob("*.py")}
    return [".".join(["detkit", *folder.relative_to(ROOT).parts]) for folder in sorted(folders)]


def description() -> str:
    """README.md without relative links, which lead nowhere on a package index: pictures go, of links the text stays."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^\]]*)\]\((?!https?:|mailto:|#)([^)]*)\)", r"\1 (\2)", text)


setup(
    packages=[*find_packages(ROOT, include=["detkit", "detkit.*"]), *config_packages()],
    package_dir={"detkit.configs": "configs"},
    package_data={"detkit": ["py.typed"]},
    long_description=description(),
    long_description_content_type="text/markdown",
)
