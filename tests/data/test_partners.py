"""Training samples that are joined with others, and transforms that end before the training does."""

import pytest
import torch

from detkit.data.base import ImageDataset
from detkit.data.loading import train_loader
from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import CopyPaste, DetrAugment, MixUp, Mosaic
from detkit.data.views import TrainingView
from detkit.images import ThinImageError
from detkit.runtime.components import epochs_of
from detkit.structures import Annotations

STRONG = [
    CopyPaste(probability=0.5, until=0.5),
    Mosaic(96, probability=0.5, until=0.5),
    DetrAugment(shortest=[64], longest=64, crop_probability=1, crop_resize=[64, 80], crop_size=[64, 64]),
    MixUp(probability=0.5, until=0.5),
]


class Numbered(ImageDataset):
    """Images of which image i has the value i; some are broken."""

    def __init__(self, length=20, broken=()):
        self.length, self.broken, self.image_ids = length, broken, list(range(100, 100 + length))

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"cannot read image {index}")
        known = Annotations(torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([index]), image_id=self.image_ids[index])
        return torch.full((3, 8, 8), index, dtype=torch.uint8), known


class Gather:
    """Notes the values of the partners in the first pixels; takes the samples as they came."""

    until = 1.0

    def __init__(self, number):
        self.number = number

    def partners(self, rng):
        return self.number

    def __call__(self, image, annotations, rng, others):
        image = image.clone()
        for i, (other, _) in enumerate(others):
            image[:, 0, i] = other[0, -1, -1]
        return image, annotations


def plus_100(image, annotations, rng):
    return image + 100, annotations


def partners_of(view, key, number):
    return view[key][0][0, 0, :number].tolist()


def test_partners_are_drawn_anew_in_each_epoch_and_are_the_same_at_each_visit():
    view = TrainingView(Numbered(), [Gather(3)], seed=1)
    drawn = [partners_of(view, key, 3) for key in range(200)]
    assert drawn == [partners_of(view, key, 3) for key in range(200)]
    assert len(set(map(tuple, drawn))) > 150 and {value for three in drawn for value in three} == set(range(20))
    assert drawn != [partners_of(TrainingView(Numbered(), [Gather(3)], seed=2), key, 3) for key in range(200)]


def test_partners_go_through_the_transforms_before():
    view = TrainingView(Numbered(), [plus_100, Gather(2), plus_100])
    image = view[5][0]
    assert image[0, -1, -1] == 205 and all(value >= 200 for value in image[0, 0, :2].tolist())
    nested = TrainingView(Numbered(), [Gather(2), Gather(2)])
    assert set(partners_of(nested, 3, 2)) <= set(range(20))


def test_a_broken_partner_is_replaced_by_the_next_and_reported_once(caplog):
    view = TrainingView(Numbered(broken=range(1, 20)), [Gather(2)])
    assert partners_of(view, 0, 2) == [0, 0] and partners_of(view, 20, 2) == [0, 0]
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(set(lines)) <= 19 and "cannot read image id" in lines[0]
    with pytest.raises(ValueError, match="cannot read image"):
        TrainingView(Numbered(broken=range(1, 20)), [Gather(9)], skip_broken=False)[0]


def test_a_partner_that_is_too_thin_is_replaced():
    def refuse_odd(image, annotations, rng):
        if image[0, 0, 0] % 2:
            raise ThinImageError("too thin")
        return image, annotations

    view = TrainingView(Numbered(), [refuse_odd, Gather(3)])
    assert all(value % 2 == 0 for key in range(0, 40, 2) for value in partners_of(view, key, 3))


def test_a_transform_ends_after_its_share_of_the_epochs():
    mosaic = Mosaic(32, probability=1, until=0.8)
    five = TrainingView(Numbered(), [mosaic], epochs=5)
    assert [five[20 * epoch][0].shape for epoch in range(6)] == [(3, 32, 32)] * 4 + [(3, 8, 8)] * 2
    single = TrainingView(Numbered(), [mosaic], epochs=1)
    assert single[0][0].shape == (3, 32, 32)  # the first epoch always has it
    without_end = TrainingView(Numbered(), [mosaic])
    assert without_end[20 * 1000][0].shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("train", "epochs"),
    [
        (dict(epochs=10, max_steps=None, accumulate=1), 10),
        (dict(epochs=10, max_steps=35, accumulate=1), 5),
        (dict(epochs=10, max_steps=8, accumulate=2), 2),
        (dict(epochs=2, max_steps=35, accumulate=1), 2),
    ],
)
def test_the_epochs_of_a_training_may_be_limited_by_its_steps(train, epochs):
    assert epochs_of(train, batches=7) == epochs


def test_joined_samples_are_the_same_in_workers_and_after_a_resume():
    scenes = SyntheticScenes(24, size=72)
    loaders = [train_loader(scenes, STRONG, batch_size=4, seed=3, epochs=4, workers=workers) for workers in (0, 2)]
    for epoch in (0, 3):
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
        loaders[1].batch_sampler.set_position(2)
        here, there = list(loaders[0])[2:], list(loaders[1])
        assert len(here) == len(there) == 4
        for one, two in zip(here, there, strict=True):
            assert torch.equal(one.images.images, two.images.images)
            for a, b in zip(one.annotations, two.annotations, strict=True):
                assert torch.equal(a.boxes, b.boxes) and torch.equal(a.masks, b.masks)


def test_a_transform_that_wants_no_partner_is_not_called():
    view = TrainingView(Numbered(), [MixUp(probability=0), Gather(0)], seed=4)
    assert torch.equal(view[7][0], Numbered()[7][0])
