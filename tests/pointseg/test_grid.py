import numpy as np
import pytest
import torch
from pointseg_golden import Golden

from detkit.pointseg import codes
from detkit.pointseg.geometry import centres_of_mass, extents, mask_boxes, profiles, quarter_masks
from detkit.pointseg.grid import (
    ALL_SIZES,
    STUDENT_GRIDS,
    STUDENT_RANGES,
    TEACHER_GRIDS,
    TEACHER_RANGES,
    GridLevels,
    Objects,
    assign,
    cells_at,
)
from detkit.structures import Annotations

FRAME = (640, 800)
VARIANTS = {
    "teacher_train": (GridLevels(TEACHER_GRIDS, TEACHER_RANGES), False),
    "student_train": (GridLevels(STUDENT_GRIDS, STUDENT_RANGES), False),
    "point_wide_eval": (GridLevels(TEACHER_GRIDS, ALL_SIZES), True),
}


@pytest.fixture(scope="module")
def golden():
    return Golden("03_targets")


@pytest.fixture(scope="module")
def annotations(golden):
    return [
        Annotations(
            golden.tensor(f"img{i}_boxes"), golden.tensor(f"img{i}_labels"), golden.tensor(f"img{i}_masks").bool()
        )
        for i in range(2)
    ]


@pytest.mark.parametrize("image", [0, 1])
def test_masks_at_a_quarter(golden, annotations, image):
    small = quarter_masks(annotations[image].masks, (160, 200))
    np.testing.assert_array_equal(small.numpy(), golden[f"img{image}_masks_quarter"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_targets(golden, annotations, variant):
    grids, centre_only = VARIANTS[variant]
    objects = Objects.from_annotations(annotations, FRAME, torch.device("cpu"))
    targets = assign(objects, grids, FRAME, 2, centre_only=centre_only)
    labels, starts = targets.labels(objects, 80), grids.offsets(torch.device("cpu"))
    for image in range(2):
        # The official rows count all objects of an image; the table leaves out those with empty masks.
        numbers = annotations[image].masks.flatten(1).any(1).nonzero()[:, 0]
        first = int((objects.image < image).sum())
        sizes = {"padded": FRAME, "original": tuple(annotations[image].masks.shape[1:])}
        code_of = {name: codes.encode(objects.centres, size) for name, size in sizes.items()}
        for level, side in enumerate(grids.sides):
            at, cells = f"{variant}.img{image}.L{level}", slice(int(starts[level]), int(starts[level]) + side**2)
            np.testing.assert_array_equal(labels[image, cells].view(side, side), golden[f"{at}.cate_label"])
            owner = targets.owner[image, cells]
            np.testing.assert_array_equal(owner >= 0, golden[f"{at}.ins_ind"])
            here = objects.image[targets.row_object] == image
            here &= (targets.row_cell >= cells.start) & (targets.row_cell < cells.stop)
            np.testing.assert_array_equal(targets.row_cell[here] - cells.start, golden[f"{at}.grid_order"])
            np.testing.assert_array_equal(
                numbers[targets.row_object[here] - first].numpy(), golden[f"{at}.row_instance"]
            )
            for name, code in code_of.items():
                grid = torch.where(owner >= 0, code[owner], 0).view(side, side)
                np.testing.assert_array_equal(grid, golden[f"{at}.point_{name}"])


def test_cells_and_codes_of_points():
    golden = Golden("03b_point_cells")
    padded, unpadded = tuple(golden.meta["config"]["padded_hw"]), tuple(golden.meta["config"]["unpadded_hw"])
    points = golden.tensor("points_yx").flip(1).float()
    target = torch.stack(
        [cells_at(points[:, 1], padded[0], TEACHER_GRIDS), cells_at(points[:, 0], padded[1], TEACHER_GRIDS)], 2
    )
    np.testing.assert_array_equal(target, golden["target_cell"])
    for name, size in (("padded", padded), ("original", unpadded)):
        code = codes.encode(points, size)
        np.testing.assert_array_equal(torch.stack([code // 10000, code % 10000], 1), golden[f"code_{name}_yx"])
    prompt = torch.stack(codes.cells_of(codes.encode(points, padded), TEACHER_GRIDS), 2)
    np.testing.assert_array_equal(prompt, golden["prompt_cell"])


def test_codes_come_back_as_points():
    points = torch.tensor([[3.0, 7.0], [0.0, 0.0], [99.5, 49.9]])
    back = codes.decode(codes.encode(points, (50, 100)), (50, 100))
    torch.testing.assert_close(back.float(), points, atol=0.011, rtol=0)


@pytest.mark.parametrize("shape", [(3, 7, 5), (2, 600, 16), (2, 4, 2100), (0, 5, 5), (1, 0, 4), (1, 4, 0)])
def test_rows_and_columns_are_counted(shape):
    masks = torch.from_numpy(np.random.default_rng(0).random(shape) < 0.7)
    rows, columns = profiles(masks)
    assert torch.equal(rows, masks.sum(2)) and torch.equal(columns, masks.sum(1))


def test_centres_and_extents_of_masks():
    masks = torch.zeros(3, 9, 11, dtype=torch.bool)
    masks[0, 2:5, 3:8] = True
    masks[1, 8, 10] = True
    centres, area = centres_of_mass(masks)
    assert centres[:2].tolist() == [[5, 3], [10, 8]] and centres[2].isnan().all()
    assert area.tolist() == [15, 1, 0]
    assert extents(masks).tolist() == [[3, 2, 7, 4], [10, 8, 10, 8], [-1, -1, -1, -1]]
    assert mask_boxes(masks).tolist() == [[3, 2, 8, 5], [10, 8, 11, 9], [0, 0, 0, 0]]


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (64, 5), (66, 71)])
def test_masks_of_any_size_at_a_quarter(size):
    cv2 = pytest.importorskip("cv2")
    masks = torch.from_numpy(np.random.default_rng(1).random((4, *size)) < 0.5)
    small = quarter_masks(masks, (20, 20))
    out = int(size[1] / 4 + 0.5), int(size[0] / 4 + 0.5)
    for mask, got in zip(masks.numpy().astype(np.uint8), small.numpy(), strict=True):
        wanted = np.zeros((20, 20), np.uint8)
        if min(out) > 0:
            wanted[: out[1], : out[0]] = cv2.resize(mask, out, interpolation=cv2.INTER_LINEAR)
        np.testing.assert_array_equal(got, wanted)


def test_objects_without_pixels_and_images_without_objects():
    nothing = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    empty = Annotations(torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([2]), torch.zeros(1, 32, 32, dtype=torch.bool))
    for annotations in ([nothing], [nothing, empty]):
        objects = Objects.from_annotations(annotations, (32, 32), torch.device("cpu"))
        targets = assign(objects, GridLevels(), (32, 32), len(annotations))
        assert len(objects) == 0 and len(targets.row_cell) == 0
        assert (targets.labels(objects, 7) == 7).all()
        assert objects.masks.shape == (0, 8, 8)


def test_points_on_the_border_and_in_one_cell():
    boxes = torch.tensor([[0.0, 0, 64, 64], [0, 0, 64, 64], [0, 0, 64, 64]])
    centres = torch.tensor([[0.0, 0], [64, 64], [0.5, 0.5]])
    objects = Objects(torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 2]), boxes, centres)
    grids = GridLevels((4,), ((0, 1e5),))
    targets = assign(objects, grids, (64, 64), 1, centre_only=True)
    assert targets.row_cell.tolist() == [0, 15, 0]
    assert targets.labels(objects, 9)[0, [0, 15, 5]].tolist() == [2, 1, 9]


def test_training_needs_masks():
    with pytest.raises(ValueError, match=r"street.jpg: training needs masks"):
        boxes_only = Annotations(torch.ones(1, 4), torch.zeros(1, dtype=torch.int64), file_name="street.jpg")
        Objects.from_annotations([boxes_only], (32, 32), torch.device("cpu"))


def test_wrong_grids():
    with pytest.raises(ValueError, match="2 grids but 5 ranges"):
        GridLevels((4, 2))


def test_published_grids_have_names():
    assert GridLevels.of("teacher", "teacher", 0.2) == GridLevels(TEACHER_GRIDS, TEACHER_RANGES, 0.2)
    assert GridLevels.of("student", [[1, 9]] * 5, 0.2).ranges == ((1, 9),) * 5
    with pytest.raises(ValueError, match="unknown grids 'pupil': choose from student, teacher"):
        GridLevels.of("pupil", "student", 0.2)


def test_ranges_leave_no_size_out():
    GridLevels((3, 2), ((48, 192), (1, 96)))
    with pytest.raises(ValueError, match="scale_ranges: no grid has the objects of sizes from 60 to 96"):
        GridLevels((3, 2, 1), ((1, 60), (20, 40), (96, 300)))
