import logging
import shutil

import pytest
import torch

from detkit.checkpoints.resume import latest_checkpoint, read_checkpoint, save_checkpoint
from detkit.checkpoints.weights import CheckpointError


def save(folder, step):
    weights, trainer = {"w": torch.full((100,), float(step))}, {"optimizer": {"m": torch.ones(50) * step}, "best": None}
    return save_checkpoint(folder, step, weights, {"epoch": 1}, trainer)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_two_newest_pairs_are_kept(tmp_path):
    assert latest_checkpoint(tmp_path / "nothing") is None
    for step in (5, 10, 15):
        save(tmp_path, step)
    (tmp_path / ".step_00000020.safetensors.77.tmp").write_bytes(b"half")
    assert len(names(tmp_path)) == 5
    save(tmp_path, 20)
    expected = [f"step_{step:08d}{end}" for step in (15, 20) for end in (".safetensors", ".trainer.pt")]
    assert names(tmp_path) == expected
    newest = latest_checkpoint(tmp_path)
    assert newest.path.name == "step_00000020.safetensors" and newest.header["step"] == 20
    assert newest.weights["w"][0] == 20 and newest.trainer["optimizer"]["m"][0] == 20 and newest.trainer["best"] is None


def damage_nothing_written(weights, trainer):
    weights.unlink(), trainer.unlink()
    weights.with_name(f".{weights.name}.7.tmp").write_bytes(b"half")


def damage_weights_only(weights, trainer):
    trainer.unlink()


def damage_weights(weights, trainer):
    weights.write_bytes(weights.read_bytes()[:-8])


def damage_trainer(weights, trainer):
    trainer.write_bytes(trainer.read_bytes()[: trainer.stat().st_size // 2])


def damage_trainer_empty(weights, trainer):
    trainer.write_bytes(b"")


def damage_pair(weights, trainer):
    shutil.copy(trainer.with_name("step_00000005.trainer.pt"), trainer)


@pytest.mark.parametrize(
    "damage",
    [
        damage_nothing_written,
        damage_weights_only,
        damage_weights,
        damage_trainer,
        damage_trainer_empty,
        damage_pair,
    ],
)
def test_a_torn_pair_is_reported_and_the_one_before_is_used(tmp_path, damage, caplog):
    save(tmp_path, 5)
    path = save(tmp_path, 10)
    damage(path, path.with_name("step_00000010.trainer.pt"))
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path).header["step"] == 5
    assert ("step_00000010" in caplog.text) == (damage is not damage_nothing_written)
    save(tmp_path, 8)
    assert [name for name in names(tmp_path) if "00000010" in name] == []
    assert latest_checkpoint(tmp_path).header["step"] == 8


def test_no_readable_pair_at_all(tmp_path):
    path = save(tmp_path, 5)
    damage_trainer(path, path.with_name("step_00000005.trainer.pt"))
    with pytest.raises(CheckpointError, match="none of the 1 checkpoints"):
        latest_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"trainer.pt beside it belongs to another save, or was altered"):
        read_checkpoint(path)
