"""The data that MaskRefineNet learns from."""

import json
import logging

import numpy as np
import pytest
import torch
from rough_scenes import HEIGHT, WIDTH, prediction, refine_crops, write_scenes

from detkit.data.loading import eval_loader, train_loader
from detkit.pointseg.refine.batches import CropBatch, RoughBatch
from detkit.pointseg.refine.data import RefineCrops
from detkit.registry import build


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"))


def crops(folder, *more, **options):
    """The dataset, with entries `more` in another file of predictions."""
    config = refine_crops(folder, **options)
    if more:
        (folder / "more.json").write_text(json.dumps(list(more)))
        config["predictions"].append(str(folder / "more.json"))
    return build(config)


def test_rough_masks_meet_the_true_masks_of_their_class(folder):
    dataset = crops(folder)
    assert len(dataset) == 16 and dataset.label_map.names == ("disc", "square")
    assert dataset.image_ids == [1 + i // 2 for i in range(16)] and dataset.sizes.shape == (16, 2)
    for index in range(4):
        image, known = dataset[index]
        assert image.shape == (3, HEIGHT, WIDTH) and image.dtype == torch.uint8
        assert known.rough.shape == known.true.shape == (1, HEIGHT, WIDTH) and known.rough.dtype == torch.bool
        assert known.category_ids.tolist() == [(3, 7)[index % 2]]
        assert (known.rough & known.true).sum() > 0.8 * known.true.sum()
        x, y = known.points[0].round().long().tolist()
        assert known.true[0, y, x]


def test_what_cannot_be_used_is_left_out_and_counted_once(folder, caplog):
    box = np.zeros((HEIGHT, WIDTH), dtype=bool)
    empty = prediction(1, 3, box, [5.0, 5.0])
    box[4:20, 4:20] = True
    unknown = prediction(99, 3, box, [5.0, 5.0])
    content = json.loads((folder / "strong.json").read_text())
    content["annotations"] = [a for a in content["annotations"] if (a["image_id"], a["category_id"]) != (2, 7)]
    (folder / "part.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        dataset = crops(folder, empty, unknown, annotation_file=str(folder / "part.json"))
    assert len(dataset) == 15 and sorted(dataset.left_out.values()) == [1, 1, 1]
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    for text in ("3 of 18 rough masks are left out", "1 empty", "no true mask in their image", "does not list"):
        assert text in record.message
    assert 2 in dataset.image_ids and dataset.image_ids.count(2) == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_id": 1}, r"more.json\[0\] lacks 'category_id', 'segmentation', 'point'"),
        (
            dict(prediction(1, 3, np.ones((HEIGHT, WIDTH), bool), [1.0, 2]), segmentation=[[0, 0, 4, 0, 4, 4]]),
            "run len",
        ),
        (prediction(1, 3, np.ones((HEIGHT, WIDTH), bool), [1.0]), r"point must be x, y, got \[1.0\]"),
        (prediction(1, 3, np.ones((WIDTH, HEIGHT), bool), [1.0, 2]), r"image id 1 has height, width \[96, 72\]"),
    ],
)
def test_malformed_predictions_are_named(folder, entry, message):
    with pytest.raises(ValueError, match=message):
        crops(folder, entry)


def test_wrong_arguments(folder):
    with pytest.raises(ValueError, match="predictions: must be a list, each item a path"):
        crops(folder, predictions="rough.json")
    with pytest.raises(ValueError, match="size: must be a whole number from 32"):
        crops(folder, size=8)
    (folder / "empty.json").write_text("[]")
    with pytest.raises(ValueError, match="none of the rough masks"):
        crops(folder, predictions=[str(folder / "empty.json")])


def test_training_batches_depend_on_seed_and_epoch_alone(folder):
    dataset = crops(folder, size=48)

    def batches(workers, epoch):
        loader = train_loader(dataset, batch_size=4, seed=5, workers=workers)
        loader.batch_sampler.set_epoch(epoch)
        return list(loader)

    first, again, other = batches(0, 1), batches(1, 1), batches(0, 2)
    assert len(first) == 4 and all(isinstance(batch, CropBatch) and len(batch) == 4 for batch in first)
    for one, two in zip(first, again, strict=True):
        for name in ("images", "rough", "true", "points", "planes"):
            assert torch.equal(getattr(one, name), getattr(two, name))
        assert one.annotations == two.annotations and one.count_objects() == 4
    assert first[0].images.shape == (4, 3, 48, 48) and first[0].images.dtype == torch.uint8
    assert not all(torch.equal(a.images, b.images) for a, b in zip(first, other, strict=True))
    planes = torch.cat([batch.planes for batch in first])
    assert set(planes.tolist()) <= {-1, 1, 2} and planes.max() == 2


def test_evaluation_batches_have_each_image_once_with_all_its_masks(folder):
    dataset = crops(folder)
    parts = [list(eval_loader(dataset, None, batch_size=3, rank=rank, world_size=2)) for rank in range(2)]
    ids = [known.image_id for part in parts for batch in part for known in batch.annotations]
    assert sorted(ids) == list(range(1, 9))
    batch = parts[0][0].to("cpu")
    assert isinstance(batch, RoughBatch) and len(batch) == 3
    assert [len(known) for known in batch.annotations] == [2, 2, 2]
    assert batch.annotations[0].true.shape == (2, HEIGHT, WIDTH)


def test_an_unreadable_image_is_passed_over(folder, tmp_path, caplog):
    write_scenes(tmp_path, number=3)
    (tmp_path / "2.png").write_bytes(b"no image")
    dataset = RefineCrops([tmp_path / "rough.json"], tmp_path / "strong.json", tmp_path, size=32)
    (batch,) = train_loader(dataset, batch_size=6)
    assert 2 not in {origin.image_id for origin in batch.annotations}
    assert "cannot read image id 2" in caplog.text
    found = list(eval_loader(dataset, None, batch_size=1))
    assert [batch.annotations[0].image_id for batch in found] == [1, 3]
