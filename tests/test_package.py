"""detkit as somebody gets it who has no clone: built, installed, and used in an empty folder, without a network."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
from paths import ROOT

PARTS = (".ci", "configs", "detkit", "docs", "tests/helpers", "tools")
SMALL = {"batch_size": 2, "train.length": 4, "train.size": 64, "val.length": 2, "val.size": 64}
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that the source distribution builds."""
    folder = tmp_path_factory.mktemp("build")
    tree, out = folder / "tree", folder / "out"
    for part in PARTS:
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.iterdir():
        if file.is_file() and file.name != ".git":
            shutil.copy(file, tree)
    run(sys.executable, "-c", BUILD, "build_sdist", out, folder=tree)
    with tarfile.open(next(out.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    run(sys.executable, "-c", BUILD, "build_wheel", out, folder=next((folder / "unpacked").iterdir()))
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The `detkit` command of an environment that has only the wheel and, from here, what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (packages / "dependencies.pth").write_text(
        "\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    )
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--force-reinstall"]
    run(sys.executable, "-m", "pip", "--python", python, "install", *options, wheel, folder=folder)
    return folder / "bin" / "detkit"


def run(*command, folder):
    """The output of a command in `folder`, which sees neither the clone nor a network."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COCO_ROOT")}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    result = subprocess.run([*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_content_of_the_wheel(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    configs = {f"detkit/{path.relative_to(ROOT)}" for path in (ROOT / "configs").rglob("*.py")}
    assert configs | {"detkit/py.typed", "detkit/vidt/model.py"} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"detkit"}
    description = message_from_string(metadata).get_payload()
    assert description.startswith("# detkit")
    assert not re.search(r"\]\((?!https?:|#)", description) and "<img" not in description


def test_source_distribution_has_tests_and_documents(wheel):
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        names = {str(Path(*Path(name).parts[1:])) for name in archive.getnames()}
    assert {"README.md", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "constraints.txt", ".ci/run"} <= names
    assert {"tests/helpers/paths.py", "docs/matchme.md", "tools/train.py", "configs/_base/vidt.py"} <= names


def test_commands_in_an_empty_folder(installed, tmp_path):
    assert "vidt_plus_swin_base" in run(installed, "configs", folder=tmp_path)
    (tmp_path / "mine.py").write_text(run(installed, "config", "quickstart", folder=tmp_path))
    printed = run(installed, "train", "mine.py", "--print-config", folder=tmp_path)
    assert printed == run(installed, "train", "quickstart", "--print-config", folder=tmp_path)
    small = ["train.max_steps=2", "train.draw_samples=0", "train.device=cpu", "train.tensorboard=false"]
    small += [f"data.{part}={value}" for part, value in SMALL.items()]
    assert "finished after step 2" in run(installed, "train", "quickstart", "--set", *small, folder=tmp_path)
    assert (tmp_path / "runs" / "quickstart" / "best.safetensors").is_file()
