"""The configs that come with detkit: found by name, described by their headers, printed to be edited."""

import ast
import json
import re

import pytest
from paths import CONFIGS

from detkit.cli import main
from detkit.cli.configs import command_of, docstring
from detkit.config import config_names, find_config, load_config, resolve_config, to_json
from detkit.pipelines.matchme import config as matchme_config
from detkit.pipelines.wssis import config as wssis_config

SHIPPED = [path for path in sorted(CONFIGS.rglob("*.py")) if path.parent.name != "_base"]


@pytest.mark.parametrize("name", config_names())
def test_every_config_resolves(name):
    config = load_config(name)
    if command_of(config) == "wssis":
        own_data = name in ("wssis_custom", "wssis_cpu")
        missing = ("annotation_file", "image_folder", "val", "val_image_folder") if own_data else ()
        assert wssis_config.resolve(wssis_config.override(config, [f"split.{name}=here" for name in missing]))
    elif command_of(config) == "match":
        assert matchme_config.resolve(config)
    else:
        assert resolve_config(config)["model"]["type"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_header_says_command_time_and_score(path):
    header = docstring(path)
    commands = [line for line in header.splitlines() if line.startswith("    ")]
    expected = "ablate" if path.stem.startswith("ablation") else command_of(load_config(path))
    assert any(re.search(rf"detkit {expected} {path.stem}( |$)", line) for line in commands)
    assert re.search(r"^Time: .+\.$", header, flags=re.MULTILINE) and re.search(r"^Score: ", header, flags=re.MULTILINE)


def test_every_config_has_a_name_of_its_own():
    assert len({path.stem for path in SHIPPED}) == len(SHIPPED)


@pytest.mark.parametrize("name", config_names())
def test_no_config_depends_on_the_current_folder(name, monkeypatch):
    for variable in ("COCO_ROOT", "SPAIR_ROOT", "SPAIR_POOL", "PF_PASCAL_ROOT", "PAIRS_ROOT"):
        monkeypatch.setenv(variable, "/data")
    files = [text for text in strings(load_config(name)) if re.search(r"\.(json|pth|safetensors|csv)$|/", text)]
    assert [file for file in files if not file.startswith(("/data", "https://"))] == []


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def test_configs_lists_every_config(capsys):
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[: len(config_names())]] == config_names()
    assert "vidt_plus_swin_t" in lines[-2]


@pytest.mark.parametrize("name", ["quickstart", "vidt_plus_swin_b", "wssis_coco_05p", "match_spair"])
def test_a_printed_config_is_a_file_of_its_own_that_says_the_same(name, capsys, tmp_path, monkeypatch):
    assert main(["config", name]) == 0
    text = capsys.readouterr().out
    assert text.startswith("# A copy of the config")
    imported = {node.module for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom)}
    assert imported <= {"detkit.config"}
    (tmp_path / "mine.py").write_text(text)
    for folder in (None, "/elsewhere"):
        for variable in ("COCO_ROOT", "SPAIR_ROOT", "SPAIR_POOL"):
            if folder:
                monkeypatch.setenv(variable, folder)
        assert resolved(tmp_path / "mine.py") == resolved(name)


def resolved(source):
    config = load_config(source)
    return json.loads(to_json(config)) if command_of(config) != "train" else resolve_config(config)


def test_commands_of_a_printed_config_are_those_of_the_copy(capsys):
    assert main(["config", "finetune"]) == 0
    assert "#     detkit train mine.py --out runs/mine --set \\\n" in capsys.readouterr().out


def test_a_run_is_named_after_its_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", "quickstart"]) == 2
    assert "runs/quickstart holds no best.safetensors" in capsys.readouterr().err
    assert main(["evaluate", "quikstart"]) == 2
    assert "config quikstart does not exist; did you mean quickstart" in capsys.readouterr().err


def test_find_config_takes_files_before_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart.py").write_text("config = dict(name='mine')")
    assert find_config("quickstart.py") == tmp_path / "quickstart.py"
    assert find_config("quickstart") == CONFIGS / "quickstart.py"
