"""Training, saving and using MaskRefineNet as a user does."""

import json

import pytest
import torch
from processes import run_ranks
from rough_scenes import HEIGHT, WIDTH, refine_config, write_scenes

import detkit
from detkit.backbones.pretrained import create_timm_model
from detkit.cli import main
from detkit.engine.runner import Runner, train
from detkit.engine.writers import read_metrics
from detkit.pointseg.refine.batches import CropBatch, Origin
from detkit.pointseg.refine.model import MaskRefiner
from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components
from detkit.runtime.evaluate import evaluate


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), number=12)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    monkeypatch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detkit.engine.writers.Curves.after_train", lambda hook, runner: None)
        config = refine_config(folder, epochs=14, log_every=12)
        config["optimizer"]["lr"] = 0.01
        return train(config, tmp_path_factory.mktemp("runs") / "run")


def test_training_makes_masks_better(trained):
    losses = [row["loss"] for row in read_metrics(trained.out / "metrics.jsonl") if row["kind"] == "train"]
    assert losses[-1] < 0.6 * losses[0]
    assert trained.metrics["IoU"] > trained.metrics["IoU/rough"] + 0.1
    results = json.loads((trained.out / "results.json").read_text())
    assert len(results) == 24 and {"image_id", "category_id", "point", "rough_iou", "iou"} == results[0].keys()


def test_the_checkpoint_refines_as_the_trained_model(trained):
    loaded = detkit.load(trained.out / "last.safetensors")
    assert isinstance(loaded, MaskRefiner) and loaded.size == 32 and loaded.label_map.category_ids == (3, 7)
    image, known = trained.val_data[3]
    arguments = image, known.rough, known.points, [1]
    refined = loaded.refine(*arguments)
    assert refined.shape == (1, HEIGHT, WIDTH) and refined.dtype == torch.bool
    assert torch.equal(refined, trained.model.eval().refine(*arguments))
    assert torch.equal(refined, loaded.refine(image.permute(1, 2, 0).numpy(), known.rough, known.points.tolist(), [1]))
    evaluator = build(dict(type="RefineEvaluator"), dataset=trained.val_data)
    figures = evaluate(loaded, trained.val_data, evaluator, batch_size=5, progress=False)
    assert figures == pytest.approx(trained.metrics)


def test_the_command_evaluates_it(trained, capsys):
    command = ["evaluate", str(trained.out / "last.safetensors"), "--device", "cpu", "--set", "data.workers=0"]
    assert main(command) == 0
    assert "refined" in capsys.readouterr().out


def test_resuming_continues_as_if_nothing_had_happened(folder, tmp_path):
    config = refine_config(folder, epochs=2, log_every=1)
    whole = train(config, tmp_path / "whole")
    train(refine_config(folder, epochs=2, log_every=1, max_steps=8), tmp_path / "parts")
    resumed = train(config, tmp_path / "parts", resume=True)
    assert resumed.step == whole.step == 12
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
    losses = [[row.get("loss") for row in read_metrics(run.out / "metrics.jsonl")] for run in (whole, resumed)]
    assert [x for x in losses[0] if x] == [x for x in losses[1] if x]


def test_two_processes_with_accumulation(folder, tmp_path):
    config = refine_config(folder, epochs=1, accumulate=2)
    config["data"]["batch_size"] = 2
    codes, output = run_ranks(lambda: train(config, tmp_path / "run"), tmp_path / "log")
    assert codes == [0, 0], output
    assert "step 3/3" in output or "after step 3" in output
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(results) == 24 and {r["image_id"] for r in results} == set(range(1, 13))


def crop_batch(number, size=32, classes=2):
    generator = torch.Generator().manual_seed(number)
    masks = torch.rand(2, number, size, size, generator=generator) > 0.5
    images = torch.randint(256, (number, 3, size, size), generator=generator, dtype=torch.uint8)
    points = torch.randint(size, (number, 2), generator=generator)
    planes = torch.randint(1, classes + 1, (number,), generator=generator)
    return CropBatch(images, *masks, points, planes, [Origin(i) for i in range(number)])


def test_micro_batches_add_up():
    """Without batch norm and with a dice for each crop, accumulated gradients are those of one batch."""
    model = MaskRefiner(2, encoder="plain", width=16, size=32)
    model.network.eval()
    whole = crop_batch(6)
    parts = [CropBatch(**{k: v[i : i + 3] for k, v in vars(whole).items() if v is not None}) for i in (0, 3)]
    gradients = []
    for batches in ([whole], parts):
        model.zero_grad()
        for batch in batches:
            batch.num_objects = torch.tensor(6.0)
            sum(model(batch).values()).backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("encoder", ["plain", "test_resnet", "test_efficientnet"])
def test_norms_of_several_gpus(encoder):
    """Synchronised norms are the same parameters and, outside of training, the same function."""
    model = MaskRefiner(2, encoder=encoder, width=16, size=32).eval()
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    x = torch.rand(2, 7, 32, 32)
    with torch.no_grad():
        expected = model.network(x)
        model.synchronize_norms()
        assert torch.equal(model.network(x), expected)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before
    kinds = {type(module) for module in model.modules()}
    assert torch.nn.BatchNorm2d not in kinds and torch.nn.SyncBatchNorm in kinds


@pytest.mark.parametrize("depth", [18, 50])
def test_pretrained_encoder(tmp_path, depth):
    weights = create_timm_model(f"resnet{depth}").state_dict()
    torch.save(weights, tmp_path / "resnet.pth")
    model = MaskRefiner(2, encoder=f"resnet{depth}", width=16, size=32, pretrained=str(tmp_path / "resnet.pth"))
    assert torch.equal(model.network.encoder.layer3[0].conv1.weight, weights["layer3.0.conv1.weight"])
    assert model.network.encoder.conv1.in_channels == 7


def test_mixed_precision():
    model = MaskRefiner(2, encoder="plain", width=16, size=32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(crop_batch(4))["loss_dice"]
    assert loss.dtype == torch.float32 and 0 < loss < 1
    loss.backward()


def test_batches_move_together():
    batch = crop_batch(2)
    batch.num_objects = torch.tensor(2.0)
    moved = batch.to("meta")
    assert all(tensor.is_meta for tensor in (moved.images, moved.planes, moved.num_objects))
    assert moved.annotations[1].image_id == 1
    assert not batch.images.is_meta and len(moved) == moved.count_objects() == 2


def test_wrong_use_is_explained(folder):
    model = MaskRefiner(2, encoder="plain", width=16, size=32)
    with pytest.raises(ValueError, match="at least two crops"):
        model(crop_batch(1))
    with pytest.raises(ValueError, match="the crops have 48 x 48 pixels, the model has size 32"):
        model(crop_batch(2, size=48))
    image, masks = torch.zeros(3, 40, 40, dtype=torch.uint8), torch.ones(1, 40, 40, dtype=torch.bool)
    with pytest.raises(RuntimeError, match="eval mode"):
        model.refine(image, masks, [[3.0, 3]], [0])
    model.eval()
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.1, got \[2\]"):
        model.refine(image, masks, [[3.0, 3]], [2])
    with pytest.raises(ValueError, match="do not fit each other"):
        model.refine(image, masks, [[3.0, 3], [4, 4]], [0, 1])
    with pytest.raises(ValueError, match=r"does not know the category ids \[7\]"):
        model.labels_of(torch.tensor([0, 7]))
    assert not hasattr(model, "predict")
    assert model.refine(image, masks[:0], [], []).shape == (0, 40, 40)
    empty = model.refine(image, torch.zeros_like(masks), [[3.0, 3]], [0])
    assert not empty.any()
    import_components()
    for arguments, message in (
        (dict(size=16), "size: must be a whole number from 32"),
        (dict(box_scale=0.5), "box_scale: must be a number from 1"),
        (dict(encoder="plain", pretrained=True), "no pretrained weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            build(dict(type="MaskRefiner", num_classes=2, **arguments))


def test_a_batch_that_stops_the_run_can_be_run_again(folder, tmp_path, monkeypatch):
    from detkit.engine.guard import NonFiniteError, load_batches

    config = refine_config(folder)
    original = Runner._backward

    def spoil(runner, batch, **options):
        with torch.no_grad():
            runner.model.network.head.weight.fill_(torch.nan)
        original(runner, batch, **options)

    monkeypatch.setattr(Runner, "_backward", spoil)
    with pytest.raises(NonFiniteError, match=r"Images: \["):
        train(config, tmp_path / "run")
    (batch,), _ = load_batches(tmp_path / "run" / "nonfinite_batch_step_1.pt")
    assert isinstance(batch, CropBatch) and batch.annotations[0].image_id in range(1, 13)
    model = MaskRefiner(2, encoder="plain", width=32, size=32)
    assert model(batch)["loss_dice"].isfinite()


@pytest.mark.parametrize("encoder", ["resnet18", "plain"])
def test_other_encoders_learn_too(encoder):
    torch.manual_seed(0)
    model = MaskRefiner(2, encoder=encoder, width=16, size=64)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    batch, losses = crop_batch(4, size=64), []
    batch.true[:] = False
    batch.true[:, 10:40, 20:50] = True
    for _ in range(12):
        loss = model(batch)["loss_dice"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01
