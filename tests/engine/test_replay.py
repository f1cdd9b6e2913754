"""`detkit replay`, as a user runs it after a training that a NaN has stopped."""

import re

import pytest
import torch
from torch import nn

from detkit.cli import main
from detkit.config import TYPES
from detkit.engine.replay import replay_batch
from detkit.modeling.base import InputRule, Model
from detkit.structures import Annotations, Batch, LabelMap

TINY = """
config = dict(
    model=dict(
        type="ViDT",
        backbone=dict(type="Swin", embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=5,
                      pos_dim=32),
        hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=64,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    ),
    data=dict(train=dict(type="SyntheticScenes", length=8, size=64), batch_size=4, workers=0),
    optimizer=dict(lr=1e30, weight_decay=0.0),
    train=dict(epochs=3, device="cpu", checkpoint_every=1, clip_norm=None, tensorboard=False),
)
"""


@pytest.fixture(scope="module", autouse=True)
def any_learning_rate():
    """Allow a rate at which the loss is NaN in the second step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TYPES["optimizer"], "lr", float)
        yield


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A folder with a run whose learning rate was far too high."""
    folder = tmp_path_factory.mktemp("replay")
    (folder / "tiny.py").write_text(TINY.replace(", val=None", ""))
    return folder


@pytest.fixture(scope="module")
def command(stopped):
    """What the error message of the run tells to do next."""
    import contextlib
    import io

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        assert main(["train", str(stopped / "tiny.py"), "--out", str(stopped / "run")]) == 2
    found = re.search(r"detkit (replay \S+\.pt \S+)", errors.getvalue())
    assert found, errors.getvalue()
    return found[1].split()


def test_the_command_of_the_error_message_finds_the_module(command, capsys):
    assert main([*command, "--device", "cpu"]) == 1
    printed = capsys.readouterr().out
    assert "step_00000001.safetensors (step 1)" in printed and "in the run, at step 2" in printed
    assert re.search(r"batch 1 of 1, images \[\d+, \d+, \d+, \d+\]:\n  loss_ce_0 +nan", printed)
    assert re.search(r"first module whose output is not finite: backbone\.\S+ \(\w+; its inputs are finite", printed)
    assert re.search(r"first step of the backward pass that gives NaN: Function '\w+' returned nan values", printed)
    assert re.search(r"gradient is not finite: \d+ of \d+: backbone\.", printed)


def test_with_the_initial_weights_the_batch_is_finite(command, stopped, capsys):
    assert main([command[0], command[1], str(stopped / "tiny.py"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "initial ones of seed 42" in printed and "not finite: none" in printed and "all values are finite" in printed


def test_a_single_checkpoint(command, stopped, capsys):
    checkpoint = next((stopped / "run" / "checkpoints").glob("*.safetensors"))
    assert main([command[0], command[1], str(checkpoint), "--device", "cpu"]) == 1
    assert "its weights are not" not in capsys.readouterr().out


def test_a_file_that_holds_no_batches(stopped, capsys):
    assert main(["replay", str(stopped / "tiny.py"), str(stopped / "tiny.py")]) == 2
    assert "tiny.py holds no saved batches" in capsys.readouterr().err


class Root(Model):
    """Its loss is finite, but not the gradient of its square root at 0."""

    def __init__(self):
        super().__init__(LabelMap.numbered(1), InputRule())
        self.scale, self.shift = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.scale.weight)

    def batch_losses(self, batch):
        x = batch.images.images.mean()[None]
        return {"loss_root": self.scale(x).abs().sum().sqrt(), "loss_shift": self.shift(x).sum()}

    def batch_predictions(self, batch):
        return []


def test_gradients_alone_that_are_not_finite():
    annotations = Annotations(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), image_id=8)
    result = replay_batch(Root(), Batch.collate([(torch.ones(3, 4, 4), annotations)]), precision="fp32")
    assert result.image_ids == [8] and not result.is_finite
    assert result.output is None and result.losses["loss_root"] == 0
    assert "SqrtBackward" in result.backward or "AbsBackward" in result.backward
    assert result.gradients == ["scale.weight"] and result.parameters == 2
