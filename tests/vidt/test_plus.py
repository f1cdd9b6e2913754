import pytest
import torch
import torch.nn.functional as F
from small_vidt import batch, objects, small_vidt

from detkit.ops.masks import MaskCrops
from detkit.structures import Annotations, ImageBatch
from detkit.vidt.decoder import Memory
from detkit.vidt.fusion import PyramidFusion
from detkit.vidt.losses.criterion import SetCriterion, pad_targets
from detkit.vidt.losses.token_labels import first_owner, token_targets, visible_positions
from detkit.vidt.masks import SIDE, masks_to_vectors, vectors_to_masks

PLUS = dict(fusion=True, mask_vectors=20, iou_aware=True, token_labels=True)


def masked(*boxes, size=(64, 80), label=0):
    """Objects that fill their boxes."""
    found = objects(*boxes, label=label)
    found.masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(found.masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = True
    return found


def image(height=64, width=80):
    return ImageBatch.from_images([torch.randn(3, height, width)])


@pytest.mark.parametrize("boxes", [[], [(0, 0, 20, 20), (10, 10, 60, 60)]])
@pytest.mark.parametrize("options", [{}, dict(proposals=True), dict(box_refine=False), dict(decoder_layers=0)])
def test_any_number_of_objects_trains_every_parameter(boxes, options):
    model = small_vidt(**PLUS, **options).train()
    losses = model(batch(masked(*boxes), objects()))
    stages = ["", *(f"_{i}" for i in range(len(model.decoder)))]
    terms = {f"loss_{name}{s}" for name in ("ce", "bbox", "giou", "iouaware", "vector") for s in stages}
    terms |= {"loss_token_focal", "loss_token_dice"}
    assert terms == {name for name in losses if not name.endswith("_dense")}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    assert (losses["loss_vector"] > 0) == bool(boxes)


@pytest.mark.parametrize("only", [dict(mask_vectors=20), dict(token_labels=True)])
def test_objects_without_masks_are_an_error(only):
    unmasked = objects((0, 0, 20, 20))
    unmasked.image_id, unmasked.file_name = 17, "cat.jpg"
    with pytest.raises(ValueError, match=r"image 17 \(cat.jpg\): 1 objects without masks.*masks=True"):
        small_vidt(**only).train()(batch(unmasked))
    small_vidt(fusion=True, iou_aware=True).train()(batch(unmasked))


def test_masks_of_another_size_are_an_error():
    with pytest.raises(ValueError, match=r"masks are \(32, 80\) \(h, w\) but the image is \(64, 80\)"):
        small_vidt(**PLUS).train()(batch(masked((0, 0, 20, 20), size=(32, 80))))


def test_the_vector_head_is_one_for_all_stages():
    model = small_vidt(**PLUS)
    stages = model.eval().forward_stages(image())
    assert stages.vectors.shape == (3, 1, 7, 20) and stages.ious.shape == (3, 1, 7, 1)
    torch.testing.assert_close(stages.vectors[1], model.vector_embed(stages.features.stages[1]))
    assert sum(name.startswith("vector_embed") for name, _ in model.named_parameters()) == 6
    assert len({id(head) for head in model.iou_embed}) == 3
    first = model.vector_embed.layers[-1].bias
    assert first[:2].tolist() == [0, 0] and (first[2:] == -2).all()


def test_levels_reach_the_decoder_coarse_to_fine():
    stages = small_vidt(**PLUS).eval().forward_stages(image())
    assert stages.features.shapes == [(1, 2), (2, 3), (4, 5), (8, 10)]
    assert [tuple(level.shape) for level in stages.token_logits] == [(1, h, w, 3) for h, w in stages.features.shapes]
    assert small_vidt().eval().forward_stages(image()).features.shapes == stages.features.shapes[::-1]


def test_detections_are_made_from_the_last_stage():
    model = small_vidt(**PLUS).eval()
    for parameter in model.vector_embed.parameters():
        torch.nn.init.normal_(parameter)
    images = image()
    with torch.no_grad():
        found = model.detect(images, [(128, 160)])[0]
        expected = model.postprocess(model.forward_stages(images), [(128, 160)])[0]
    torch.testing.assert_close(found.boxes, expected.boxes)
    assert found.masks.shape == (21, 128, 160) and torch.equal(found.masks, expected.masks)
    assert found.masks.any()
    assert small_vidt().eval().detect(images, [(128, 160)])[0].masks is None


def test_bfloat16_autocast_keeps_the_losses_in_float32():
    model = small_vidt(**PLUS).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(batch(masked((0, 0, 20, 20))))
    assert all(term.dtype == torch.float32 and torch.isfinite(term) for term in losses.values())
    sum(losses.values()).backward()


def test_a_given_number_of_objects_divides_every_term():
    model, one = small_vidt(**PLUS).eval(), batch(masked((0, 0, 20, 20), (10, 10, 60, 60)))
    images = model.normalize(one.images)
    own = model.losses(images, one.annotations)
    halved = model.losses(images, one.annotations, torch.tensor(4.0))
    for name in own:
        torch.testing.assert_close(halved[name] * 2, own[name])


def test_two_batches_add_up_to_one():
    model = small_vidt(**PLUS).eval()
    both = batch(masked((0, 0, 20, 20), (10, 10, 60, 60)), masked((5, 5, 40, 60), size=(64, 80)))
    both.images = ImageBatch.from_images([both.images.images[0, :, :, :80], both.images.images[1, :, :, :80]])
    whole = model.losses(model.normalize(both.images), both.annotations)
    parts = [
        model.losses(model.normalize(ImageBatch.from_images([pixels])), [objects], torch.tensor(3.0))
        for pixels, objects in zip(both.images.images, both.annotations, strict=True)
    ]
    for name, value in whole.items():
        torch.testing.assert_close(parts[0][name] + parts[1][name], value, rtol=1e-4, atol=1e-5)


def test_with_more_objects_than_tokens_the_vector_loss_is_the_mean_of_the_pairs():
    model = small_vidt(**PLUS).eval()
    one = batch(masked(*((i, i, i + 20, i + 20) for i in range(12))))
    images = model.normalize(one.images)
    with torch.no_grad():
        stages = model.forward_stages(images)
        losses = model.criterion(stages, one.annotations, images.sizes)
    targets = pad_targets(one.annotations, images.sizes, torch.device("cpu"))
    matches = model.criterion.match(stages, targets)
    last = matches.stage == 2
    assert last.sum() == 7
    wanted = masks_to_vectors(one.annotations, images.sizes, 20)[0, matches.target[last]]
    expected = 3 * F.l1_loss(stages.vectors[2, 0, matches.query[last]], wanted)
    torch.testing.assert_close(losses["loss_vector"], expected)


def test_the_iou_of_the_iou_loss_is_not_a_constant():
    model, one = small_vidt(**PLUS).eval(), batch(masked((10, 10, 60, 60)))
    stages = model.forward_stages(model.normalize(one.images))
    stages.boxes.retain_grad()
    model.criterion(stages, one.annotations, one.images.sizes)["loss_iouaware"].backward()
    assert stages.boxes.grad.abs().sum() > 0


def test_vectors_keep_the_shape_of_a_mask():
    disc = masked((8, 4, 56, 52))
    y, x = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(80) + 0.5, indexing="ij")
    disc.masks = ((x - 32) ** 2 + (y - 28) ** 2 <= 24**2)[None]
    vectors = masks_to_vectors([disc, objects()], [(64, 80), (64, 80)], 256)
    assert vectors.shape == (2, 1, 256) and not vectors[1].any()
    bitmap = vectors_to_masks(vectors)[0, 0]
    cells = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    circle = cells**2 + cells[:, None] ** 2 <= 1
    assert (bitmap == circle).float().mean() > 0.97
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vectors_to_masks(vectors)[0, 0], bitmap)
    assert masks_to_vectors([objects()], [(64, 80)], 256).shape == (1, 0, 256)


def test_fusion_smooths_before_it_enlarges():
    torch.manual_seed(0)
    fusion = PyramidFusion(8, 2)
    fine, coarse = torch.randn(2, 8, 7, 9), torch.randn(2, 8, 4, 5)
    fused = fusion([fine, coarse])
    assert [tuple(m.shape) for m in fused] == [(2, 8, 4, 5), (2, 8, 7, 9)]
    torch.testing.assert_close(fused[0], fusion.refine[1](coarse))
    enlarged = F.interpolate(fused[0], size=(7, 9), mode="bilinear", align_corners=True)
    torch.testing.assert_close(fused[1], fusion.refine[0](fusion.smoothing[0](enlarged) + fusion.lateral[0](fine)))


def test_positions_on_padding_and_at_the_margin_are_not_seen():
    mask = torch.zeros(1, 50, 60, dtype=torch.bool)
    mask[:, :, 30:] = True
    visible = visible_positions(Memory.from_maps([torch.zeros(1, 4, 50, 60)], [mask])).view(50, 60)
    # Of 50 rows the first and the last have their centres at exactly 1 % of the image; of 30 columns none has.
    assert visible[1:-1, :30].all() and not visible[[0, -1]].any() and not visible[:, 30:].any()


def test_of_overlapping_masks_the_first_has_the_pixel():
    masks = torch.tensor([[[1, 1, 0, 0]], [[0, 1, 1, 0]], [[1, 1, 1, 0]]]).bool()
    visible = first_owner(MaskCrops.of_masks(masks, (1, 4))).dense()
    assert visible.int().tolist() == [[[1, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 0]]]


def test_token_targets_are_the_shares_of_the_classes():
    first = Annotations(torch.zeros(2, 4), torch.tensor([1, 2]), torch.zeros(2, 4, 6, dtype=torch.bool))
    first.masks[0, :, :2] = True
    first.masks[1, :2] = True
    [targets] = token_targets([first, objects()], (4, 8), [(2, 2)], 4)
    assert targets.shape == (2, 2, 2, 4) and not targets[1].any()
    assert targets[0, ..., 1].tolist() == [[0.5, 0], [0.5, 0]] and not targets[0, ..., 0].any()
    assert targets[0, ..., 2].tolist() == [[0.5, 0.5], [0, 0]]
    [official] = token_targets([first, objects()], (4, 8), [(2, 2)], 4, official=True)
    assert official[0, ..., 0].tolist() == [[1, 0.5], [0.5, 0]] and torch.equal(official[..., 1:], targets[..., 1:])


@pytest.mark.parametrize("frame", [(90, 70), (128, 96)])
def test_token_targets_are_the_pooled_full_masks(frame):
    generator = torch.Generator().manual_seed(3)
    masks = torch.rand(40, 80, 70, generator=generator) > torch.linspace(0, 1, 40)[:, None, None]
    labels = torch.randint(3, (40,), generator=generator)
    found = token_targets([Annotations(torch.zeros(40, 4), labels, masks)], frame, [(12, 9), (6, 5), (2, 2)], 3)
    visible = torch.cat([masks[:1], masks[1:] & ~masks.cumsum(0)[:-1].bool()])
    padded = F.pad(visible.float(), (0, frame[1] - 70, 0, frame[0] - 80))
    for target in found:
        wanted = torch.zeros_like(target[0])
        for mask, label in zip(padded, labels.tolist(), strict=True):
            wanted[..., label] += F.adaptive_avg_pool2d(mask[None], wanted.shape[:2])[0]
        assert torch.equal(target[0], wanted)


def test_label_0_is_a_class_like_any_other():
    """The loss of a model does not change when its classes are renumbered."""
    model, criterion = small_vidt(**PLUS).eval(), SetCriterion()
    images = model.normalize(batch(objects()).images)
    with torch.no_grad():
        stages = model.forward_stages(images)
        renumbered = model.forward_stages(images)
    renumbered.logits = renumbered.logits.flip(-1)
    renumbered.token_logits = [level.flip(-1) for level in renumbered.token_logits]
    losses = criterion(stages, [masked((4, 4, 40, 50), label=0)], images.sizes)
    others = criterion(renumbered, [masked((4, 4, 40, 50), label=2)], images.sizes)
    for name, value in losses.items():
        torch.testing.assert_close(others[name], value)
