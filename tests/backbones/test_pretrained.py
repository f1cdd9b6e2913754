import pytest

from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components

import_components()
BODIES = [
    dict(type="TimmFeatures", model="test_resnet"),
    dict(type="ViT", model="test_vit"),
    dict(type="TimmLayers", model="test_resnet", layers=[1]),
    dict(type="EfficientNetLayers", model="test_efficientnet", layers=[1]),
    dict(type="ViTLayers", model="test_vit", layers=[1]),
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body["type"])
@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "pretrained_cfg_overlay", "cache_dir"])
def test_model_args_name_no_files(body, argument):
    with pytest.raises(ConfigError, match=rf"^backbone \({body['type']}\): model_args: {argument} would make"):
        build(body | dict(model_args={argument: "file"}), "backbone")
