"""`detkit evaluate`, `report` and `compare` as a user has them."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

import detkit
from detkit.checkpoints.weights import make_header, read_header, read_weights, save_weights
from detkit.cli import main
from detkit.reports.evaluated import evaluate_checkpoint

TINY = """
config = dict(
    model=dict(
        type="ViDT",
        backbone=dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=9,
                      pos_dim=32),
        hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64, fusion=True, mask_vectors=16,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    ),
    data=dict(
        train=dict(type="SyntheticScenes", length=4, size=64, masks=True),
        val=dict(type="SyntheticScenes", length=6, seed=1, size=64, masks=True),
        batch_size=4, workers=0,
    ),
    evaluator=dict(type="CocoEvaluator", iou_types=["bbox", "segm"]),
    train=dict(epochs=1, draw_samples=0, device="cpu"),
)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    (folder / "tiny.py").write_text(TINY)
    assert main(["train", str(folder / "tiny.py"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


def bytes_of_tensors(path):
    content = path.read_bytes()
    return content[8 + int.from_bytes(content[:8], "little") :]


def test_evaluate_writes_figures_beside_the_detections(run, tmp_path, capsys):
    assert main(["evaluate", str(run)]) == 0
    assert "figures to" in capsys.readouterr().out
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 6 and metrics["objects"] > 0
    logged = read_header(run)["metrics"]
    assert metrics["figures"] == {name: None if value < 0 else pytest.approx(value) for name, value in logged.items()}
    disk = metrics["classes"]["segm"]["disk"]
    assert {"AP", "AP50", "APs", "APl", "AR100", "ARm"} <= disk.keys()
    assert len(json.loads((run / metrics["detections"]).read_text())) == 6 * 9 * 6
    out = tmp_path / "elsewhere"
    out.mkdir()
    assert main(["evaluate", str(run / "last.safetensors"), "--out", str(out / "found.json")]) == 0
    assert {path.name for path in out.iterdir()} == {"found.json", "metrics.json"}
    assert main(["evaluate", str(run), "--out", str(out / "metrics.json")]) == 2
    assert "choose another name" in capsys.readouterr().err


def test_report_writes_a_page_and_stores_thresholds(run, capsys):
    before, weights = read_header(run), bytes_of_tensors(run / "best.safetensors")
    assert main(["report", str(run)]) == 0
    assert str(run / "report.html") in capsys.readouterr().out
    page = (run / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") and "loss_bbox" in page and "SyntheticScenes" in page
    after = read_header(run)
    thresholds = after.pop("thresholds")
    assert after == before and bytes_of_tensors(run / "best.safetensors") == weights
    assert list(thresholds) == ["disk", "square", "triangle", "star", "ring", "cross"]
    assert all(0.05 <= value <= 1 for value in thresholds.values())
    assert detkit.load(run).thresholds == thresholds
    assert detkit.load(run / "last.safetensors").thresholds is None
    read_weights(run)  # its checksums are right
    with safe_open(run / "best.safetensors", "pt") as file:
        assert len(file.keys()) > 10


def test_an_evaluation_is_not_done_twice(run):
    first, detections = evaluate_checkpoint(run), run / "detections.json"
    written = detections.stat().st_mtime_ns
    again = evaluate_checkpoint(run)
    assert detections.stat().st_mtime_ns == written
    assert (again.rows == first.rows).all() and again.masks == first.masks
    assert (again.figures, again.classes) == (first.figures, first.classes)
    evaluate_checkpoint(run, set=["data.val.seed=5"])
    assert detections.stat().st_mtime_ns == written
    detections.write_text("[")
    assert (evaluate_checkpoint(run).rows == first.rows).all() and len(json.loads(detections.read_text())) > 10


def test_a_checkpoint_gets_its_report_beside_it(run, tmp_path):
    copy = Path(shutil.copy(run / "last.safetensors", tmp_path / "mine.safetensors"))
    assert detkit.report(copy) == tmp_path / "mine_report.html"
    assert "There is no metrics.csv" in (tmp_path / "mine_report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.safetensors", "mine_report.html", "run"]


def test_compare_a_run_with_itself_and_with_another(run, tmp_path, capsys):
    same = detkit.compare(run, run / "best.safetensors", resamples=20)
    assert same["changed"] == []
    assert all(row["difference"] == row["low"] == row["high"] == 0 for row in same["figures"].values())
    noisy = tmp_path / "noisy.safetensors"
    model = detkit.load(run)
    state = {name: value + 0.2 if name.endswith("bias") else value for name, value in model.state_dict().items()}
    save_weights(noisy, state, make_header(read_header(run)["config"], model))
    assert main(["compare", str(run), str(noisy), "--out", str(tmp_path / "out.json")]) == 0
    printed = capsys.readouterr().out
    assert "1000 times 6 images" in printed and "seed 0" in printed and "segm/AP of disk" in printed
    content = json.loads((tmp_path / "out.json").read_text())
    for name in ("bbox/AP50", "segm/AP"):
        row = content["figures"][name]
        assert row["difference"] == pytest.approx(row["b"] - row["a"]) and row["low"] <= row["high"]
        assert row["a"] == pytest.approx(read_header(run)["metrics"][name])


@pytest.mark.parametrize("command", ["report", "compare"])
def test_bad_input_is_one_line(run, tmp_path, capsys, command):
    empty, absent = tmp_path / "empty", tmp_path / "absent.safetensors"
    empty.mkdir()
    gone = [
        "--set",
        f"data.val={{'type': 'CocoDataset', 'annotation_file': '{tmp_path}/gone.json', 'image_folder': 'x'}}",
    ]
    others = [str(run)] if command == "compare" else []
    cases = {
        "holds no best.safetensors or last.safetensors": [str(empty)],
        "does not exist": [str(absent)],
        "gone.json": [str(run), *gone],
        "no folder" if command == "report" else "in a folder that exists": [str(run), "--out", f"{tmp_path}/no/a.html"],
    }
    for message, (source, *options) in cases.items():
        assert main([command, source, *others, *options]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("error: ") == 1 and "Traceback" not in error


def test_a_checkpoint_without_validation_data(run, capsys):
    config = read_header(run)["config"]
    model = detkit.load(run)
    header = make_header({**config, "data": {**config["data"], "val": None}}, model)
    save_weights(run / "best.safetensors", model.state_dict(), header)
    assert main(["report", str(run)]) == 2
    assert "data.val: is missing" in (error := capsys.readouterr().err) and "--set data.val.annotation_file" in error


def test_different_validation_sets_are_not_compared(run, tmp_path, capsys):
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = read_header(run)["config"]
    val = {**config["data"]["val"], "seed": 2}
    model = detkit.load(run)
    header = make_header({**config, "data": {**config["data"], "val": val}}, model)
    save_weights(other / "best.safetensors", model.state_dict(), header)
    assert main(["compare", str(run), str(other)]) == 2
    assert "different validation sets" in capsys.readouterr().err
