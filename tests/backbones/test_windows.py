import pytest
import torch

from detkit.backbones import windows
from detkit.backbones.swin import Swin
from detkit.engine.optim import Ema
from detkit.ops.kept import KeptResult
from detkit.vidt.model import ViDT

SMALL = dict(num_tokens=5, embed_dim=16, depths=(2, 2, 2, 2), num_heads=(2, 2, 4, 4), pos_dim=32, window=4)


def perturbed(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("cross_stages", [(3,), (1, 3), ()])
@pytest.mark.parametrize("size", [(64, 96), (75, 130)])
def test_without_gradients_in_portions_the_outputs_are_the_same(monkeypatch, size, cross_stages):
    torch.manual_seed(0)
    monkeypatch.setattr(windows, "PORTION", 3000)
    backbone = perturbed(Swin(**SMALL, cross_stages=cross_stages, local_positions=True))
    mask = torch.zeros(2, *size, dtype=torch.bool)
    mask[1, :, -20:] = True
    images = torch.randn(2, 3, *size)
    expected = backbone(images, mask)
    with torch.no_grad():
        first, second = backbone(images, mask), backbone(images, mask)
    for found in (first, second):
        for ours, theirs in zip([*found.features, found.det], [*expected.features, expected.det], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_paths_are_dropped_without_gradients_too():
    backbone = perturbed(Swin(**SMALL, drop_path=0.9)).train()
    images, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        maps = [backbone(images, mask).features[2] for _ in range(3)]
    assert not torch.equal(maps[0], maps[1]) or not torch.equal(maps[0], maps[2])


def test_portions_cover_all_rows_once(monkeypatch):
    monkeypatch.setattr(windows, "PORTION", 100)
    for count, numbers in [(0, 10), (1, 1000), (7, 30), (100, 3)]:
        rows = [row for part in windows.portions(count, numbers) for row in range(count)[part]]
        assert rows == list(range(count))


def detector():
    torch.manual_seed(0)
    return perturbed(ViDT(Swin(**SMALL), 3, hidden_dim=32, decoder_layers=1, heads=4, ffn_dim=32))


def move_weights(model):
    with torch.no_grad():
        model.backbone.layers[0].blocks[0].mlp.fc1.weight.mul_(1.5)


def load_weights(model):
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()})


def assign_weights(model):
    model.load_state_dict({name: value * 1.1 for name, value in model.state_dict().items()}, assign=True)


def train_a_step(model):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, foreach=True)
    model.backbone.det_token.square().sum().backward()
    optimizer.step()
    model.zero_grad()


def move_average(model):
    average = Ema(model, 0.5)
    move_weights(model)
    average.model = model  # so that it is this model that moves
    average.update(detector(), 10)


def round_weights(model):
    model.to(torch.bfloat16).to(torch.float32)


@pytest.mark.parametrize(
    "change", [move_weights, load_weights, assign_weights, train_a_step, move_average, round_weights]
)
def test_det_tokens_that_were_kept_follow_every_change_of_the_weights(change):
    model = detector()
    images, mask = torch.randn(1, 3, 64, 64), torch.zeros(1, 64, 64, dtype=torch.bool)
    with torch.no_grad():
        before = model.backbone(images, mask).det
    change(model)
    with torch.no_grad():
        found = model.backbone(images, mask).det
    assert not torch.equal(found, before)
    torch.testing.assert_close(found, model.backbone(images, mask).det.detach(), rtol=1e-4, atol=1e-4)


def test_a_result_is_computed_once_while_its_weights_stay():
    weights, calls = [torch.nn.Parameter(torch.ones(2))], []
    kept = KeptResult()

    def compute():
        calls.append(1)
        return weights[0] * 2

    with torch.no_grad():
        assert torch.equal(kept.get(weights, compute), kept.get(weights, compute))
        assert len(calls) == 1
        weights[0].add_(1)
        assert kept.get(weights, compute).tolist() == [4.0, 4.0] and len(calls) == 2


def test_weights_made_in_inference_mode_have_no_versions_and_keep_nothing():
    with torch.inference_mode():
        weights, kept = [torch.ones(2)], KeptResult()
        assert kept.get(weights, lambda: weights[0] * 2).tolist() == [2.0, 2.0]
        weights[0].add_(1)
        assert kept.get(weights, lambda: weights[0] * 2).tolist() == [4.0, 4.0]


def test_what_was_kept_in_inference_mode_serves_gradients_later():
    weight, kept = torch.nn.Parameter(torch.ones(2)), KeptResult()
    with torch.inference_mode():
        kept.get([weight], lambda: weight * 2)
    with torch.no_grad():
        found = kept.get([weight], lambda: weight * 3)
    (weight * found).sum().backward()
    assert weight.grad.tolist() == [2.0, 2.0]
