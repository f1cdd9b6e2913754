from dataclasses import asdict

import pytest
import torch

from detkit.structures import Flow, ImagePair, Matches, PairAnnotations, PairBatch


def sample(points=2, **fields):
    pair = ImagePair(torch.ones(3, 4, 6, dtype=torch.uint8), torch.ones(3, 8, 5, dtype=torch.uint8))
    return pair, PairAnnotations(torch.rand(points, 2), torch.rand(points, 2), **fields)


def test_batch_pads_each_side_and_counts_points():
    batch = PairBatch.collate([sample(2, pair_id=5), sample(0)])
    assert batch.source.images.shape == (2, 3, 4, 6) and batch.target.sizes == [(8, 5), (8, 5)]
    assert len(batch) == 2 and batch.count_objects() == 2 and batch.num_objects is None
    assert [a.image_id for a in batch.annotations] == [5, None]
    batch.num_objects = torch.tensor(2.0)
    moved = batch.to("meta")
    assert moved.target.images.is_meta and moved.annotations[0].target_points.is_meta and moved.num_objects.is_meta
    assert asdict(batch)["annotations"][0]["pair_id"] == 5


def test_swap_exchanges_everything():
    _, pair = sample(source_box=torch.zeros(4), source_size=(4, 6), target_size=(8, 5), weights=torch.ones(2))
    swapped = pair.swap()
    assert torch.equal(swapped.target_points, pair.source_points) and swapped.target_size == (4, 6)
    assert swapped.target_box is pair.source_box and swapped.source_box is None and swapped.weights is pair.weights


@pytest.mark.parametrize(
    ("source", "target", "weights", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 3), None, r"expected \[n, 2\]"),
        (torch.zeros(2, 2), torch.zeros(3, 2), None, "2 source points but 3 target points"),
        (torch.zeros(2, 2), torch.zeros(2, 2), torch.ones(1), "2 points but 1 weights"),
    ],
)
def test_parts_must_fit(source, target, weights, message):
    with pytest.raises(ValueError, match=message):
        PairAnnotations(source, target, weights=weights)


def test_flow_and_matches_move():
    assert Flow(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3)).to("meta").weights.is_meta
    assert len(Matches(torch.zeros(3, 2), torch.zeros(3)).cpu()) == 3
