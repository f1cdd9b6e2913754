"""Official checkpoints of PointWSSIS as files, through the command."""

import pytest
import torch
from pointseg_golden import Golden

import detkit
from detkit.backbones.fpn import FPN
from detkit.backbones.resnet import ResNet
from detkit.checkpoints.weights import read_header
from detkit.cli import main
from detkit.pointseg.convert import REFINE_NAMES, from_official, rename, solo_key
from detkit.pointseg.grid import TEACHER_GRIDS, TEACHER_RANGES
from detkit.pointseg.refine.model import MaskRefiner
from detkit.pointseg.solov2 import SOLOv2


def in_official_names(model, golden, own_key):
    """The weights of a model under the names that the authors' code gives them."""
    weights = model.state_dict()
    keys = {own_key(key): key for key in Golden(golden).meta["weights"]["keys"]}
    official = {keys[name]: value for name, value in weights.items()}
    assert len(official) == len(weights)
    return official


@pytest.fixture(scope="module")
def solo_file(tmp_path_factory):
    """A small SOLOv2 as detectron2 saves it."""
    torch.manual_seed(0)
    backbone = FPN(ResNet(50, frozen_stages=2, stride_in_1x1=True), out_channels=32)
    model = SOLOv2(backbone, 80, instance_channels=32, instance_convs=2, kernel_channels=32, mask_channels=32)
    official = in_official_names(model, "08_full_forward", solo_key)
    first = "backbone.bottom_up.stem.conv1.weight"
    official[first] = official[first].flip(1)
    path = tmp_path_factory.mktemp("official") / "model_final.pth"
    torch.save({"model": official, "__author__": "PointWSSIS", "iteration": 30000}, path)
    return path, model


@pytest.mark.parametrize("is_teacher", [False, True])
def test_solov2(solo_file, tmp_path, capsys, is_teacher):
    source, original = solo_file
    path = tmp_path / "solo.safetensors"
    grids = ["--num-grids", *map(str, TEACHER_GRIDS)] if is_teacher else []
    assert main(["convert", str(source), str(path), *grids]) == 0
    assert f"{len(original.state_dict())} tensors loaded" in capsys.readouterr().out
    loaded = detkit.load(path)
    assert isinstance(loaded, SOLOv2) and len(loaded.label_map) == 80 and loaded.label_map.names[0] == "person"
    for name, tensor in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    expected, _ = from_official(torch.load(source)["model"], TEACHER_GRIDS if is_teacher else (40, 36, 24, 16, 12))
    assert loaded.input_rule.mean == expected.input_rule.mean and loaded.grids == expected.grids
    assert loaded.postprocess.nms == ("mask" if is_teacher else "matrix")
    assert (loaded.grids.ranges == TEACHER_RANGES) == is_teacher
    config = read_header(path)["config"]
    assert config["data"]["val"]["masks"] is True and config["evaluator"]["iou_types"] == ["segm"]
    image = torch.randint(256, (3, 64, 80), dtype=torch.uint8)
    found = loaded.eval().predict(image, points=[[20.0, 30]], labels=[3])[0]
    assert len(found) <= 1


def test_mask_refine_net(tmp_path, capsys):
    original = MaskRefiner(2, encoder="resnet50", width=64).eval()
    own_key = lambda key: f"network.{rename(key, REFINE_NAMES)}"  # noqa: E731
    official = in_official_names(original, "07a_refinenet_forward", own_key)
    source, path = tmp_path / "best_AP.pt", tmp_path / "refiner.safetensors"
    torch.save({"state_dict": {f"module.{key}": value for key, value in official.items()}}, source)
    assert main(["convert", str(source), str(path)]) == 0
    printed = capsys.readouterr().out
    assert f"{len(official)} tensors loaded, 0 never used" in printed and "data.val.predictions=" in printed
    loaded = detkit.load(path)
    assert isinstance(loaded, MaskRefiner) and loaded.num_classes == 2 and loaded.size == 256
    x = torch.rand(1, 7, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded.network(x), original.network(x))
    assert read_header(path)["config"]["evaluator"] == {"type": "RefineEvaluator"}
    assert main(["convert", str(source), str(path), "--force", "--layers", "1"]) == 2
    assert "layers is for CATs; this is a checkpoint of MaskRefineNet" in capsys.readouterr().err
