"""The graphs that are exported give the predictions of the models that they are made of, run here by PyTorch."""

import pytest
import torch
from exported_models import GraphSession, lively, small_solo
from small_vidt import small_vidt
from tiny_matchers import tiny_cats

from detkit.exporting.comparing import Tolerance, compare
from detkit.exporting.exported import ExportedDetector, ExportedMatcher, ExportedSegmenter
from detkit.exporting.graphs import graph_of, kind_of
from detkit.exporting.tracing import describe
from detkit.structures import ImageBatch, ImagePair

CLOSE = Tolerance(pixels=0.01, score=1e-5, mask_iou=0.999)
INSIDE = dict(preprocessing="inside", postprocessing="inside")
OUTSIDE = dict(preprocessing="outside", postprocessing="outside")


def pictures(*sizes):
    generator = torch.Generator().manual_seed(3)
    small = [torch.rand(1, 3, h // 8, w // 8, generator=generator) for h, w in sizes]
    return [(torch.nn.functional.interpolate(x, scale_factor=8, mode="bilinear")[0] * 255).byte() for x in small]


def check(model, kind, images, **options):
    description = describe(model, **dict(size=None, batch=1) | options)
    exported = kind(GraphSession(graph_of(model, description), description))
    found = compare(model, exported, images, CLOSE)
    assert not found.problems and found.compared
    return exported


@pytest.mark.parametrize("places", [INSIDE, OUTSIDE], ids=["inside", "outside"])
@pytest.mark.parametrize(
    "options",
    [
        dict(fusion=True, mask_vectors=16),
        dict(proposals=True, queries=12),
        dict(box_refine=False),
        dict(decoder_layers=0),
    ],
    ids=str,
)
def test_vidt(options, places):
    check(lively(small_vidt(**options)), ExportedDetector, pictures((64, 80), (120, 72)), **places)


def test_vidt_in_a_larger_frame_of_any_batch():
    exported = check(
        lively(small_vidt(mask_vectors=16)), ExportedDetector, pictures((64, 80)), **INSIDE, size=[96, 160], batch=2
    )
    assert len(exported.predict(pictures((64, 80), (200, 100), (48, 48)), batch_size=3)) == 3


@pytest.mark.parametrize("places", [INSIDE, OUTSIDE], ids=["inside", "outside"])
@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_solov2(kernel, places):
    check(small_solo(kernel=kernel), ExportedSegmenter, pictures((64, 80), (72, 48)), **places)


def test_solov2_with_mask_nms_is_finished_outside():
    check(small_solo(nms="mask"), ExportedSegmenter, pictures((64, 80)), **OUTSIDE)
    with pytest.raises(ValueError, match="--postprocessing outside"):
        check(small_solo(nms="mask"), ExportedSegmenter, pictures((64, 80)), **INSIDE)


@pytest.mark.parametrize("places", [INSIDE, OUTSIDE], ids=["inside", "outside"])
@pytest.mark.parametrize("official", [False, True])
def test_cats(official, places):
    pair = ImagePair(*pictures((64, 80), (96, 64)))
    exported = check(tiny_cats(official=official).eval(), ExportedMatcher, [pair], **places)
    assert exported.warp(pair.source, pair.target).shape == (3, 96, 64)


def test_solov2_of_any_size_pads_to_what_its_file_takes():
    exported = check(small_solo(), ExportedSegmenter, pictures((64, 80)), **INSIDE, size="dynamic")
    assert exported.framed(ImageBatch.from_images([torch.zeros(3, 20, 90)])).images.shape[2:] == (96, 96)


def test_a_comparison_of_nothing_is_no_proof():
    model = small_solo(score_threshold=0.9999)
    description = describe(model, size=None, batch=1, **INSIDE)
    exported = ExportedSegmenter(GraphSession(graph_of(model, description), description))
    assert "proves nothing" in compare(model, exported, pictures((64, 80)), CLOSE).problems[0]


def test_models_that_cannot_be_exported():
    with pytest.raises(ValueError, match="a Linear cannot be exported"):
        kind_of(torch.nn.Linear(1, 1))


def test_an_exported_model_is_not_trained():
    exported = check(lively(small_vidt()), ExportedDetector, pictures((64, 80)), **INSIDE)
    with pytest.raises(RuntimeError, match="cannot be trained"):
        exported.losses(None, [])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(size=100), "multiples of 32"),
        (dict(size=[64, 64, 64]), "multiples of 32"),
        (dict(size="dynamic"), "exported for one size"),
        (dict(batch=0), "--batch must be a number from 1"),
        (dict(preprocessing="beside"), "neither inside nor outside"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        describe(small_vidt(), **dict(size=None, batch=1) | INSIDE | options)
    with pytest.raises(ValueError, match="stretches all images to 64 x 64"):
        describe(tiny_cats(), size=128, batch=1, **INSIDE)
