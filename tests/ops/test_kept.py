import torch
from torch import nn

from detkit.ops.kept import KeptResult


def test_what_is_kept_follows_every_change_of_the_weights():
    layer, kept = nn.Linear(256, 64), KeptResult()
    counted = []

    def double():
        counted.append(1)
        return 2 * layer.weight.detach()

    def check():
        found = kept.get(list(layer.parameters()), double)
        assert torch.equal(found, 2 * layer.weight) and found is kept.get(list(layer.parameters()), double)

    with torch.no_grad():
        check()
        layer.weight.mul_(0.5)
        check()
        layer.weight.data[3] += 1  # PyTorch counts no version here
        check()
        layer.load_state_dict({name: -value for name, value in layer.state_dict().items()}, assign=True)
        check()
    assert len(counted) == 4
