import contextlib
import json
import logging
import os
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

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


def test_a_flipped_bit_of_the_trainer_state_is_noticed(tmp_path):
    save(tmp_path, 5)
    state = save(tmp_path, 10).with_name("step_00000010.trainer.pt")
    content = state.read_bytes()
    for position in range(0, len(content), len(content) // 40):
        state.write_bytes(content[:position] + bytes([content[position] ^ 4]) + content[position + 1 :])
        assert latest_checkpoint(tmp_path).header["step"] == 5
    state.write_bytes(content)
    assert latest_checkpoint(tmp_path).header["step"] == 10


def older(path, state):
    """Make a pair one of before there were checksums, with another state."""
    with safe_open(path, framework="pt") as file:
        header, weights = json.loads(file.metadata()["detkit"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = {name: value for name, value in header.items() if not name.endswith("sha256")}
    save_file(weights, path, {"detkit": json.dumps(header)})
    torch.save(state(header["pair"]), path.with_name(path.name.replace(".safetensors", ".trainer.pt")))


def test_older_pairs_without_checksums_are_read(tmp_path, caplog):
    older(save(tmp_path, 5), lambda pair: {"pair": pair, "optimizer": 3})
    assert latest_checkpoint(tmp_path).trainer["optimizer"] == 3
    assert "step_00000005.safetensors was written before checkpoints had checksums" in caplog.text


@pytest.mark.parametrize("state", [[1, 2], None, torch.ones(3), 7, "text", {}, {"pair": [1]}, {1: 2}])
def test_a_state_of_another_kind_is_passed_over(tmp_path, state):
    save(tmp_path, 5)
    older(save(tmp_path, 10), lambda pair: state)
    assert latest_checkpoint(tmp_path).header["step"] == 5


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", range(3))
def test_a_complete_pair_is_there_whenever_a_save_ends(tmp_path, monkeypatch, moment):
    save(tmp_path, 5)
    moves = []

    def replace(source, target):
        if len(moves) == moment:
            raise Killed
        moves.append(target)
        rename(source, target)

    rename = os.replace
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr(os, "replace", replace)
        save(tmp_path, 10)
    found = latest_checkpoint(tmp_path)
    assert found.header["step"] == (10 if len(moves) == 2 else 5)
    save(tmp_path, 15)
    assert latest_checkpoint(tmp_path).header["step"] == 15 and len(names(tmp_path)) == 4


def test_a_first_save_that_is_killed_leaves_no_checkpoint(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, contextlib.suppress(Killed):
        patched.setattr("detkit.checkpoints.resume.save_weights", lambda *a: (_ for _ in ()).throw(Killed))
        save(tmp_path, 5)
    assert names(tmp_path) == ["step_00000005.trainer.pt"] and latest_checkpoint(tmp_path) is None
