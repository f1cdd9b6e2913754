"""Runs with transforms that join samples and end early, and with denoising queries, resume bit for bit."""

import torch
from safetensors.torch import load_file
from small_vidt import small_config

from detkit.engine.runner import Runner, train

TRANSFORMS = [
    dict(type="CopyPaste", until=0.5),
    dict(type="Mosaic", side=96, until=0.5),
    dict(type="ScaleJitter", until=0.5),
    dict(type="DetrAugment", shortest=[64], longest=64, crop_probability=1.0, crop_resize=[64], crop_size=[64, 64]),
    dict(type="MixUp", probability=0.5, until=0.5),
    dict(type="Albumentations", pipeline=[dict(type="HueSaturationValue", p=0.5)]),
]


def config():
    scenes = dict(type="SyntheticScenes", length=8, size=72, masks=True)
    return dict(
        model=dict(small_config(2), proposals=True, denoising=10),
        data=dict(train=scenes, val=None, transforms=TRANSFORMS, batch_size=4, workers=0),
        schedule=dict(type="constant"),
        train=dict(epochs=4, log_every=1, checkpoint_every=1, device="cpu", tensorboard=False, draw_samples=0),
    )


def test_a_stopped_run_ends_with_the_same_weights(tmp_path, monkeypatch):
    train(config(), tmp_path / "whole")
    original = Runner.train_step
    for stop in (3, 5, None):  # within the second and the third epoch, of four

        def train_step(runner, *arguments, stop=stop):
            original(runner, *arguments)
            if runner.step == stop:
                runner.stop_reason = "interrupted"

        monkeypatch.setattr(Runner, "train_step", train_step)
        train(config(), tmp_path / "parts", resume=True)
    whole, parts = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and "denoising.label_embed.weight" in whole
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
