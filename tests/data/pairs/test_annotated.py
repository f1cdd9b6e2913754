"""Machine-annotated pairs and their mixture with labelled ones."""

import json

import numpy as np
import pytest
import torch

from detkit.data.loading import train_loader
from detkit.data.pairs.annotated import DensifiedPairs, MixedPairs, PseudoPairs, write_points
from detkit.data.pairs.pool import PairImages
from detkit.data.pairs.synthetic import SyntheticPairs

LABELLED = SyntheticPairs(6, images=16, size=48, seed=1)
POOL = PairImages(SyntheticPairs(12, images=16, size=48, seed=3))
POINTS = [[1.5, 2, 30, 40, 0.9], [10, 48, 0, 20, 0.25]]


def names(*numbers):
    return [[number, POOL.sides[number].file.name] for number in numbers]


def same_class():
    return next((a, b) for a in range(8) for b in range(8) if a != b and POOL.labels[a] == POOL.labels[b])


@pytest.fixture
def file(tmp_path):
    source, target = names(*same_class())
    pairs = [dict(source=source, target=target, points=points) for points in (POINTS, [], POINTS[:1])]
    write_points(tmp_path / "pseudo.json", pairs, info={"round": 1})
    return tmp_path / "pseudo.json"


def test_pseudo_pairs_have_their_confidence_as_weight(file):
    pairs = PseudoPairs(file, POOL)
    assert (
        len(pairs) == 2 and pairs.label_map == POOL.label_map and json.loads(file.read_text())["info"] == {"round": 1}
    )
    images, known = pairs[0]
    first = same_class()[0]
    assert torch.equal(images.source, POOL.read(POOL.sides[first])) and known.label == POOL.labels[first]
    assert known.source_points.tolist() == [[1.5, 2], [10, 48]] and known.target_points.tolist() == [[30, 40], [0, 20]]
    assert torch.allclose(known.weights, torch.tensor([0.9, 0.25]))


def test_files_that_do_not_fit_are_refused(file, tmp_path):
    with pytest.raises(ValueError, match="is another one in the pool"):
        PseudoPairs(file, PairImages(SyntheticPairs(12, images=300, size=48, seed=4)))
    write_points(tmp_path / "none.json", [], info={})
    with pytest.raises(ValueError, match=r"none\.json: no pair has points"):
        PseudoPairs(tmp_path / "none.json", POOL)
    source, target = names(*same_class())
    write_points(tmp_path / "out.json", [dict(source=source, target=target, points=[[1, 1, 70, 1, 1]])], info={})
    with pytest.raises(ValueError, match="points outside of an image"):
        PseudoPairs(tmp_path / "out.json", POOL)[0]
    write_points(tmp_path / "short.json", [dict(source=source, target=target, points=[[1, 1, 2]])], info={})
    with pytest.raises(ValueError, match="a point must be"):
        PseudoPairs(tmp_path / "short.json", POOL)
    for point in ([1, 1, 2, 2, 1.5], [1, 1, float("nan"), 2, 1], ["1", 1, 2, 2, 1], 5):
        write_points(tmp_path / "wrong.json", [dict(source=source, target=target, points=[point])], info={})
        with pytest.raises(ValueError, match=r"wrong\.json: pair 0: a point must be .*all finite numbers"):
            PseudoPairs(tmp_path / "wrong.json", POOL)
    write_points(tmp_path / "wrong.json", [dict(source=[-1, source[1]], target=target, points=POINTS)], info={})
    with pytest.raises(ValueError, match="source of pair 0 must be"):
        PseudoPairs(tmp_path / "wrong.json", POOL)
    with pytest.raises(ValueError, match="is no file of densified pairs"):
        DensifiedPairs(LABELLED, file)


def test_densified_pairs_keep_the_truth_first(tmp_path):
    write_points(tmp_path / "more.json", [dict(pair=2, points=POINTS)], info={})
    pairs = DensifiedPairs(LABELLED, tmp_path / "more.json")
    own, more = LABELLED[2][1], pairs[2][1]
    assert len(more) == len(own) + 2 and torch.equal(more.target_points[: len(own)], own.target_points)
    assert more.weights.tolist() == pytest.approx([1.0] * len(own) + [0.9, 0.25])
    assert len(pairs[0][1]) == len(LABELLED[0][1]) and (pairs[0][1].weights == 1).all()
    write_points(tmp_path / "more.json", [dict(pair=77, points=POINTS)], info={})
    with pytest.raises(ValueError, match=r"do not have: \[77\]"):
        DensifiedPairs(LABELLED, tmp_path / "more.json")


def test_half_of_each_batch_is_labelled(file):
    mixed = MixedPairs(LABELLED, PseudoPairs(file, POOL))
    assert len(mixed) == 12
    loader = train_loader(mixed, batch_size=4)
    orders = []
    for epoch in (0, 1):
        loader.batch_sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == 3
        for batch in batches:
            assert [known.weights is None for known in batch.annotations] == [True, False, True, False]
        orders.append([known.pair_id for batch in batches for known in batch.annotations])
        assert sorted(orders[-1]) == list(range(12))
    assert orders[0] != orders[1]


def test_a_resumed_epoch_has_the_batches_that_were_left(file):
    loader = train_loader(MixedPairs(LABELLED, PseudoPairs(file, POOL)), batch_size=4)
    loader.batch_sampler.set_epoch(3)
    ids = [[known.pair_id for known in batch.annotations] for batch in loader]
    loader.batch_sampler.set_position(1)
    assert [[known.pair_id for known in batch.annotations] for batch in loader] == ids[1:]


def test_the_weight_rises_over_the_ramp(file):
    mixed = MixedPairs(LABELLED, PseudoPairs(file, POOL), weight=0.5, ramp=3)
    loader, weights = train_loader(mixed, batch_size=12), []
    for epoch in range(5):
        loader.batch_sampler.set_epoch(epoch)
        (batch,) = loader
        weights.append(max(float(known.weights.max()) for known in batch.annotations if known.weights is not None))
    assert np.allclose(weights, np.array([0.25, 0.5, 0.75, 1, 1]) * 0.5 * 0.9)


def test_impossible_mixtures_are_refused(file):
    pseudo = PseudoPairs(file, POOL)
    with pytest.raises(ValueError, match="weight must lie in"):
        MixedPairs(LABELLED, pseudo, weight=0)


def test_a_sure_machine_is_still_no_label(tmp_path):
    """A confidence of 1 stays below the weight of a label, which tells the two apart in the loss."""
    pool = PairImages(SyntheticPairs(length=6, images=8, size=32))
    same = [i for i in range(len(pool)) if pool.labels[i] == pool.labels[0]]
    source, target = ([i, pool.sides[i].file.name] for i in (same * 2)[:2])
    row = dict(source=source, target=target, points=[[3.0, 4.0, 5.0, 6.0, 1.0]])
    write_points(tmp_path / "sure.json", [row], info={})
    _, known = PseudoPairs(tmp_path / "sure.json", pool)[0]
    assert known.weights is not None and 0.999 < known.weights.item() < 1
