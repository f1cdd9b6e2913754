"""The detector of `vidt_small`, with a body of a few channels: it trains through the runner, resumes and predicts."""

import copy

import pytest
import torch

import detkit
from detkit.config import load_config
from detkit.engine.runner import train
from detkit.runtime.components import build_model
from detkit.structures import LabelMap

TINY = dict(img_size=64, patch_size=16, embed_dim=32, num_heads=2)


def tiny_config(steps):
    config = copy.deepcopy(load_config("vidt_small_384"))
    config["model"]["backbone"].update(model_args=TINY, pretrained=False, num_tokens=10, window=2)
    config["model"].update(hidden_dim=32, heads=4, ffn_dim=32)
    config["model"]["input_rule"] = dict(shortest=64, longest=64, multiple=16)
    scenes = dict(type="SyntheticScenes", length=8)
    config["data"] = dict(train=scenes, val=dict(scenes, length=2, seed=9), batch_size=4, eval_batch_size=2, workers=0)
    config["schedule"] = dict(type="step", drop_epochs=[1], factor=1.0)  # a cosine would depend on the number of steps
    settings = dict(epochs=2, max_steps=steps, log_every=1, checkpoint_every=1, device="cpu", tensorboard=False)
    config["train"] = dict(config["train"], **settings)
    return config


@pytest.mark.parametrize("size", [384, 512, 640])
def test_the_configs_build_detectors_whose_windows_fit_their_images(size):
    config = load_config(f"vidt_small_{size}")
    backbone = config["model"]["backbone"]
    assert size % (16 * backbone["window"]) == 0
    backbone["model_args"] = dict(backbone["model_args"], embed_dim=32, num_heads=2)
    model = build_model(config["model"], LabelMap.numbered(80), pretrained=False)
    assert len(model.decoder) == 3 and model.max_detections == 300
    assert model.input_rule.shortest == size and len(model.backbone.body.blocks) == 12


def test_it_trains_resumes_and_predicts(tmp_path):
    train(tiny_config(4), tmp_path / "whole")
    train(tiny_config(2), tmp_path / "parts")
    train(tiny_config(4), tmp_path / "parts", resume=True)
    models = [detkit.load(tmp_path / name / "last.safetensors") for name in ("whole", "parts")]
    for ours, theirs in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(ours, theirs)
    image = torch.randint(256, (3, 50, 70), dtype=torch.uint8)
    found = [model.predict([image], min_score=0)[0] for model in models]
    assert len(found[0]) == 60  # of 10 tokens and 6 classes
    assert torch.equal(found[0].boxes, found[1].boxes)
