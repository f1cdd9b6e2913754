"""Options that are each in their range, but not together: one line says which, before anything is trained."""

import pytest
from small_vidt import small_config

from detkit.registry import ConfigError, build
from detkit.runtime.components import build_model, import_components
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
