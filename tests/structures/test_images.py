import pickle

import numpy as np
import pytest
import torch

from detkit.ops.masks import BoxMasks, MaskCrops
from detkit.ops.rle import decode_mask
from detkit.structures import Annotations, Batch, Detections, ImageBatch, LabelMap


def annotations(n=2, **kwargs):
    return Annotations(torch.rand(n, 4), torch.arange(n), **kwargs)


def detections(masks=None, label_map=None):
    boxes = torch.tensor([[1.0, 2.0, 4.0, 8.0], [0.0, 0.0, 2.0, 2.0], [3.0, 3.0, 3.0, 3.0]])
    return Detections(boxes, torch.tensor([0.75, 0.5, 0.25]), torch.tensor([2, 0, 1]), masks, label_map)


class TestLabelMap:
    def test_round_trip_through_a_dict(self):
        label_map = LabelMap(["cat", None, "dog"], [3, 7, 17])
        assert len(label_map) == 3
        assert LabelMap(**label_map.to_dict()) == label_map

    def test_numbered(self):
        assert LabelMap.numbered(2) == LabelMap(("class_0", "class_1"), (0, 1))

    @pytest.mark.parametrize(("names", "ids"), [(("a",), (1, 2)), (("a", "b"), (1, 1))])
    def test_names_and_ids_must_fit(self, names, ids):
        with pytest.raises(ValueError, match="ids"):
            LabelMap(names, ids)


class TestImageBatch:
    def test_pads_bottom_right_and_masks_the_padding(self):
        images = [torch.full((3, 4, 6), 7, dtype=torch.uint8), torch.full((3, 5, 2), 9, dtype=torch.uint8)]
        batch = ImageBatch.from_images(images)
        assert batch.images.shape == (2, 3, 5, 6)
        assert batch.images.dtype == torch.uint8
        assert batch.sizes == [(4, 6), (5, 2)]
        assert (batch.images[0, :, :4, :6] == 7).all()
        assert (batch.images[1, :, :5, :2] == 9).all()
        assert (~batch.mask).sum(dim=(1, 2)).tolist() == [4 * 6, 5 * 2]
        assert (batch.images[batch.mask[:, None].expand_as(batch.images)] == 0).all()
        assert batch.mask[0, 4].all()
        assert batch.mask[1, :, 2:].all()

    def test_the_batch_owns_its_pixels(self):
        image = torch.zeros(3, 2, 2)
        batch = ImageBatch.from_images([image])
        image += 1
        assert batch.images.sum() == 0

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            ([], "at least one"),
            ([torch.zeros(3, 4, 4), torch.zeros(4, 4)], "image 1 has shape"),
            ([torch.zeros(1, 4, 4)], "image 0 has shape"),
            ([torch.zeros(3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)], "image 1 is torch.uint8 but"),
        ],
    )
    def test_what_cannot_be_a_batch(self, images, message):
        with pytest.raises(ValueError, match=message):
            ImageBatch.from_images(images)


class TestAnnotations:
    def test_to_keeps_what_is_not_a_tensor(self):
        moved = annotations(image_id=4, original_size=(5, 6), file_name="a.jpg").to("meta")
        assert moved.boxes.device.type == moved.labels.device.type == "meta"
        assert moved.masks is None
        assert (moved.image_id, moved.original_size, moved.file_name) == (4, (5, 6), "a.jpg")

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"boxes": torch.zeros(4)}, r"expected \[n, 4\]"),
            ({"labels": torch.zeros(3)}, "2 boxes but 3 labels"),
            ({"masks": torch.zeros(1, 5, 5)}, "2 boxes but 1 masks"),
            ({"points": torch.zeros(0, 2)}, "2 boxes but 0 points"),
        ],
    )
    def test_lengths_must_agree(self, fields, message):
        with pytest.raises(ValueError, match=message):
            Annotations(**({"boxes": torch.zeros(2, 4), "labels": torch.zeros(2)} | fields))

    def test_compact_masks_become_full_ones_when_they_are_read(self):
        full = torch.rand(2, 5, 7) > 0.5
        found = annotations(masks=MaskCrops.of_masks(full, (5, 7)))
        assert found.mask_size == (5, 7) and "MaskCrops" in repr(found) and found.stored_masks is found.mask_crops
        [shown] = Detections.of_annotations(found)[1:].encode_masks()
        assert np.array_equal(decode_mask(shown, 5, 7), full[1]) and found.stored_masks is found.mask_crops
        assert torch.equal(found.masks, full) and found.masks is found.masks
        assert annotations(masks=full).mask_size == (5, 7) and annotations().mask_size is None


class TestBatch:
    def test_collate_counts_objects_of_all_images(self):
        samples = [(torch.zeros(3, 4, 4), annotations(2)), (torch.zeros(3, 6, 2), annotations(0))]
        batch = Batch.collate(samples)
        assert len(batch) == 2
        assert batch.count_objects() == 2
        assert batch.images.sizes == [(4, 4), (6, 2)]
        assert batch.num_objects is None

    def test_masks_of_a_batch_are_compact(self):
        full = torch.rand(2, 4, 4) > 0.5
        [kept] = Batch.collate([(torch.zeros(3, 4, 4), annotations(2, masks=full))]).annotations
        assert isinstance(kept.stored_masks, MaskCrops) and torch.equal(kept.masks, full)

    def test_to_moves_everything(self):
        batch = Batch.collate([(torch.zeros(3, 4, 4), annotations(1, masks=torch.ones(1, 4, 4, dtype=torch.bool)))])
        batch.num_objects = torch.tensor(1.0)
        moved = batch.to("meta")
        tensors = [moved.images.images, moved.images.mask, moved.num_objects]
        tensors += [moved.annotations[0].boxes, moved.annotations[0].masks]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert moved.images.sizes == [(4, 4)]


class TestDetections:
    @pytest.mark.parametrize("keep", [torch.tensor([True, False, True]), torch.tensor([0, 2]), slice(0, 3, 2), [0, 2]])
    def test_indexing_selects_every_field(self, keep):
        masks = torch.arange(3)[:, None, None].expand(3, 9, 9)
        label_map = LabelMap.numbered(3)
        kept = detections(masks, label_map)[keep]
        assert len(kept) == 2
        assert kept.scores.tolist() == [0.75, 0.25]
        assert kept.labels.tolist() == [2, 1]
        assert kept.boxes[1].tolist() == [3, 3, 3, 3]
        assert kept.masks[:, 0, 0].tolist() == [0, 2]
        assert kept.label_map is label_map

    def test_nothing_kept(self):
        kept = detections()[torch.zeros(3, dtype=torch.bool)]
        assert len(kept) == 0
        assert kept.boxes.shape == (0, 4)
        assert kept.to_coco(1) == []
        assert kept.names() == []

    def test_names_and_category_ids(self):
        assert detections().names() == ["2", "0", "1"]
        assert detections().category_ids() == [2, 0, 1]
        mapped = detections(label_map=LabelMap(("cat", None, "dog"), (3, 12, 17)))
        assert mapped.names() == ["dog", "cat", "1"]
        assert mapped.category_ids() == [17, 3, 12]

    def test_to_coco(self):
        masks = torch.zeros(3, 9, 7, dtype=torch.bool)
        masks[0, 2:8, 1:4] = True
        results = detections(masks, LabelMap.numbered(3)).to_coco(image_id=42)
        assert [result["bbox"] for result in results] == [[1, 2, 3, 6], [0, 0, 2, 2], [3, 3, 0, 0]]
        assert [result["category_id"] for result in results] == [2, 0, 1]
        assert {result["image_id"] for result in results} == {42}
        assert results[0]["score"] == 0.75
        for result, mask in zip(results, masks.numpy(), strict=True):
            np.testing.assert_array_equal(decode_mask(result["segmentation"], 9, 7), mask)
        assert "segmentation" not in detections().to_coco(1)[0]

    def test_boxes_are_clipped_to_the_image(self):
        masks = torch.ones(1, 9, 7, dtype=torch.bool)
        found = Detections(torch.tensor([[-3.0, 2, 9, 11]]), torch.ones(1), torch.zeros(1, dtype=torch.int64), masks)
        assert found.clipped(9, 7).to_coco(1)[0]["bbox"] == [0, 2, 7, 7] and found.clipped(9, 7).masks is masks
        assert found.boxes.tolist() == [[-3, 2, 9, 11]]

    def test_draw_leaves_out_what_scores_too_low(self):
        image = torch.zeros(3, 60, 60, dtype=torch.uint8)
        assert np.asarray(detections().draw(image)).any()
        assert not np.asarray(detections().draw(image, min_score=0.95)).any()

    def test_box_masks_become_a_tensor_when_they_are_read(self):
        stored = BoxMasks(torch.ones(3, 2, 2, dtype=torch.bool), torch.tensor([[1.0, 2, 4, 8]] * 3), (9, 7))
        found = detections(stored, LabelMap.numbered(3))
        kept = pickle.loads(pickle.dumps(found[1:].cpu()))
        assert kept.encode_masks() == found.encode_masks()[1:] == [r["segmentation"] for r in found.to_coco(1)[1:]]
        assert repr(found) == "Detections(3 objects: 1 class_2 (0.75), 1 class_0 (0.50), 1 class_1 (0.25), with masks)"
        assert found.stored_masks is stored
        assert found.masks.shape == (3, 9, 7) and found.masks.dtype == torch.bool
        assert found.masks.sum((1, 2)).tolist() == [18, 18, 18] and found.masks is found.masks
        assert found[:1].encode_masks() == kept[:1].encode_masks()

    def test_masks_are_optional(self):
        assert detections().masks is None and detections().stored_masks is None
