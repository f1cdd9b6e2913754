import os
import subprocess
import sys

import pytest
import torch
from paths import ROOT
from torch import nn
from toy_run import toy_config

from detkit.config import resolve_config
from detkit.data.synthetic import SyntheticScenes
from detkit.engine.runner import train
from detkit.evaluation.coco import CocoEvaluator
from detkit.modeling.base import InputRule
from detkit.registry import ConfigError
from detkit.runtime.components import build_evaluation
from detkit.runtime.evaluate import evaluate
from detkit.structures import Detections, LabelMap


class Oracle(nn.Module):
    """Finds what the annotations say."""

    input_rule = InputRule(64, 64, 1)

    def __init__(self, label_map):
        super().__init__()
        self.label_map, self.weight = label_map, nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        assert not self.training and not torch.is_grad_enabled()
        return [Detections(a.boxes, torch.ones(len(a)), a.labels, label_map=self.label_map) for a in batch.annotations]


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 0), (3, 1)])
def test_the_truth_scores_one(batch_size, workers):
    scenes = SyntheticScenes(length=7, seed=3)
    evaluator, model = CocoEvaluator(scenes), Oracle(scenes.label_map).train()
    options = dict(batch_size=batch_size, workers=workers)
    assert evaluate(model, scenes, evaluator, **options)["bbox/AP"] == pytest.approx(1.0)
    assert evaluate(model, scenes, evaluator, **options)["bbox/AP"] == pytest.approx(1.0)


def test_a_run_on_synthetic_scenes_with_coco_figures(tmp_path):
    config = dict(
        model=dict(type="ToyModel"),
        data=dict(
            train=dict(type="SyntheticScenes", length=4),
            val=dict(type="SyntheticScenes", length=2, seed=1),
            batch_size=2,
            workers=0,
        ),
        train=dict(epochs=1, log_every=1, draw_samples=1, device="cpu"),
    )
    runner = train(config, tmp_path / "run")
    assert next(iter(runner.metrics)) == "bbox/AP" and runner.best["value"] == runner.metrics["bbox/AP"]
    assert len(list((tmp_path / "run" / "samples").iterdir())) == 1


def test_the_engine_and_all_components_import_without_optional_packages():
    optional = ("cv2", "albumentations", "pycocotools", "timm", "matplotlib", "tensorboard")
    code = f"""
import sys
import detkit.engine.runner, detkit.runtime.components
detkit.runtime.components.import_components()
print([name for name in {optional} if name in sys.modules])
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_evaluation_needs_categories_that_the_model_knows(caplog):
    config = resolve_config(toy_config(data__val=dict(type="ToyScenes", length=2)))
    dataset, evaluator = build_evaluation(config, LabelMap(("dog", "cat", "bird"), (7, 3, 1)))
    assert len(dataset) == 2 and evaluator.dataset is dataset and not caplog.records
    build_evaluation(config, LabelMap(("dog",), (7,)))
    assert "does not know the category ids [3]" in caplog.text
    with pytest.raises(ConfigError, match=r"data.val: none of its category ids \[3, 7\] is among those of the model"):
        build_evaluation(config, LabelMap(("bird",), (1,)))
    with pytest.raises(ConfigError, match=r"data.val: is missing"):
        build_evaluation(resolve_config(toy_config(data__val=None)), LabelMap(("dog",), (7,)))


def test_a_category_id_that_means_another_class_is_an_error():
    config = resolve_config(
        dict(
            model=dict(type="ToyModel"),
            data=dict(
                train=dict(type="SyntheticScenes", length=1), val=dict(type="SyntheticScenes", length=1), batch_size=1
            ),
            train=dict(epochs=1),
        )
    )
    names = ("disk", "person", None, "class_4", "ring", "cross")
    with pytest.raises(ConfigError, match=r"2 is 'person' in the model, 'square' in the data$"):
        build_evaluation(config, LabelMap(names, range(1, 7)))
