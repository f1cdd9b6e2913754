import sys

import pytest
from paths import CONFIGS

from detkit.config import (
    apply_overrides,
    config_names,
    find_config,
    format_config,
    load_config,
    missing_data_hint,
    resolve_config,
    to_json,
)
from detkit.config.overrides import parse_value
from detkit.data.coco import CocoDataset
from detkit.registry import ConfigError


def small_config():
    return dict(
        model=dict(type="ViDT", backbone=dict(type="Swin", depths=[2, 2])),
        data=dict(train=dict(type="Scenes"), transforms=[dict(type="Flip", p=0.5)], batch_size=2),
        train=dict(epochs=3),
    )


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_config_files_import_what_lies_beside_them(tmp_path):
    for name in ("first", "second"):
        write(tmp_path / name / "_base" / "shared.py", f"NAME = {name!r}\nPARTS = dict(a=[1])")
        write(tmp_path / name / "run.py", "from _base.shared import NAME, PARTS\nconfig = dict(name=NAME, parts=PARTS)")
    path, modules = list(sys.path), set(sys.modules)
    first = load_config(tmp_path / "first" / "run.py")
    assert first == dict(name="first", parts=dict(a=[1]))
    assert load_config(tmp_path / "second" / "run.py")["name"] == "second"
    assert sys.path == path and set(sys.modules) == modules
    assert not list(tmp_path.rglob("__pycache__"))


def test_errors_of_config_files_say_where(tmp_path):
    write(tmp_path / "vidt_nano.py", "config = dict()")
    with pytest.raises(ConfigError, match=r"vidt_nan.py does not exist; did you mean .*vidt_nano.py"):
        load_config(tmp_path / "vidt_nan.py")
    write(tmp_path / "helper.py", "def make():\n    return 1 / 0")
    with pytest.raises(ConfigError, match=r"helper.py:2: ZeroDivisionError"):
        load_config(write(tmp_path / "raises.py", "from helper import make\nconfig = make()"))
    with pytest.raises(ConfigError, match=r"syntax.py:2: SyntaxError"):
        load_config(write(tmp_path / "syntax.py", "a = 1\nconfig = dict(\n"))
    with pytest.raises(ConfigError, match=r"empty.py: must define a dict named 'config'"):
        load_config(write(tmp_path / "empty.py", "confg = {}"))


def test_overrides_parse_values_and_leave_the_original_alone():
    config = small_config()
    settings = ["train.epochs=12", "train.ema=0.99", "train.tensorboard=False", "train.clip_norm=none"]
    settings += ["data.transforms.0.p=1", "model.backbone.name=swin nano", "model.backbone.depths=[1, 2]"]
    settings += ["optimizer.lr=1e-3", "schedule.warmup_steps=5", "data.train.path=a=b"]
    changed = apply_overrides(config, settings)
    assert changed["train"] == dict(epochs=12, ema=0.99, tensorboard=False, clip_norm=None)
    assert changed["data"]["transforms"][0]["p"] == 1 and changed["data"]["train"]["path"] == "a=b"
    assert changed["model"]["backbone"] == dict(type="Swin", name="swin nano", depths=[1, 2])
    assert changed["optimizer"] == dict(lr=1e-3) and changed["schedule"] == dict(warmup_steps=5)
    assert config == small_config()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epoch=1", "train: unknown key 'epoch', did you mean 'epochs'? Valid: accumulate, "),
        ("modle.type=A", "config: unknown key 'modle', did you mean 'model'?"),
        ("model.bacbone.type=A", "model: unknown key 'bacbone', did you mean 'backbone'?"),
        ("model.type.x=1", "model.type: is 'ViDT' and has no key 'x'"),
        ("train.epochs.x=1", "train.epochs: is 3 and has no key 'x'"),
        ("data.transforms.1.p=1", "data.transforms: has 1 items, '1' is not the number of one of them"),
        ("train.epochs", "override 'train.epochs': expected path=value"),
    ],
)
def test_bad_overrides(setting, message):
    with pytest.raises(ConfigError) as error:
        apply_overrides(small_config(), [setting])
    assert str(error.value).startswith(message)


def test_the_resolved_config_states_every_option_and_reads_back(tmp_path):
    resolved = resolve_config(small_config())
    assert resolved["train"]["clip_norm"] == 0.1 and resolved["schedule"] == dict(type="cosine")
    assert resolved["optimizer"]["betas"] == [0.9, 0.999] and resolved["data"]["val"] is None
    assert resolve_config(resolved) == resolved
    path = write(tmp_path / "again.py", format_config(resolved | dict(evaluator={"type": "A", "not a name": 1})))
    assert load_config(path) == resolved | dict(evaluator={"type": "A", "not a name": 1})
    assert max(map(len, path.read_text().splitlines())) < 120


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "epoch", 3, "train: unknown option 'epoch', did you mean 'epochs'? Valid: accumulate"),
        ("data", "worker", 3, "data: unknown option 'worker', did you mean 'workers'?"),
        ("data", "batch_size", 0, "data.batch_size: must be a whole number from 1 to 65,536, got 0"),
        ("train", "accumulate", None, "train.accumulate: must be a whole number from 1 to 65,536, got None"),
        ("train", "checkpoint_every", 1.5, "train.checkpoint_every: must be a whole number"),
        ("model", "function", print, "config.model.function: <built-in function print> (builtin_function"),
        ("model", "list", [1, {2: 3}], "config.model.list.1: key 2 is not a string"),
        ("model", "scale", float("nan"), "config.model.scale: nan is not finite"),
    ],
)
def test_bad_options(section, key, value, message):
    config = small_config()
    config[section][key] = value
    with pytest.raises(ConfigError) as error:
        resolve_config(config)
    assert str(error.value).startswith(message)


def test_bad_sections():
    with pytest.raises(ConfigError, match=r"config: unknown option 'optim', did you mean 'optimizer'\?"):
        resolve_config(small_config() | dict(optim={}))
    with pytest.raises(ConfigError, match=r"config: section 'model' is missing"):
        resolve_config({k: v for k, v in small_config().items() if k != "model"})
    with pytest.raises(ConfigError, match=r"train: option 'epochs' is missing"):
        resolve_config(small_config() | dict(train={}))
    with pytest.raises(ConfigError, match=r"optimizer.lr: must be a number .*, got '1e-4'"):
        resolve_config(small_config() | dict(optimizer=dict(lr="1e-4")))


def test_tuples_become_lists_in_json():
    assert to_json({"a": (1, 2)}) == to_json({"a": [1, 2]})


def test_each_optimizer_has_its_own_options():
    def resolved(**optimizer):
        return resolve_config(small_config() | dict(optimizer=optimizer))["optimizer"]

    common = dict(lr=1e-4, weight_decay=1e-4, backbone_lr_scale=1.0)
    assert resolved() == dict(common, type="AdamW", betas=[0.9, 0.999])
    assert resolved(type="Adam", lr=0.1) == dict(common, type="Adam", lr=0.1, betas=[0.9, 0.999])
    assert resolved(type="SGD", momentum=0.8) == dict(common, type="SGD", momentum=0.8)
    for optimizer, message in (
        (dict(momentum=0.9), r"optimizer \(AdamW\): unknown option 'momentum'. Valid: backbone_lr_scale, betas, lr"),
        (dict(type="SGD", betas=[0.9, 0.9]), r"optimizer \(SGD\): unknown option 'betas'"),
        (dict(type="SGD", momentun=0.9), r"unknown option 'momentun', did you mean 'momentum'\?"),
        (dict(type="sgd"), r"optimizer.type: unknown optimizer 'sgd'. Valid: Adam, AdamW, SGD"),
        (dict(type="SGD", momentum=1.0), r"optimizer.momentum: must be a number of at least 0 and below 1, got 1.0"),
        (dict(betas=[0.9]), r"optimizer.betas: must be a list of 2 items: .*, got \[0.9\]"),
    ):
        with pytest.raises(ConfigError, match=message):
            resolved(**optimizer)


def test_overrides_of_the_optimizer():
    settings = ["optimizer.type=SGD", "optimizer.momentum=0.8"]
    assert resolve_config(apply_overrides(small_config(), settings))["optimizer"]["momentum"] == 0.8
    assert apply_overrides(small_config(), ["optimizer.betas=(0.8, 0.9)"])["optimizer"]["betas"] == (0.8, 0.9)
    with pytest.raises(ConfigError, match="unknown key 'momentum'"):
        apply_overrides(small_config(), ["optimizer.momentum=0.8"])


def test_names_of_shipped_configs():
    assert {"quickstart", "vidt_plus_swin_base", "wssis_coco_05p", "match_spair"} <= set(config_names())
    assert find_config("vidt_swin_n") == find_config("vidt_swin_nano")
    assert load_config("vidt_plus_swin_b") == load_config(CONFIGS / "vidt_plus_swin_b.py")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("quikstart", "config quikstart does not exist; did you mean quickstart or "),
        ("min", "config min does not exist; did you mean mine.py?"),
        ("mien.py", "config file mien.py does not exist; did you mean mine.py?"),
        ("configs/vidt_swin_n.py", "config file configs/vidt_swin_n.py does not exist; did you mean vidt_swin_nano"),
        ("zzz", "config zzz does not exist; `detkit configs` lists those that come with detkit"),
    ],
)
def test_misspelt_configs(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", "config = dict()")
    with pytest.raises(ConfigError) as error:
        load_config(name)
    assert str(error.value).startswith(message)


def test_own_configs_import_shipped_ones_by_name(tmp_path):
    text = "from _base.own import NAME\nfrom _base.vidt import vidt\nfrom cats_custom import config as matcher\n"
    write(tmp_path / "_base" / "own.py", "NAME = 'mine'")
    path = write(tmp_path / "mine.py", f"{text}config = dict(name=NAME, model=vidt('nano'), matcher=matcher)")
    modules = set(sys.modules)
    config = load_config(path)
    assert config["name"] == "mine" and config["model"]["type"] == "ViDT" and config["matcher"]["train"]
    assert set(sys.modules) == modules


def test_a_missing_data_folder_is_named_with_its_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("COCO_ROOT", str(tmp_path / "coco"))
    data = load_config("vidt_swin_nano")["data"]["train"]
    with pytest.raises(ValueError, match=r"coco does not exist: set the environment variable COCO_ROOT to where it is"):
        CocoDataset(data["annotation_file"], data["image_folder"])
    (tmp_path / "coco").mkdir()
    assert missing_data_hint(data["annotation_file"]) == "" == missing_data_hint(tmp_path / "other")


def test_imported_files_are_relative_to_the_config(tmp_path, monkeypatch):
    path = write(tmp_path / "own" / "run.py", "config = dict(imports=('parts.py', '../more.py', 'package.models'))")
    imports = [str(tmp_path / "own" / "parts.py"), str(tmp_path / "more.py"), "package.models"]
    assert load_config(path)["imports"] == imports
    monkeypatch.chdir(tmp_path)
    config = {**small_config(), "imports": ["parts.py"], "hooks": (dict(type="Count"),)}
    resolved = resolve_config(config)
    assert resolved["imports"] == [str(tmp_path / "parts.py")] and resolved["hooks"] == [{"type": "Count"}]
    assert resolve_config(small_config())["imports"] == resolve_config(small_config())["hooks"] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(imports="parts.py"), r"imports: expected a list of module names and \.py files, got 'parts\.py'"),
        (dict(hooks=dict(type="Count")), r"hooks: expected a list of dicts such as dict\(type='MyHook'\)"),
        (dict(hook=[]), r"config: unknown option 'hook', did you mean 'hooks'\?"),
    ],
)
def test_imports_and_hooks_are_lists(changes, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config({**small_config(), **changes})


def test_overrides_of_lists():
    config = {**small_config(), "hooks": [dict(type="Count")]}
    assert apply_overrides(config, ["hooks.0.every=3"])["hooks"] == [dict(type="Count", every=3)]
    assert apply_overrides(small_config(), ["imports=['parts.py']"])["imports"] == ["parts.py"]
    with pytest.raises(ConfigError, match=r"hooks: has 1 items, '1' is not the number of one of them"):
        apply_overrides(config, ["hooks.1.every=3"])
    with pytest.raises(ConfigError, match=r"config: 'hooks' is not in the config, so nothing inside of it can be set"):
        apply_overrides(small_config(), ["hooks.0.every=3"])


@pytest.mark.parametrize(
    ("text", "value"),
    [("10_000", 10000), ("1_000_000", 1000000), ("2024_01", "2024_01"), ("2024", 2024)],
)
def test_underscores_part_thousands_only(text, value):
    assert parse_value(text) == value
