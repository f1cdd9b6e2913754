"""Odd images in a data set, through the commands of a user: photos stored turned, strips, torn files."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from detkit.cli import main
from detkit.data.coco import CocoDataset
from detkit.data.loading import eval_loader, train_loader
from detkit.data.pairs.keypoints import KeypointPairs
from detkit.data.synthetic import SyntheticScenes
from detkit.data.transforms import DetrAugment, Resize
from detkit.modeling.base import InputRule

SCENES = SyntheticScenes(6, size=64, min_objects=2, max_objects=3)
HEIGHT, WIDTH = 48, 64
STORE = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270, 5: Image.Transpose.TRANSPOSE}
CONFIG = """
config = dict(
    model=dict(
        type="ViDT",
        backbone=dict(type="Swin", embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), window=4, num_tokens=20,
                      pos_dim=16),
        hidden_dim=16, decoder_layers=1, heads=2, ffn_dim=32, proposals=True, input_rule=dict(shortest=64, longest=96),
    ),
    data=dict(
        train=dict(type="CocoDataset", annotation_file={file!r}, image_folder={folder!r}),
        val=dict(type="CocoDataset", annotation_file={file!r}, image_folder={folder!r}),
        transforms=[dict(type="Resize", shortest=64, longest=96)],
        batch_size=2, workers=0,
    ),
    evaluator=dict(type="CocoEvaluator"),
    train=dict(epochs=1, device="cpu", tensorboard=False, draw_samples=7),
    optimizer=dict(lr=1e-3),
)
"""


def turn_annotation(box, orientation):
    """A box x y w h of the upright picture in the stored pixels."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    ys, xs = np.nonzero(np.asarray(Image.fromarray(mask).transpose(STORE[orientation])))
    return [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]


def write_photos(folder, orientations, stored=()):
    """Scenes as photos stored in those orientations; those numbered in `stored` are annotated as stored."""
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number, orientation in enumerate(orientations):
        pixels, truth = SCENES[number][0][:, :HEIGHT], SCENES[number][1]
        picture, exif = Image.fromarray(pixels.permute(1, 2, 0).numpy()), Image.Exif()
        exif[0x0112] = orientation
        size = (HEIGHT, WIDTH)
        if orientation > 1:
            picture = picture.transpose(STORE[orientation])
            size = size if number not in stored else (WIDTH, HEIGHT)
        picture.save(folder / "images" / f"{number}.png", exif=exif)
        images.append(dict(id=number + 1, file_name=f"{number}.png", height=size[0], width=size[1]))
        for box, label in zip(truth.boxes.tolist(), truth.labels.tolist(), strict=True):
            x1, y1, x2, y2 = (int(value) for value in (*box[:2], box[2], min(box[3], HEIGHT)))
            if y2 - y1 < 2:
                continue
            box = [x1, y1, x2 - x1, y2 - y1]
            box = turn_annotation(box, orientation) if number in stored else box
            common = dict(id=len(annotations) + 1, image_id=number + 1, category_id=label + 1, iscrowd=0)
            annotations.append({**common, "bbox": box, "area": box[2] * box[3]})
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(SCENES.label_map.names)]
    content = dict(images=images, annotations=annotations, categories=categories)
    (folder / "data.json").write_text(json.dumps(content))
    return content


def add_image(folder, content, width, height):
    """A further image without objects."""
    number = len(content["images"])
    Image.new("RGB", (width, height)).save(folder / "images" / f"{number}.png")
    content["images"].append(dict(id=number + 1, file_name=f"{number}.png", height=height, width=width))
    (folder / "data.json").write_text(json.dumps(content))


def train(folder):
    config = folder / "own.py"
    config.write_text(CONFIG.format(file=str(folder / "data.json"), folder=str(folder / "images")))
    return main(["train", str(config), "--out", str(folder / "run")])


def figures(folder):
    lines = (folder / "run" / "metrics.csv").read_text().splitlines()
    columns = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    return {name: value for name, value in columns.items() if name.startswith(("loss", "val", "bbox"))}


def test_training_and_evaluation_give_the_figures_of_the_photos_without_tags(tmp_path):
    write_photos(tmp_path / "plain", [1] * 6)
    write_photos(tmp_path / "tagged", [1, 6, 6, 8, 8, 5], stored=(2, 4, 5))
    assert train(tmp_path / "plain") == train(tmp_path / "tagged") == 0
    wanted = figures(tmp_path / "plain")
    assert wanted and figures(tmp_path / "tagged") == wanted
    results = [json.loads((tmp_path / name / "run" / "results.json").read_text()) for name in ("plain", "tagged")]
    assert results[0] == results[1] and results[0]


def test_strips_and_torn_images_end_neither_training_nor_evaluation(tmp_path, capsys):
    content = write_photos(tmp_path, [1] * 4)
    for width, height in ((5000, 1), (1, 5000), (96, 16), (8, 8)):
        add_image(tmp_path, content, width, height)
    torn = tmp_path / "images" / "0.png"
    torn.write_bytes(torn.read_bytes()[:300])
    assert train(tmp_path) == 0
    warned = capsys.readouterr().err
    for part in (
        "image id 5",
        "image of 5000 x 1 pixels is too thin",
        "image id 6",
        "image id 1 ",
        "counts as an image",
    ):
        assert part in warned
    assert main(["evaluate", str(tmp_path / "run" / "last.safetensors")]) == 0
    assert main(["predict", str(tmp_path / "run" / "last.safetensors"), str(tmp_path / "images"), "--out",
                 str(tmp_path / "drawn")]) == 0  # fmt: skip
    assert "in 5 images" in capsys.readouterr().out


@pytest.mark.parametrize("transform", [Resize(64, 96), DetrAugment((64,), 96, crop_resize=(64,), crop_size=(32, 64))])
def test_a_thin_image_is_replaced_in_training_and_counts_as_empty_in_evaluation(tmp_path, caplog, transform):
    content = write_photos(tmp_path, [1, 1])
    add_image(tmp_path, content, 2000, 3)
    dataset = CocoDataset(tmp_path / "data.json", tmp_path / "images")
    ids = [a.image_id for batch in train_loader(dataset, [transform], batch_size=3) for a in batch.annotations]
    assert sorted(set(ids)) == [1, 2] and len(ids) == 3
    evaluated = eval_loader(dataset, InputRule(64, 96).resize, batch_size=2)
    assert [a.image_id for batch in evaluated for a in batch.annotations] == [1, 2]
    assert caplog.text.count("image id 3") == 2 and "2000 x 3 pixels is too thin" in caplog.text
    with pytest.raises(ValueError, match="too thin"):
        list(eval_loader(dataset, InputRule(64, 96).resize, batch_size=2, skip_broken=False))


@pytest.mark.parametrize("annotated", ["upright", "stored"])
def test_key_points_of_pairs_turn_with_the_photo(tmp_path, annotated):
    def write(folder, orientation, stored):
        write_photos(folder, [1, orientation], stored=(1,) if stored else ())
        size = (WIDTH, HEIGHT) if not stored else (HEIGHT, WIDTH)
        box = [10, 5, 20, 30]
        x, y = (12.25, 7.5) if not stored else (7.5, WIDTH - 12.25)  # stored by a quarter turn to the left
        points = [[3, 4, 1]], [[x, y, 1]]
        boxes = [box, turn_annotation(box, orientation) if stored else box]
        images = [
            dict(id=i, file_name=f"{i}.png", width=w, height=h, category_id=1, bbox=boxes[i], keypoints=points[i])
            for i, (w, h) in enumerate([(WIDTH, HEIGHT), size])
        ]
        categories = [dict(id=1, name="cat", keypoints=["nose"])]
        (folder / "keypoints.json").write_text(json.dumps(dict(images=images, categories=categories)))
        (folder / "pairs.json").write_text(json.dumps(dict(pairs=[dict(src=0, trg=1)])))
        return KeypointPairs(folder / "keypoints.json", folder / "pairs.json")[0]

    plain_images, plain = write(tmp_path / "plain", 1, False)
    images, known = write(tmp_path / "tagged", 6, annotated == "stored")
    assert torch.equal(images.target, plain_images.target) and known.target_size == plain.target_size
    assert torch.equal(known.target_points, plain.target_points) and torch.equal(known.target_box, plain.target_box)
