import pytest
import torch
from small_vidt import small_config

import detkit
from detkit.checkpoints.smaller.shrink import Shape, Shrinker
from detkit.checkpoints.weights import make_header, read_header, save_weights
from detkit.registry import ConfigError, build
from detkit.runtime.components import import_components
from detkit.structures import ImageBatch, LabelMap


def checkpoint(folder, **changes):
    import_components()
    torch.manual_seed(0)
    config = {**small_config(decoder_layers=3), **changes}
    model = build({**config, "num_classes": 2}).eval()
    model.label_map = LabelMap(("cat", "dog"), (1, 2))
    path = folder / "full.safetensors"
    header = make_header({"model": config}, model, thresholds={"cat": 0.5, "dog": 0.4})
    save_weights(path, model.state_dict(), header)
    return model, path


def test_the_whole_shape_is_the_checkpoint(tmp_path):
    model, path = checkpoint(tmp_path)
    shrinker = Shrinker(path)
    assert shrinker.full == Shape(3, (0, 1, 2, 3), None, 64, 64)
    images = ImageBatch.from_images([torch.randn(3, 64, 64)])
    with torch.no_grad():
        full, same = model.forward_last(images), shrinker.build(shrinker.full).forward_last(images)
    assert torch.equal(full.logits, same.logits) and torch.equal(full.boxes, same.boxes)


def test_a_smaller_detector_is_written_and_loaded(tmp_path):
    _, path = checkpoint(tmp_path)
    shrinker = Shrinker(path)
    tokens, queries = shrinker.with_objects(2, ranking=[3, 1, 0, 2])
    assert (tokens, queries) == ((1, 3), None)
    shape = Shape(1, tokens, queries, *shrinker.sides(0.5))
    shrinker.save(shape, tmp_path / "small.safetensors", {"bbox/AP": 0.25})
    small = detkit.load(tmp_path / "small.safetensors")
    assert len(small.decoder) == 1 and small.backbone.num_tokens == small.max_detections == 2
    assert (small.input_rule.shortest, small.input_rule.longest) == (32, 32)
    assert torch.equal(small.backbone.det_token, shrinker.weights["backbone.det_token"][:, [1, 3]])
    header = read_header(tmp_path / "small.safetensors")
    assert header["metrics"] == {"bbox/AP": 0.25} and header["thresholds"] == {"cat": 0.5, "dog": 0.4}
    assert header["config"]["model"]["decoder_layers"] == 1
    assert len(small.predict(torch.zeros(3, 40, 50, dtype=torch.uint8), min_score=0)[0]) == 4


def test_queries_of_proposals_shrink_before_tokens(tmp_path):
    _, path = checkpoint(tmp_path, proposals=True, queries=8)
    shrinker = Shrinker(path)
    assert shrinker.full.objects == 8
    assert shrinker.with_objects(6) == ((0, 1, 2, 3), 6) and shrinker.with_objects(2) == ((0, 1), 2)
    tokens, queries = shrinker.with_objects(2)
    assert shrinker.build(Shape(3, tokens, queries, 64, 64)).max_detections == 2


def test_other_models_are_refused(tmp_path):
    model = build({"type": "ViDT", **{k: v for k, v in small_config(1).items() if k != "type"}, "num_classes": 2})
    save_weights(tmp_path / "x.safetensors", model.state_dict(), make_header({"model": {"type": "ToyModel"}}, model))
    import toy_run  # noqa: F401

    with pytest.raises(ConfigError, match="holds a ToyModel: only ViDT"):
        Shrinker(tmp_path / "x.safetensors")
