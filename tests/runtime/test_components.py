"""Options that are each in their range, but not together: one line says which, before anything is trained."""

import pytest
from small_vidt import small_config

from detkit.config import resolve_config
from detkit.registry import ConfigError, build
from detkit.runtime.components import build_dataset, build_evaluator, build_model, check_components, import_components
from detkit.runtime.evaluate import evaluate
from detkit.structures import LabelMap

CLASSES = LabelMap(("cat", "dog"), (1, 2))
TIMM = dict(type="TimmFeatures", model="test_resnet", pos_dim=32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            dict(input_rule=dict(shortest=64, longest=128, multiple=100)),
            r"model \(ViDT\): input_rule.multiple must not be above input_rule.shortest, got 100 and 64",
        ),
        (dict(input_rule=dict(longest=8)), "input_rule.multiple must not be above input_rule.longest, got 16 and 8"),
        (dict(heads=3), "hidden_dim must be a multiple of heads, got hidden_dim 32 and heads 3"),
        (dict(hidden_dim=33, heads=3), "hidden_dim must be a multiple of 8, and of 32 where it is larger than 256"),
        (dict(hidden_dim=4), "hidden_dim must be a multiple of 8"),
        (
            dict(criterion=dict(type="SetCriterion", class_weight=0, box_weight=0, giou_weight=0)),
            r"model.criterion \(SetCriterion\): class_weight, box_weight and giou_weight are all 0",
        ),
        (dict(backbone={**TIMM, "out_indices": [3, 2]}), r"model.backbone .*: out_indices must ascend, got \[3, 2\]"),
        (dict(backbone={**TIMM, "out_indices": [3, 40]}), r"'test_resnet' has no maps of out_indices \[3, 40\]"),
    ],
)
def test_options_of_a_model_that_do_not_go_together(changes, message):
    with pytest.raises(ConfigError, match=message):
        build_model({**small_config(decoder_layers=1), **changes}, CLASSES)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (dict(type="Resize", shortest=64, longest=128, multiple=100), "multiple must not be above shortest, got 100"),
        (dict(type="DetrAugment", longest=8), "multiple must not be above longest, got 16 and 8"),
        (dict(type="DetrAugment", crop_size=[600, 384]), "crop_size must be two ascending numbers"),
        (dict(type="SoloCriterion", mask_weight=0, class_weight=0), "both 0: nothing would be learned"),
        (dict(type="SyntheticScenes", length=3, min_objects=9, max_objects=2), "min_objects <= max_objects"),
    ],
)
def test_options_of_other_components_that_do_not_go_together(component, message):
    import_components()
    with pytest.raises(ConfigError, match=message):
        build(component, path="data.transforms.0")


def test_a_longest_side_below_the_shortest_is_a_limit_on_both():
    model = build_model({**small_config(decoder_layers=1), "input_rule": dict(longest=500)}, CLASSES)
    assert (model.input_rule.shortest, model.input_rule.longest) == (800, 500)


SCENES = dict(type="SyntheticScenes", length=8, size=64)
PAIRS = dict(type="SyntheticPairs", length=8, images=16, size=64)
MATCHER = dict(type="CATs", backbone=dict(type="ConvLayers", channels=[8, 8, 8]), side=64, grid=4)


@pytest.mark.parametrize(
    ("model", "data", "transform", "message"),
    [
        (None, PAIRS, None, "data.train: a ViDT cannot learn from a SyntheticPairs, which gives a PairBatch"),
        (MATCHER, SCENES, None, "data.train: a CATs cannot learn from a SyntheticScenes, which gives a Batch"),
        (dict(type="MaskRefiner"), SCENES, None, "a MaskRefiner cannot learn from a SyntheticScenes"),
        (
            None,
            SCENES,
            "PairColour",
            "data.transforms.0: a PairColour changes pairs of images, which a Synth",
        ),
        (MATCHER, PAIRS, "RandomFlip", "data.transforms.0: a RandomFlip changes single images, which a SyntheticPairs"),
    ],
)
def test_components_of_different_systems(model, data, transform, message):
    import_components()
    transforms = [] if transform is None else [dict(type=transform)]
    sections = dict(train=data, batch_size=2, transforms=transforms)
    config = dict(model=model or small_config(decoder_layers=1), data=sections, train=dict(epochs=1))
    with pytest.raises(ConfigError, match=message):
        check_components(resolve_config(config))


def test_objects_in_wrong_places():
    body = dict(type="ResNet", depth=18)
    with pytest.raises(ConfigError, match=r"model \(ViDT\): a ResNet cannot be its backbone: it has no det_channels"):
        build_model({**small_config(decoder_layers=1), "backbone": body}, CLASSES)
    with pytest.raises(ConfigError, match=r"evaluator .*: a SyntheticPairs cannot be its dataset: it has no coco"):
        build_evaluator(dict(evaluator=dict(type="CocoEvaluator")), build_dataset(PAIRS, "data.val"))


def test_an_evaluator_of_another_system():
    scenes = build_dataset({**SCENES, "length": 2}, "data.val")
    model = build_model(small_config(decoder_layers=1), scenes.label_map)
    evaluator = build_evaluator(dict(evaluator=dict(type="PCKEvaluator")), scenes)
    with pytest.raises(ConfigError, match="a PCKEvaluator cannot compare Detections with"):
        evaluate(model, scenes, evaluator, progress=False)


def test_a_folder_of_digits(tmp_path, monkeypatch):
    import_components()
    monkeypatch.chdir(tmp_path)
    config = dict(type="CocoDataset", annotation_file=2023, image_folder=2024)
    with pytest.raises(ConfigError, match="cannot read annotation file 2023"):
        build(config, path="data.train")
    with pytest.raises(ConfigError, match=r"data.train.image_folder: must be a path, or None, got 1.5"):
        build({**config, "image_folder": 1.5}, path="data.train")
