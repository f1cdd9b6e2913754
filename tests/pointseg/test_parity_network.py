"""The networks against the official ones, layer by layer, through the conversion of official checkpoints."""

import pytest
import torch
from pointseg_golden import Golden

from detkit.pointseg.convert import REFINE_LANDMARKS, from_official, from_official_refine, solo_key
from detkit.pointseg.grid import TEACHER_GRIDS, TEACHER_RANGES
from detkit.pointseg.heads import InstanceHead, MaskHead, resize, with_coordinates
from detkit.pointseg.refine.network import input_channels


def load_head(head: torch.nn.Module, golden: Golden, prefix: str, own_prefix: str) -> None:
    weights = {solo_key(prefix + key).removeprefix(own_prefix): value for key, value in golden.state_dict().items()}
    head.load_state_dict(weights)


@torch.no_grad()
def test_instance_head():
    golden = Golden("01_ins_head")
    head = InstanceHead(80, TEACHER_GRIDS)
    load_head(head, golden, "ins_head.", "instance_head.")
    pyramid = [golden.input(f"p{level}") for level in range(2, 7)]
    for level, (x, side) in enumerate(zip(head.five_maps(pyramid), TEACHER_GRIDS, strict=True)):
        grid = resize(with_coordinates(x), (side, side))
        for name, tensor in (("split", x), ("grid", grid), ("coord", grid[:, -2:])):
            golden.check(f"{name}_L{level}", tensor)
    for name, levels in zip(("cate", "kernel"), head(pyramid), strict=True):
        for level, tensor in enumerate(levels):
            golden.check(f"{name}_L{level}", tensor)


@torch.no_grad()
def test_mask_head():
    golden = Golden("02_mask_head")
    head = MaskHead()
    load_head(head, golden, "mask_head.", "mask_head.")
    pyramid = [golden.input(f"p{level}") for level in range(2, 6)]
    for level in range(4):
        golden.check(f"branch_p{level + 2}", head.branch(level, pyramid[level]))
    golden.check("mask_pred", head(pyramid))


@pytest.fixture(scope="module")
def teacher():
    golden = Golden("08_full_forward")
    official = golden.state_dict()
    model, report = from_official(official | {"pixel_mean": torch.zeros(3, 1, 1)}, TEACHER_GRIDS)
    assert sorted(report.loaded) == sorted(official) and report.unused == ["pixel_mean"]
    assert len(report.loaded) == len(model.state_dict())
    return golden, model


@torch.no_grad()
def test_full_forward(teacher):
    golden, model = teacher
    rgb = golden.input("image_bgr").flip(0)
    images = model.preprocess([rgb])
    padded = torch.nn.functional.pad(images.images, (0, 6, 0, 5))
    golden.check("input", padded.flip(1))
    for level, tensor in enumerate(model.backbone(padded, images.mask)):
        golden.check(f"p{level + 2}", tensor)
    outputs = model.forward_heads(images)
    for level in range(5):
        golden.check(f"cate_L{level}", outputs.category[level])
        golden.check(f"kernel_L{level}", outputs.kernels[level])
    golden.check("mask_pred", outputs.mask_features)


def test_a_converted_teacher_is_the_papers(teacher):
    _, model = teacher
    assert model.grids.ranges == TEACHER_RANGES and model.postprocess.nms == "mask"
    assert model.label_map.names[0] == "person" and model.label_map.category_ids[79] == 90
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert frozen and all(name.startswith(("backbone.body.conv1.", "backbone.body.layer1.")) for name in frozen)
    assert not any(".bn" in name for name, _ in model.named_parameters())


def test_size_rule_and_order_of_pixels(teacher):
    _, model = teacher
    batch = model.resized_batch([torch.full((3, 40, 60), 255.0) * torch.tensor([1.0, 0, 0])[:, None, None]])
    assert batch.sizes == [(800, 1200)]
    expected = torch.tensor([255 - 123.675, -116.28, -103.53])
    torch.testing.assert_close(batch.images[0, :, 5, 5], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", ["07a_refinenet_forward", "07a2_refinenet_forward_he"])
@torch.no_grad()
def test_refine_net(name):
    golden = Golden(name)
    official = golden.state_dict()
    model, report = from_official_refine(official)
    assert sorted(report.loaded) == sorted(official) and len(official) == len(model.state_dict())
    centres = torch.zeros(1, 81, *golden["rough_mask"].shape[1:])
    centres[0, int(golden["center_label"][0])] = golden.tensor("center_plane")
    x = torch.cat([golden.input("image"), centres, golden.tensor("rough_mask")[:, None].float()], dim=1)
    assert x.shape[1] == input_channels(80) == 85
    parts = ["layer0", "layer1", "layer2", "layer3", "layer4", "aspp", *(f"decoder_{i}" for i in (3, 2, 1, 0))]
    maps = model.features(x)
    for part, tensor in zip([*parts, "head"], [*maps, model.head(maps[-1])], strict=True):
        golden.check(f"inter_{part}", tensor)
    logits = model(x)
    golden.check("logits", logits)
    golden.check("prob_fg", logits.softmax(1)[:, 1])
    assert abs(sum(p.numel() for p in model.parameters()) - 77.11e6) < 1e4


def test_refused_state_dicts():
    with pytest.raises(ValueError, match=r"no ins_head\.cate_pred\.weight"):
        from_official({"layer0.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"no layer0\.0\.weight"):
        from_official_refine({"model": torch.zeros(1)})
    shapes = dict(zip(REFINE_LANDMARKS, [(64, 7, 7, 7), (64, 320, 1, 1)], strict=True))
    shapes |= {"layer3.5.x": (1,), "extra": (1,)}
    official = {f"module.{key}": torch.zeros(shape) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=r"2 tensors belong to no part .*extra.* are missing .*encoder.bn1"):
        from_official_refine(official)
