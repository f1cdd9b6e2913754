import pytest
import torch
from matching_golden import Golden

from detkit.evaluation.pck import PCKEvaluator, correct_points, reference_length
from detkit.structures import LabelMap, Matches, PairAnnotations

ALPHAS = (0.01, 0.05, 0.1, 0.15)


class Pairs:
    def __init__(self, length, *names):
        self.label_map, self.length = LabelMap(names, range(len(names))), length

    def __len__(self):
        return self.length


@pytest.fixture(scope="module")
def golden():
    return Golden("e_pck")


def raw_pairs(golden):
    """The annotations of golden e in pixels of the images as stored."""
    raw = golden.description["inputs"][0]
    return [
        PairAnnotations(
            torch.tensor(source, dtype=torch.float32),
            torch.tensor(target, dtype=torch.float32),
            source_box=torch.tensor(raw["src_bbox_xyxy"][i], dtype=torch.float32),
            target_box=torch.tensor(raw["trg_bbox_xyxy"][i], dtype=torch.float32),
            pair_id=i,
            source_size=tuple(raw["src_imsize_wh"][i][::-1]),
            target_size=tuple(raw["trg_imsize_wh"][i][::-1]),
        )
        for i, (source, target) in enumerate(zip(raw["raw_src_kps_xy"], raw["raw_trg_kps_xy"], strict=True))
    ]


@pytest.mark.parametrize("threshold", ["img", "bbox"])
def test_pck_of_the_cats_direction_is_official(golden, threshold):
    for i, n in enumerate(golden["n_pts"].tolist()):
        length = reference_length(threshold, frame=(256, 256), box=golden["src_bbox"][i])
        assert length == pytest.approx(golden[f"pckthres_{threshold}"][i].item(), abs=1e-4)
        predicted, truth = (golden[name][i, :, :n].T for name in ("prd_src_kps", "src_kps"))
        assert torch.allclose((predicted - truth).norm(dim=1), golden["dist"][i, :n], atol=1e-4)
        for alpha, correct in zip(ALPHAS, correct_points(predicted, truth, length, ALPHAS), strict=True):
            name = f"pck_cats_{threshold}_{alpha}".replace("0.", "0p")
            assert 100 * correct.double().mean() == golden[name][i]


@pytest.mark.parametrize("threshold", ["img", "bbox"])
@pytest.mark.parametrize("direction", ["cats", "dhpf"])
def test_evaluator_of_both_directions_is_official(golden, direction, threshold):
    """The CATs direction is the standard one with the images exchanged."""
    pairs = raw_pairs(golden)
    if direction == "cats":
        pairs = [pair.swap() for pair in pairs]
    stored = golden["prd_src_kps" if direction == "cats" else "prd_trg_kps"]
    alphas = ALPHAS[1:]
    evaluator = PCKEvaluator(Pairs(3, "cat"), alphas=alphas, threshold=threshold)
    for i, pair in enumerate(pairs):
        h, w = pair.target_size
        points = stored[i, :, : len(pair)].T.double() * torch.tensor([w / 256, h / 256])
        evaluator.update([Matches(points, torch.ones(len(pair)))], [pair])
    figures = evaluator.compute()
    for alpha in alphas:
        name = f"pck_{direction}_{threshold}_{alpha}".replace("0.", "0p")
        assert 100 * figures[f"PCK@{alpha}"] == pytest.approx(golden[name].mean().item(), abs=1e-9)


def test_lengths_of_pf_willow_are_official(golden):
    for i, points in enumerate(golden["willow_src_kps"][:, :, :10]):
        for threshold, name in (("bbox-kp-padded", "bbox"), ("bbox-kp", "bbox_kp")):
            length = reference_length(threshold, frame=(256, 256), points=points.T)
            assert length == pytest.approx(golden[f"willow_thres_{name}"][i].item(), abs=1e-4)


def pair(pair_id, n=4, label=0, **fields):
    points = torch.arange(2.0 * n).view(n, 2)
    fields = dict(target_box=torch.tensor([0.0, 0.0, 100.0, 50.0]), target_size=(100, 100)) | fields
    return PairAnnotations(points, points, label=label, pair_id=pair_id, **fields)


def found(annotation, *off):
    """Matches of which the first ones are off by so many pixels."""
    points = annotation.target_points.clone()
    points[: len(off), 0] += torch.tensor(off)
    return Matches(points, torch.ones(len(points)))


def test_means_over_pairs_points_and_classes():
    pairs = [pair(7, n=1), pair(3, n=2), pair(5, n=5, label=1)]
    evaluator = PCKEvaluator(Pairs(3, "cat", "dog", "cow"), alphas=[0.1], frame=None)
    evaluator.update([found(pairs[0], 11.0), found(pairs[1])], pairs[:2])
    evaluator.update([found(pairs[2], 11.0)], pairs[2:])
    assert evaluator.compute() == {
        "PCK@0.1": pytest.approx((0 + 1 + 0.8) / 3),
        "PCK@0.1/point": pytest.approx(6 / 8),
        "PCK@0.1/class": pytest.approx((0.5 + 0.8) / 2),
    }
    assert evaluator.per_class() == {"PCK@0.1/cat": 0.5, "PCK@0.1/dog": 0.8}
    assert [result["pair_id"] for result in evaluator.results()] == [3, 5, 7]
    assert "dog" in evaluator.table(per_class=True) and "80.0" in evaluator.table(per_class=True)
    evaluator.reset()
    with pytest.warns(UserWarning, match="3 of 3 pairs"):
        assert set(evaluator.compute().values()) == {-1.0}


def test_the_frame_stretches_images():
    wide = pair(1, n=1, target_size=(100, 400), target_box=torch.tensor([0.0, 0.0, 100.0, 100.0]))
    for frame, share in ((None, 0.0), (256, 1.0)):  # 11 of 400 pixels are 7 of 256, and the box is 256 high
        evaluator = PCKEvaluator(Pairs(1, "cat"), alphas=[0.1], frame=frame)
        evaluator.update([found(wide, 11.0)], [wide])
        assert evaluator.compute()["PCK@0.1"] == share


def test_a_pair_without_common_points_does_not_count():
    evaluator = PCKEvaluator(Pairs(2, "cat"), alphas=[0.1])
    evaluator.update([found(pair(1)), found(pair(2, n=0))], [pair(1), pair(2, n=0)])
    assert evaluator.compute()["PCK@0.1"] == 1
    assert evaluator.results()[1] == {"pair_id": 2, "points": [], "confidence": []}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(pair_id=None), "has no id"),
        (dict(target_size=None), "how large"),
    ],
)
def test_unusable_pairs_are_named(change, message):
    annotation = pair(**({"pair_id": 4, "name": "a-b"} | change))
    with pytest.raises(ValueError, match=rf"pair .* \(.*\)?.*{message}"):
        PCKEvaluator(Pairs(1, "cat")).update([found(annotation)], [annotation])


def test_pairs_without_the_box_that_the_threshold_needs_do_not_count():
    evaluator, boxless = PCKEvaluator(Pairs(2, "cat"), alphas=[0.1]), pair(2, target_box=None)
    evaluator.update([found(pair(1)), found(boxless, 50)], [pair(1), boxless])
    with pytest.warns(UserWarning, match="1 of 2 pairs have no box, which the threshold 'bbox' needs: they do not"):
        assert evaluator.compute()["PCK@0.1"] == 1
    evaluator.reset()
    evaluator.update([found(boxless)], [boxless])
    with pytest.warns(UserWarning, match="not evaluated"), pytest.raises(ValueError, match=r"1 of 1 .* use 'bbox-kp'"):
        evaluator.compute()
    by_points = PCKEvaluator(Pairs(1, "cat"), threshold="bbox-kp")
    by_points.update([found(boxless)], [boxless])
    assert by_points.compute()["PCK@0.1"] == 1


def test_wrong_predictions_and_options():
    evaluator, annotation = PCKEvaluator(Pairs(1, "cat")), pair(4)
    with pytest.raises(ValueError, match="3 points found for 4"):
        evaluator.update([found(pair(4, n=3))], [annotation])
    with pytest.raises(ValueError, match="NaN or infinite"):
        evaluator.update([found(annotation, torch.nan)], [annotation])
    evaluator.update([found(annotation)], [annotation])
    with pytest.raises(ValueError, match="before"):
        evaluator.update([found(annotation)], [annotation])
    for options in (dict(alphas=[]), dict(alphas=0.1), dict(threshold="box"), dict(frame=0)):
        with pytest.raises(ValueError, match=next(iter(options))):
            PCKEvaluator(Pairs(1, "cat"), **options)
