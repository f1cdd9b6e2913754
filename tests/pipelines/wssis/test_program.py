import json
from shutil import copyfile, copytree

import pytest
from paths import ROOT

from detkit.cli import main
from detkit.config import load_config
from detkit.pipelines.wssis import program as wssis
from detkit.pipelines.wssis.config import override, resolve
from detkit.pipelines.wssis.program import run_wssis
from detkit.registry import ConfigError

SOLO = dict(
    type="SOLOv2",
    backbone=dict(
        type="FPN",
        body=dict(
            type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=1, pos_dim=16
        ),
        out_channels=16,
    ),
    num_grids=(6, 5, 4, 3, 2),
    scale_ranges=((1, 24), (16, 40), (32, 64), (48, 96), (64, 2048)),
    instance_channels=16,
    instance_convs=1,
    kernel_channels=16,
    mask_channels=16,
    postprocess=dict(type="SoloPostprocess", nms="mask", score_threshold=0.0),
    input_rule=dict(shortest=64, longest=64),
)
RUN = dict(
    model=SOLO,
    data=dict(transforms=[dict(type="RandomFlip")], batch_size=2, workers=0),
    optimizer=dict(lr=1e-3),
    train=dict(max_steps=4, draw_samples=0, tensorboard=False, device="cpu"),
)
CONFIG = dict(
    scenes=dict(images=10, val_images=2, percent=40, options=dict(size=64, object_size=(0.3, 0.6), max_objects=2)),
    teacher=RUN,
    refine=dict(
        teacher_steps=(2, 3),
        crops=dict(size=32),
        model=dict(type="MaskRefiner", encoder="resnet18", width=16, size=32),
        data=dict(batch_size=4, workers=0),
        train=dict(max_steps=2, draw_samples=0, tensorboard=False, device="cpu"),
    ),
    pseudo=dict(batch_size=2, device="cpu"),
    student=RUN,
    bound=True,
    imports=[str(ROOT / "examples" / "own_parts.py")],
    hooks=[dict(type="EpochFiles")],
)
NAMES = ["data", "teacher", "weak_predictions", "strong_predictions", "refiner", "refined_predictions", "labels"]
NAMES += ["student_raw", "student_refined", "bound"]


@pytest.fixture(autouse=True)
def no_slow_extras(monkeypatch):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A complete pipeline; tests copy it."""
    out = tmp_path_factory.mktemp("wssis") / "run"
    run_wssis(CONFIG, out, say=lambda line: None)
    return out


def changed(**options):
    config = json.loads(json.dumps(CONFIG))  # nothing in it is shared
    for path, value in options.items():
        *parents, last = path.split("__")
        section = config
        for key in parents:
            section = section[key]
        section[last] = value
    return config


def load(path):
    return json.loads(path.read_text())


def test_all_stages_leave_plain_files(whole):
    assert all((whole / name / "done.json").is_file() for name in NAMES)
    strong, weak = load(whole / "data" / "strong.json"), load(whole / "data" / "weak.json")
    assert (len(strong["images"]), len(weak["images"])) == (4, 6)
    predictions = load(whole / "weak_predictions" / "predictions.json")
    ids = {a["id"] for a in weak["annotations"]}
    assert predictions and all({"point", "segmentation"} <= p.keys() and p["annotation_id"] in ids for p in predictions)
    assert [p.name for p in sorted((whole / "strong_predictions").glob("step_*"))] == ["step_2.json", "step_3.json"]
    refined = load(whole / "refined_predictions" / "predictions.json")
    assert [p["annotation_id"] for p in refined] == [p["annotation_id"] for p in predictions]
    for kind, made in (("raw", predictions), ("refined", refined), ("truth", weak["annotations"])):
        labels = load(whole / "labels" / f"{kind}.json")
        assert len(labels["images"]) == 10
        assert [a["id"] for a in labels["annotations"]] == list(range(1, len(strong["annotations"]) + len(made) + 1))
        assert sum(a.get("pseudo", False) for a in labels["annotations"]) == (0 if kind == "truth" else len(made))


def test_imports_and_hooks_are_those_of_every_run(whole):
    for name in ("teacher", "refiner", "student_raw", "student_refined", "bound"):
        config = load(whole / name / "run" / "config.json")
        assert (config["imports"], config["hooks"]) == (CONFIG["imports"], CONFIG["hooks"])
    assert (whole / "teacher" / "run" / "epochs" / "001.json").is_file()


def test_the_report(whole):
    report = load(whole / "report.json")
    assert list(report["runs"]) == ["teacher", "student_raw", "student_refined", "bound"]
    assert all("segm/AP" in figures for figures in report["runs"].values())
    weak = load(whole / "data" / "weak.json")["annotations"]
    answered = {p["annotation_id"] for p in load(whole / "weak_predictions" / "predictions.json")}
    quality = report["labels"]
    assert quality["points"] == len(weak) and quality["raw"]["unanswered"] == len(weak) - len(answered)
    assert 0 < quality["raw"]["mean IoU"] <= quality["raw"]["mean IoU of answers"] <= 1
    assert "refined masks" in (whole / "report.md").read_text()
    for name in ("report.png", "examples.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")


def test_a_second_run_does_nothing(whole, monkeypatch):
    monkeypatch.setattr(wssis, "train_in", None)
    monkeypatch.setattr(wssis, "load_model", None)
    (whole / "report.md").unlink()
    lines = []
    run_wssis(CONFIG, whole, say=lines.append)
    assert [line.split()[2] for line in lines] == [f"{name}:" for name in NAMES]
    assert all(line.endswith("complete, skipped") for line in lines) and (whole / "report.md").is_file()


def test_workers_and_devices_do_not_count_but_rates_do(whole, tmp_path):
    run_wssis(changed(student__data__workers=1, student__train__log_every=9), whole, say=lambda line: None)
    with pytest.raises(ConfigError, match=r"stage 'student_raw'.*\n  config.optimizer.lr: 0.001 then, 0.01 now"):
        run_wssis(changed(student__optimizer=dict(lr=0.01)), whole, say=lambda line: None)


@pytest.mark.parametrize("stage", ["teacher", "labels"])
def test_a_pipeline_that_was_killed_goes_on(whole, tmp_path, monkeypatch, stage):
    out = tmp_path / "run"
    run = wssis.Pipeline.train if stage == "teacher" else wssis.Pipeline.labels
    calls = []

    def killed(*arguments, **options):
        result = run(*arguments, **options)
        calls.append(result)
        raise KeyboardInterrupt

    config = changed(refine=None, bound=False)
    monkeypatch.setattr(wssis.Pipeline, "train" if stage == "teacher" else "labels", killed)
    with pytest.raises(KeyboardInterrupt):
        run_wssis(config, out, say=lambda line: None)
    monkeypatch.undo()
    lines = []
    run_wssis(config, out, say=lines.append)
    assert f"{stage}: complete, skipped" in "\n".join(lines) and "student_raw: done" in "\n".join(lines)
    assert load(out / "report.json")["runs"]["teacher"] == load(whole / "report.json")["runs"]["teacher"]


def test_a_training_that_was_stopped_goes_on_from_its_checkpoint(whole):
    before = load(whole / "report.json")
    student = whole / "student_raw"
    (student / "done.json").rename(student / "begun.json")
    (student / "run" / "last.safetensors").unlink()
    lines = []
    run_wssis(CONFIG, whole, say=lines.append)
    assert "student_raw: done in" in "\n".join(lines) and "student_refined: complete, skipped" in "\n".join(lines)
    assert load(whole / "report.json") == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(teacher__optimzer={}), r"teacher: unknown option 'optimzer', did you mean 'optimizer'"),
        (
            dict(teacher__train=dict(max_stepps=3)),
            r"teacher\.train: unknown option 'max_stepps', did you mean 'max_steps'",
        ),
        (dict(teacher__train=dict(log_every=3)), r"teacher.train: needs epochs or max_steps"),
        (dict(student__data=dict(batch_size=2, train={})), r"student.data.train: the stages fill it in"),
        (dict(pseudo__promt="point"), r"pseudo: unknown option 'promt', did you mean 'prompt'"),
        (
            dict(pseudo__students=("rough",)),
            r"pseudo.students: must be a list that is not empty, each item one of 'raw', 'refined'",
        ),
        (
            dict(pseudo__students=("raw", "raw")),
            r"pseudo.students: must name each kind once",
        ),
        (dict(pseudo__students=("refined",), refine=None), r"pseudo.students: 'refined' needs the section refine"),
        (
            dict(pseudo__prompt="pints"),
            r"pseudo.prompt: must be one of 'point', 'point_with_size', got 'pints'",
        ),
        (dict(pseudo__refine_prompt="class"), r"pseudo.refine_prompt: must be one of"),
        (dict(pseudo__prompt="point_with_size"), r"pseudo.prompt: .* needs boxes; set scenes.boxes=True"),
        (dict(pseudo__batch_size=0), r"pseudo.batch_size: must be a whole number from 1"),
        (dict(refine__crops=dict(size=64)), r"refine.crops.size: is 64, but refine.model.size is 32"),
        (dict(refine__teacher_steps=(2, 9)), r"refine.teacher_steps: 9 is beyond"),
        (dict(refine__teacher_steps=()), r"refine.teacher_steps: must be a list that is not empty"),
        (dict(split=dict(percent=5)), r"one of the sections data, split, scenes, got split and scenes"),
        (dict(scenes=None), r"got none"),
        (dict(scenes=None, split=dict(percent=5)), r"split: option 'annotation_file' is missing"),
        (dict(teacher=None), r"section 'teacher' is missing"),
        (dict(bound="yes"), r"bound: must be True or False"),
        (dict(studnet=RUN), r"config: unknown option 'studnet', did you mean 'student'"),
        (dict(imports="own.py"), r"imports: expected a list of module names"),
        (dict(imports=["absent.py"]), r"imports: the file .*absent\.py does not exist"),
        (dict(hooks=[dict(type="EpochFile")]), r"teacher\.hooks\.0: nothing .* did you mean 'EpochFiles'"),
        (dict(scenes__options=dict(sise=3)), r"scenes\.options: unknown argument 'sise' .* did you mean 'size'"),
        (dict(refine__crops=dict(sise=3)), r"refine\.crops: unknown argument 'sise' .* did you mean 'size'"),
        (dict(student__model__mask_chanels=3), r"student\.model: .*'mask_chanels' .* did you mean 'mask_channels'"),
        (dict(teacher__data__transforms=[dict(type="RandomFlp")]), r"teacher\.data\.transforms\.0: .* 'RandomFlip'"),
    ],
)
def test_config_errors(options, message):
    with pytest.raises(ConfigError, match=message):
        resolve(changed(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(student__model__backbone__bodyy=1), r"^student.model.backbone: unknown argument 'bodyy'"),
        (dict(student__model__backbone__body__pretrained="lost.pth"), r"^student.model.backbone.body .*lost.pth"),
        (dict(student__data__transforms=[dict(type="Flip")]), r"^student.data.transforms.0: nothing is registered"),
        (dict(student__schedule=dict(type="cosine", warmup=3)), r"^student.schedule: unknown argument 'warmup'"),
        (dict(student__evaluator=dict(type="CocoEvaluator", iou=3)), r"^student.evaluator: unknown argument 'iou'"),
        (dict(student__train__device="gpu"), r"^student.train.device: must be auto, cpu, cuda, cuda:1, ..., got 'gpu'"),
        (dict(refine__model__encoder="resnet"), r"^refine.model"),
        (dict(refine__crops=dict(size=32, boxes=3)), r"^refine.crops: unknown argument 'boxes' of RefineCrops"),
        (dict(teacher__train=dict(epochs=1)), r"^refine.teacher_steps: 3 is beyond the 2 steps of the teacher"),
    ],
)
def test_mistakes_in_later_stages_come_to_light_before_the_teacher_trains(whole, tmp_path, options, message):
    copytree(whole / "data", tmp_path / "data")
    copyfile(whole / "config.py", tmp_path / "config.py")
    with pytest.raises(ConfigError, match=message):
        run_wssis(changed(**options), tmp_path, say=lambda line: None)
    assert not (tmp_path / "teacher").exists()


def test_overrides_reach_every_section():
    config = override(CONFIG, ["teacher.train.max_steps=9", "student.optimizer.weight_decay=0", "seed=3"])
    config = override(config, ["scenes.percent=10", "pseudo.refine_prompt=point", "bound=false"])
    config = override(config, ["scenes.options.size=96"])
    resolved = resolve(config)
    assert resolved["teacher"]["train"]["max_steps"] == 9 and resolved["teacher"]["train"]["seed"] == 3
    assert resolved["student"]["optimizer"] == dict(lr=1e-3, weight_decay=0)
    assert resolved["scenes"]["percent"] == 10 and resolved["scenes"]["seed"] == 3
    assert resolved["scenes"]["options"]["size"] == 96 and resolved["bound"] is False
    assert resolve(override(CONFIG, ["bound=true"]))["seed"] == 0
    assert resolved["pseudo"]["refine_prompt"] == "point" and CONFIG["scenes"]["options"]["size"] == 64
    config = override(dict(CONFIG, refine={}), ["refine.crops.max_box=3", "split.percent=3"])
    assert config["refine"]["crops"] == dict(max_box=3) and config["split"] == dict(percent=3)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("techer.train.max_steps=9", r"config: unknown key 'techer', did you mean 'teacher'"),
        ("teacher.trian.max_steps=9", r"teacher: unknown key 'trian', did you mean 'train'"),
        ("teacher.train.maxsteps=9", r"teacher\.train: unknown key 'maxsteps', did you mean 'max_steps'"),
        ("refine.teacher_stps=(1, 2)", r"refine: unknown key 'teacher_stps', did you mean 'teacher_steps'"),
        ("scenes.percnt=3", r"scenes: unknown key 'percnt', did you mean 'percent'"),
        ("scenes.option.size=3", r"scenes: unknown key 'option', did you mean 'options'"),
        ("boundd=true", r"config: unknown key 'boundd', did you mean 'bound'"),
    ],
)
def test_misspelt_overrides(setting, message):
    with pytest.raises(ConfigError, match=message):
        override(CONFIG, [setting])


def test_the_printed_config_states_everything_and_means_the_same(tmp_path, capsys):
    path = tmp_path / "tiny.py"
    path.write_text(f"config = {CONFIG!r}")
    assert main(["wssis", str(path), "--print-config", "--set", "scenes.options.size=80"]) == 0
    path.write_text(printed := capsys.readouterr().out)
    assert main(["wssis", str(path), "--print-config"]) == 0
    assert capsys.readouterr().out == printed
    config = load_config(path)
    assert config["scenes"]["options"]["size"] == 80 and config["scenes"]["points"] == "centre"
    assert config["student"]["train"]["log_every"] == 50 and config["student"]["schedule"]["type"] == "cosine"
    assert config["teacher"]["evaluator"]["iou_types"] == ["segm"] and "epochs" not in config["teacher"]["train"]


def test_the_command(whole, capsys, tmp_path):
    path = tmp_path / "tiny.py"
    path.write_text(f"config = {CONFIG!r}")
    assert main(["wssis", str(path), "--out", str(whole)]) == 0
    assert "| teacher" in capsys.readouterr().out
    assert main(["wssis", str(path), "--out", str(whole), "--set", "refine.optimizer.lr=1"]) == 2
    assert "stage 'refiner'" in capsys.readouterr().err


def test_a_vidt_as_teacher(tmp_path):
    model = dict(
        type="ViDT",
        backbone=dict(
            type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=6, pos_dim=32
        ),
        hidden_dim=32,
        decoder_layers=1,
        heads=4,
        ffn_dim=64,
        fusion=True,
        mask_vectors=16,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    )
    config = changed(teacher__model=model, refine=None, bound=False)
    run_wssis(config, tmp_path / "run", say=lambda line: None)
    report = load(tmp_path / "run" / "report.json")
    assert list(report["runs"]) == ["teacher", "student_raw"] and "refined" not in report["labels"]
    found = load(tmp_path / "run" / "weak_predictions" / "predictions.json")
    assert found and all("annotation_id" in p for p in found)


def test_a_wrong_metric_of_the_student_shows_before_the_teacher_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(wssis, "train_in", lambda *_, **__: pytest.fail("the teacher was trained"))
    config = changed(student__train=dict(RUN["train"], best_metric="segm/mAP"))
    with pytest.raises(ConfigError, match=r"student.train.best_metric: no figure is called 'segm/mAP'. Valid: segm"):
        run_wssis(config, tmp_path / "run", say=lambda line: None)
