import copy
import json

import pytest
from small_vidt import small_config

from detkit.registry import ConfigError
from detkit.studies.ablation import LADDER, LAYER_DROP, ladder_configs, run_ladder

CONFIG = dict(
    model=small_config(decoder_layers=2),
    data=dict(
        train=dict(type="SyntheticScenes", length=4, size=64),
        val=dict(type="SyntheticScenes", length=2, seed=1, size=64),
        batch_size=2,
        workers=0,
    ),
    train=dict(epochs=1, draw_samples=0, device="cpu", tensorboard=False),
)


def test_every_row_adds_one_part():
    rows = dict(ladder_configs(CONFIG))
    assert list(rows) == [row.name for row in LADDER]
    assert rows["RAM only"]["model"]["type"] == "ViDTWithoutNeck"
    assert rows["+ neck"] == CONFIG
    last = rows["+ 3x det tokens"]["model"]
    assert last["fusion"] and last["iou_aware"] and last["token_labels"] and last["mask_vectors"] == 256
    assert last["backbone"]["num_tokens"] == 12
    assert CONFIG["model"]["backbone"]["num_tokens"] == 4


def test_a_ladder_is_trained_measured_and_resumed(tmp_path):
    results = run_ladder(CONFIG, tmp_path, say=lambda line: None)
    assert [row["name"] for row in results] == [*(row.name for row in LADDER), LAYER_DROP]
    assert "segm/AP" in results[-1] and "segm/AP" not in results[0]
    assert results[0]["parameters"] < results[1]["parameters"] and results[-1]["parameters"] < results[-2]["parameters"]
    assert json.loads((tmp_path / "table.json").read_text()) == results
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + len(results)
    assert (tmp_path / "ladder.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "table.md").unlink()
    again = run_ladder(CONFIG, tmp_path, say=lambda line: None)
    assert [row.get("bbox/AP") for row in again] == [row.get("bbox/AP") for row in results]
    assert (tmp_path / "table.md").exists()


def test_a_config_that_has_the_parts_already():
    config = copy.deepcopy(CONFIG)
    config["model"]["fusion"] = True
    with pytest.raises(ConfigError, match="adds fusion itself"):
        ladder_configs(config)
