import pytest
import torch

from detkit.engine.guard import FiniteGuard, NonFiniteError, load_batches, save_batches
from detkit.structures import Annotations, Batch, ImagePair, PairAnnotations, PairBatch


def make_batch():
    samples = [
        (
            torch.full((3, 4, 4 + i), i, dtype=torch.uint8),
            Annotations(torch.rand(i, 4), torch.zeros(i, dtype=torch.int64), image_id=50 + i, original_size=(8, 8)),
        )
        for i in range(3)
    ]
    batch = Batch.collate(samples)
    batch.num_objects = torch.tensor(3.0)
    return batch


def test_a_finite_step_passes(tmp_path):
    FiniteGuard(tmp_path).watch(1, [make_batch()], {"loss": torch.tensor(1.0)}, torch.tensor(2.0))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("loss", "norm"), [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_step_that_is_not_finite_stops_and_keeps_its_batch(tmp_path, loss, norm):
    batch = make_batch()
    losses = {"loss_box": torch.tensor(loss), "loss_class": torch.tensor(0.5)}
    with pytest.raises(NonFiniteError) as error:
        FiniteGuard(tmp_path).watch(7, [batch], losses, torch.tensor(norm))
    for text in ("step 7", "loss_class 0.5", "gradient norm", "[50, 51, 52]", "nonfinite_batch_step_7.pt"):
        assert text in str(error.value)
    (again,), saved = load_batches(tmp_path / "nonfinite_batch_step_7.pt")
    assert saved["step"] == 7 and saved["values"]["loss_class"] == 0.5
    assert torch.equal(again.images.images, batch.images.images) and torch.equal(again.images.mask, batch.images.mask)
    assert again.images.sizes == batch.images.sizes and again.num_objects == 3
    for first, second in zip(again.annotations, batch.annotations, strict=True):
        assert torch.equal(first.boxes, second.boxes) and first.image_id == second.image_id
        assert first.original_size == second.original_size and first.masks is None


def test_batches_of_other_types_come_back_as_they_were(tmp_path):
    points = torch.rand(3, 2)
    pair = PairAnnotations(points, points + 1, target_box=torch.rand(4), label=2, pair_id=7, source_size=(4, 5))
    pixels = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    batch = PairBatch.collate([(ImagePair(pixels, pixels.flip(2)), pair)])
    save_batches(tmp_path / "batches.pt", [batch, make_batch()], step=4, values={"loss": float("nan")})
    (again, other), saved = load_batches(tmp_path / "batches.pt")
    assert saved.keys() == {"step", "values"}
    assert type(again) is PairBatch and type(other) is Batch and other.num_objects == 3
    assert torch.equal(again.target.images, batch.target.images) and again.source.sizes == [(4, 5)]
    (known,) = again.annotations
    assert type(known) is PairAnnotations and known.pair_id == 7 and known.source_size == (4, 5)
    assert torch.equal(known.target_points, pair.target_points) and known.weights is None
    stored = torch.load(tmp_path / "batches.pt", weights_only=True)
    assert stored["step"] == 4 and stored["batches"][0]["type of the dataclass"].endswith(":PairBatch")


@pytest.mark.parametrize(
    "name",
    ["os:system", "absent_module:Batch", "detkit.structures.images:torch", "detkit.modeling.image_model:InputRules"],
)
def test_a_file_cannot_name_anything_else(tmp_path, name):
    torch.save({"batches": [{"type of the dataclass": name, "command": "x"}]}, tmp_path / "batches.pt")
    with pytest.raises(ValueError, match=f"cannot read a batch of type '{name}'"):
        load_batches(tmp_path / "batches.pt")
