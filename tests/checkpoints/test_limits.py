import pytest
import torch
from torch import nn

from detkit.checkpoints.limits import AllocationLimit

N = 100_000
OPERATIONS = {
    "difference of all pairs": lambda x: x[:, None] - x[None],
    "repeat": lambda x: x.repeat(N),
    "arange": lambda x: torch.arange(10**12),
    "linspace": lambda x: torch.linspace(0, 1, 10**12),
    "eye": lambda x: torch.eye(10**6),
    "zeros": lambda x: torch.zeros(10**6, 10**6),
    "product": lambda x: x[:, None] @ x[None],
    "clone": lambda x: x[:, None].expand(N, N).clone(),
    "module": lambda x: nn.Linear(10**6, 10**6),
    "new zeros": lambda x: x.new_zeros(10**12),
    "stack": lambda x: torch.stack([x] * N),
    "many": lambda x: [torch.zeros(1) for _ in range(10**5)],
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_what_is_too_large_is_refused_before_it_is_made(name):
    with pytest.raises(ValueError, match="the model is much larger"), AllocationLimit(1000, 10):
        OPERATIONS[name](torch.zeros(N))


def test_within_the_limit_nothing_changes():
    torch.manual_seed(0)
    expected = nn.Linear(300, 300)
    torch.manual_seed(0)
    with AllocationLimit(90_000, 2):
        made = nn.Linear(300, 300)
    assert torch.equal(made.weight, expected.weight)
