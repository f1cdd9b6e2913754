"""What a run says of its annotation files, from the file to the figures."""

import logging
import warnings

import pytest
from toy_run import toy_config

from detkit.engine.runner import train
from detkit.registry import ConfigError

BOX = (10, 5, 20, 30)


@pytest.fixture
def run(coco_folder, edit_coco, tmp_path_factory):
    """A function that trains on files that two functions change, and returns the figures."""

    def run(change_train=lambda content: None, change_val=lambda content: None, **options):
        path, folder = coco_folder([[(1, *BOX), (2, 1, 1, 5, 9)], [(1, *BOX)], [(2, *BOX)], [(1, *BOX)]])
        files = {}
        for part, change in (("train", change_train), ("val", change_val)):
            files[part] = path.with_name(f"{part}.json")
            files[part].write_text(path.read_text())
            edit_coco(files[part], change)
        data = {
            part: dict(type="CocoDataset", annotation_file=str(file), image_folder=str(folder), **options)
            for part, file in files.items()
        }
        config = toy_config(
            data__train=data["train"], data__val=data["val"], data__batch_size=2, evaluator=dict(type="CocoEvaluator")
        )
        config["train"]["epochs"] = 1
        return train(config, tmp_path_factory.mktemp("run") / "out").metrics

    return run


def test_a_validation_file_with_fewer_classes_is_evaluated_on_those_it_has(run, caplog):
    def fewer(content):
        content["categories"].pop(0)
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] == 2]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        figures = run(change_val=fewer)
    assert 0 <= figures["bbox/AP"] <= 1
    assert "data.val: lacks the classes 'name1' (id 1) of data.train: they are not evaluated" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["annotations"].clear(), "data.train: no image has an object to learn from"),
        (lambda c: [a.update(iscrowd=1) for a in c["annotations"]], "train.json: no object remains, all 5 annot"),
        (
            lambda c: [a.update(bbox=[0, 0, 0, 0]) for a in c["annotations"]],
            "none of its 5 annotations can be",
        ),
        (lambda c: c["categories"].pop(), "data.val: its classes differ .* lacks 'name2' .id 2."),
        (lambda c: c["categories"][0].update(name="other"), "data.val: its classes differ .* lacks 'name1' .id 1."),
    ],
)
def test_nothing_to_learn_from_is_an_error(run, change, message):
    with pytest.raises((ConfigError, ValueError), match=message) as error:
        run(change)
    assert "\n" not in str(error.value)


def test_one_bad_annotation_of_each_kind_does_not_stop_a_run(run, caplog):
    def spoil(content):
        good = content["annotations"][0]
        changes = [
            {"category_id": 9},
            {"image_id": 99},
            {"image_id": "10"},
            {"bbox": [1, 2, True, 4]},
            {"iscrowd": -5.5},
            {"segmentation": [[1, 2, 3, 4, 5, 1e8]]},
            {"id": 2**70},
        ]
        content["annotations"] += [{**good, "id": 100 + i, **change} for i, change in enumerate(changes)]

    with caplog.at_level(logging.WARNING):
        figures = run(spoil, spoil, masks=True)
    assert 0 <= figures["bbox/AP"] <= 1
    assert "train.json: left out 7 annotations" in caplog.text and "val.json: left out 7 annotations" in caplog.text
