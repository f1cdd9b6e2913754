"""`detkit train FOLDER`, as it is typed; on tiny images, without a network."""

import json

import pytest
from processes import run_ranks
from toy_run import toy_config

import detkit
from detkit.cli import main
from detkit.data.export import export_scenes
from detkit.engine.writers import read_metrics
from detkit.pipelines.finetune import budget, start

SMALL = ["data.batch_size=2", "data.workers=0", "train.tensorboard=false", "train.draw_samples=1"]
TINY = ["model.backbone.dims=(8,16,16,32)", "model.hidden_dim=32", "model.ffn_dim=32", "model.heads=2"]


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """A folder of six images, where nothing can be downloaded and few steps are measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DETKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(start, "answers", lambda url: False)
    monkeypatch.setattr(budget, "TIMED", 1)
    monkeypatch.setattr(budget, "WARM_UP", 1)
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    export_scenes(tmp_path / "my scenes", train=6, val=2, size=64)
    return tmp_path


def test_a_folder_is_trained_on_resumed_and_used(place, capsys):
    settings = ["--set", *SMALL, *TINY, "model.mask_vectors=8", "train.epochs=2"]
    assert main(["train", "my scenes", *settings, "train.max_steps=4"]) == 0
    printed = capsys.readouterr().out
    first = [line.split()[0] for line in printed.splitlines()[:6]]
    assert first == ["device", "data", "efficientnet_lite0", "model", "start", "time"]
    assert "my scenes: coco, 6 classes (disk, square," in printed and "6 training and 2 validation images" in printed
    assert "random weights" in printed and ": 4 steps, 2 epochs, 3 evaluations (" in printed
    run = place / "runs" / "my scenes"
    assert {"data", "samples", "best.safetensors", "config.json"} <= {path.name for path in run.iterdir()}
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["val"]["annotation_file"] == str(run / "data" / "val.json")
    rows = [row["step"] for row in read_metrics(run / "metrics.jsonl") if row["kind"] == "val"]
    assert rows == [1, 3, 4]  # after a fifth, after an epoch, at the end
    assert main(["train", "my scenes", "--set", *SMALL]) == 2
    assert "is not empty: resume the run in it (--resume)" in capsys.readouterr().err
    assert main(["train", "my scenes", "--resume", "--set", "train.max_steps=5"]) == 0
    assert "finished after step 5" in capsys.readouterr().out
    (place / "others").mkdir()
    assert main(["train", "others", "--out", str(run), "--resume"]) == 2
    assert f"learns from {place / 'my scenes'}, not from others: name another --out" in capsys.readouterr().err
    figures = detkit.evaluate(run, device="cpu", set=["data.workers=0"])
    assert {"bbox/AP", "segm/AP"} <= figures.keys()


def test_from_python_with_a_config_and_data_for_some_minutes(place, capsys):
    settings = [*SMALL, *TINY, "train.draw_samples=0"]
    run = detkit.train("finetune_cpu", "my scenes", out="run", minutes=0.02, set=settings)
    assert run.out.name == "run" and run.step == run.total_steps >= 1 and not run.interrupted
    config = json.loads((place / "run" / "config.json").read_text())
    resumed = detkit.train("finetune_cpu", "my scenes", out="run", minutes=0.02, set=settings, resume=True)
    assert resumed.config == config and resumed.step == run.step


def test_two_processes_agree_on_what_they_measure(place):
    config = toy_config()  # without convolutions: a forked process cannot use the threads that they had in this one
    codes, log = run_ranks(lambda: detkit.train(config, out="two", minutes=0.02), place / "log")
    assert codes == [0, 0], log
    assert log.count("time   about") == 1 and "finished after step" in log


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["my scenes", "--minutes", "1", "--set", "train.epochs=3"],
            "--minutes: must be above 0, and says how many epochs there are",
        ),
        (["my scenes", "--data", "my scenes"], "are both data: name a config and data"),
        (["my scenes", "--print-config"], "--print-config is for a config alone"),
        (["absent.json"], "absent.json does not exist"),
        (["my scens"], "my scens is neither a folder or file of data nor a config: config my scens does not exist"),
        (["my scenes", "--minutes", "0"], "--minutes: must be above 0"),
        (["my scenes", "--format", "yolo"], "holds no yolo"),
        (["my scenes", "--freeze", "backbone", "--set", *SMALL], "train.freeze: the backbone starts from random"),
        (["my scenes", "--set", "train.init_from=vidt_plus_swin_nan"], "did you mean 'vidt_plus_swin_nano'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, message, capsys):
    assert main(["train", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line


def test_resume_in_a_folder_of_something_else_writes_nothing(place, capsys):
    (place / "photos").mkdir()
    (place / "photos" / "cat.jpg").touch()
    assert main(["train", "my scenes", "--out", "photos", "--resume"]) == 2
    assert "error: photos holds no run to resume" in capsys.readouterr().err
    assert [path.name for path in (place / "photos").iterdir()] == ["cat.jpg"]


def test_a_config_for_a_gpu_says_what_a_cpu_takes(place, capsys):
    words = ["finetune", "--set", "data.train.annotation_file=absent.json", "data.train.image_folder=x"]
    assert main(["train", *words, "train.device=cpu", "data.val=none", "model.backbone.pretrained=none"]) == 2
    assert "finetune is meant for a GPU, and this run has none: `detkit train finetune_lite`" in capsys.readouterr().out
