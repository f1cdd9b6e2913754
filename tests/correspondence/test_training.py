"""The runner trains a matcher on pairs."""

import json

import pytest
import torch
from tiny_matchers import tiny_cats

import detkit
from detkit.engine.runner import train
from detkit.registry import build
from detkit.runtime.components import import_components
from detkit.structures import ImagePair


def config(**options):
    pairs = dict(type="SyntheticPairs", size=64, images=16)
    return dict(
        model=dict(
            type="CATs", backbone=dict(type="TinyLayers"), side=64, grid=4, appearance_dim=16, heads=4, temperature=0.1
        ),
        data=dict(
            train=dict(pairs, length=8, limit=6),
            val=dict(pairs, length=4, seed=1),
            batch_size=2,
            eval_batch_size=2,
            workers=0,
        ),
        optimizer=dict(lr=1e-3),
        schedule=dict(type="cosine"),
        train=dict(epochs=2, device="cpu", tensorboard=False, draw_samples=0, log_every=1, **options),
        evaluator=dict(type="PCKEvaluator", alphas=[0.1, 0.2], frame=64),
    )


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


def test_runner_trains_evaluates_and_saves(tmp_path):
    runner = train(config(), tmp_path / "run")
    assert runner.step == 6 and runner.best["value"] is not None
    assert {"PCK@0.1", "PCK@0.1/point", "PCK@0.1/class", "PCK@0.2"} <= set(runner.metrics)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [result["pair_id"] for result in results] == [0, 1, 2, 3]
    model = detkit.load(next((tmp_path / "run").glob("best.safetensors")))
    assert model.label_map.names == ("beast", "wagon", "glider", "figure") and model.input_rule.multiple == 64
    images, pair = runner.val_data[0]
    assert len(model.match(images.source, images.target, pair.source_points)) == len(pair)


def test_a_resumed_run_continues_as_if_it_had_not_stopped(tmp_path):
    whole = train(config(), tmp_path / "whole")
    train(config(max_steps=4), tmp_path / "part")
    part = train(config(), tmp_path / "part", resume=True)
    weights = whole.model.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in part.model.state_dict().items())


def test_a_matcher_learns_two_pairs_by_heart():
    """The flow that it is trained for lies on the target, so target points are found in the source."""
    import_components()
    torch.manual_seed(0)
    dataset = build(dict(type="SyntheticPairs", size=64, images=16, length=2))
    samples = [dataset[0], dataset[1]]
    batch, model = dataset.collate(samples), tiny_cats(temperature=0.1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        losses.append(model(batch)["loss_epe"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    swapped = dataset.collate([(ImagePair(pair.target, pair.source), known.swap()) for pair, known in samples])
    evaluator = build(dict(type="PCKEvaluator", threshold="img", alphas=[0.15]), dataset=dataset)
    evaluator.update(model.eval()(swapped), swapped.annotations)
    assert evaluator.compute()["PCK@0.15/point"] > 0.6
