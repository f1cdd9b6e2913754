import logging
from itertools import chain

import numpy as np
import pytest
import torch

from detkit.data.base import ImageDataset
from detkit.data.coco import CocoDataset
from detkit.data.loading import eval_loader, train_loader
from detkit.data.sampling import SampleKeys
from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import RandomFlip
from detkit.data.views import EvaluationView, TrainingView
from detkit.modeling.base import InputRule

SCENES = SyntheticScenes(30, size=48)
BOX = (1, 10, 5, 20, 30)


def jitter(image, annotations, rng):
    return image + torch.tensor(rng.integers(0, 50), dtype=torch.uint8), annotations


def read_threads(image, annotations, rng):
    return image.new_full((3, 8, 8), torch.get_num_threads()), annotations


class Broken(ImageDataset):
    """`dataset` with unreadable samples."""

    def __init__(self, dataset, broken):
        self.dataset, self.broken = dataset, set(broken)
        self.label_map, self.image_ids, self.sizes = dataset.label_map, dataset.image_ids, dataset.sizes

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if index in self.broken:
            raise ValueError(f"cannot read image file {index}")
        return self.dataset[index]


def flat(lists):
    return list(chain.from_iterable(lists))


def image_ids(loader):
    return [[a.image_id for a in batch.annotations] for batch in loader]


def test_keys_of_an_epoch_are_a_permutation_that_depends_on_seed_and_epoch():
    keys = SampleKeys(30, batch_size=5, seed=1)
    first = list(keys)
    assert len(first) == len(keys) == 6 and sorted(flat(first)) == list(range(30)) and first == list(keys)
    keys.set_epoch(2)
    second = list(keys)
    assert sorted(flat(second)) == list(range(60, 90))
    assert [key % 30 for key in flat(second)] != flat(first)
    assert list(SampleKeys(30, batch_size=5, seed=2)) != first
    assert flat(SampleKeys(30, batch_size=5, shuffle=False)) == list(range(30))


def test_a_resumed_epoch_has_the_remaining_batches():
    whole, resumed = SampleKeys(30, batch_size=4, seed=1), SampleKeys(30, batch_size=4, seed=1)
    whole.set_epoch(3)
    resumed.set_epoch(3)
    resumed.set_position(5)
    assert list(resumed) == list(whole)[5:] and len(resumed) == 7
    resumed.set_epoch(4)
    assert len(list(resumed)) == 7
    with pytest.raises(ValueError, match="batch 8 of an epoch of 7"):
        resumed.set_position(8)


def test_ranks_share_each_step_of_the_single_process_run():
    single = list(SampleKeys(30, batch_size=8, seed=1))
    ranks = [list(SampleKeys(30, batch_size=4, seed=1, rank=rank, world_size=2)) for rank in range(2)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == single and len(single) == 3


def test_too_few_samples_for_a_batch_is_an_error():
    with pytest.raises(ValueError, match="30 training samples do not fill one batch of 16 on each of 2 processes"):
        train_loader(SCENES, batch_size=16, world_size=2)


def test_training_order_and_augmentation_are_equal_with_and_without_workers():
    options = {"transforms": [RandomFlip(), jitter], "batch_size": 4, "seed": 5}
    loaders = [train_loader(SCENES, workers=workers, **options) for workers in (0, 2)]
    for epoch in (0, 1):
        for loader in loaders:
            loader.batch_sampler.set_epoch(epoch)
        loaders[1].batch_sampler.set_position(epoch)
        here, there = list(loaders[0])[epoch:], list(loaders[1])
        assert len(here) == len(there) == 7 - epoch
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a.images.images, b.images.images)
            assert [x.image_id for x in a.annotations] == [x.image_id for x in b.annotations]


def test_augmentation_differs_between_epochs_but_not_between_visits():
    view = TrainingView(SCENES, [jitter], seed=1)
    assert torch.equal(view[3][0], view[3][0])
    assert any(not torch.equal(view[i][0], view[30 + i][0]) for i in range(4))
    assert any(not torch.equal(view[i][0], TrainingView(SCENES, [jitter], seed=2)[i][0]) for i in range(4))


def test_loading_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    list(train_loader(SCENES, [RandomFlip()], batch_size=10))
    list(eval_loader(SCENES, InputRule(32, 64).resize, batch_size=10))
    assert torch.equal(torch.get_rng_state(), state)


def test_workers_use_one_thread():
    batch = next(iter(train_loader(SCENES, [read_threads], batch_size=2, workers=1)))
    assert (batch.images.images == 1).all()


def test_broken_samples_are_replaced_by_the_next_readable_one(caplog):
    view = TrainingView(Broken(SCENES, [3, 4, 29]), seed=1)
    with caplog.at_level(logging.WARNING):
        assert view[3][1].image_id == view[33][1].image_id == 6
        assert view[29][1].image_id == 1
    assert len(caplog.records) == 3
    assert "image id 4 (cannot read image file 3)" in caplog.text
    with pytest.raises(ValueError, match="image file 3"):
        TrainingView(Broken(SCENES, [3]), skip_broken=False)[3]
    with pytest.raises(ValueError, match="30 samples in a row"):
        TrainingView(Broken(SCENES, range(30)))[3]


def test_errors_of_transforms_are_not_taken_for_broken_samples():
    def fail(image, annotations, rng):
        raise ValueError("bad transform")

    with pytest.raises(ValueError, match="bad transform"):
        TrainingView(SCENES, [fail])[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_jpeg_does_not_stop_training_or_evaluation(coco_folder, workers, caplog):
    path, folder = coco_folder([[BOX]] * 4, suffix="jpg")
    file = folder / "002.jpg"
    file.write_bytes(file.read_bytes()[:300])
    dataset = CocoDataset(path, folder, masks=True)
    batches = image_ids(train_loader(dataset, batch_size=4, workers=workers))
    assert sorted(batches[0]) == [10, 11, 13, 13]
    rule = InputRule(shortest=32, longest=64)
    assert image_ids(eval_loader(dataset, rule.resize, batch_size=2, workers=workers)) == [[10, 11], [13]]
    if workers == 0:
        assert caplog.text.count("002.jpg") >= 2 and "image id 12" in caplog.text


def test_evaluation_covers_each_image_once_over_ranks():
    rule = InputRule(shortest=32, longest=64)
    loaders = [eval_loader(SCENES, rule.resize, batch_size=4, rank=rank, world_size=4) for rank in range(4)]
    ids = [flat(image_ids(loader)) for loader in loaders]
    assert sorted(flat(ids)) == SCENES.image_ids
    assert [len(part) for part in ids] == [8, 8, 7, 7]
    assert image_ids(eval_loader(SyntheticScenes(1), rule.resize, batch_size=4, rank=1, world_size=2)) == []


def test_evaluation_resizes_pixels_and_keeps_original_geometry():
    scenes = SyntheticScenes(4, size=(50, 100))
    (batch,) = eval_loader(scenes, InputRule(shortest=64, longest=200, multiple=16).resize, batch_size=4)
    assert batch.images.images.shape == (4, 3, 64, 128) and batch.images.images.dtype == torch.uint8
    for annotations, (_, expected) in zip(batch.annotations, scenes, strict=True):
        assert annotations.original_size == (50, 100) and torch.equal(annotations.boxes, expected.boxes)
        assert annotations.masks is None


def test_evaluation_batches_without_readable_images_are_passed_over():
    broken = Broken(SyntheticScenes(6), [0, 2, 3])
    loader = eval_loader(broken, lambda image: image, batch_size=2)
    assert image_ids(loader) == [[2], [5, 6]]
    assert EvaluationView(broken, lambda image: image)[0] is None


def test_loaders_take_images_of_different_sizes(coco_folder):
    path, folder = coco_folder([[BOX]] * 3, sizes=[(60, 80), (90, 50), (64, 64)])
    (batch,) = train_loader(CocoDataset(path, folder, masks=True), batch_size=3)
    assert batch.images.images.shape == (3, 3, 90, 80)
    assert sorted(batch.images.sizes) == [(60, 80), (64, 64), (90, 50)]
    assert int((~batch.images.mask).sum()) == int(np.prod(batch.images.sizes, axis=1).sum())
