import pytest
import torch
from matching_golden import Golden, state_dict

from detkit.correspondence.aggregator import Aggregator
from detkit.correspondence.convert import aggregator_key


@pytest.fixture(scope="module")
def official():
    golden = Golden("b_aggregator")
    model = Aggregator(8).eval()
    named = {aggregator_key(key, 8): value for key, value in state_dict(golden.description["weights"]["keys"]).items()}
    named.pop(None)  # the official code never calls its last norm
    model.load_state_dict(named)
    return golden, model


@torch.no_grad()
def test_aggregator_is_official(official):
    golden, model = official
    corr, source, target = (golden.input(name) for name in ("corr", "source", "target"))
    golden.error("out", model(corr, source, target), atol=5e-6)
    first = corr + model.refine(corr.transpose(2, 3), target).transpose(2, 3)
    golden.error("after_first_pass", first, atol=5e-6)
    for name, rows, appearance in (("first", corr.transpose(2, 3), target), ("second", first, source)):
        tokens = model.blocks[0](torch.cat([rows, appearance], dim=-1) + model.positions())
        golden.error(f"blocks_out_{name}", tokens, atol=2e-5)


@torch.no_grad()
def test_norms_have_the_official_epsilon(official):
    golden, model = official
    nothing = torch.zeros(1, 8, 256, 128)
    golden.error("out_zero_input", model(torch.zeros(1, 8, 256, 256), nothing, nothing), atol=2e-6)


def test_one_level_needs_no_attention_across_levels():
    model = Aggregator(1, grid=4, appearance_dim=8, heads=2)
    assert not any("level" in name for name, _ in model.named_parameters())
    refined = model(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 8), torch.rand(2, 1, 16, 8))
    assert refined.shape == (2, 16, 16)
    refined.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_tokens_must_divide_into_heads():
    with pytest.raises(ValueError, match=r"grid\^2 \+ appearance_dim = 24 .* 5 heads"):
        Aggregator(1, grid=4, appearance_dim=8, heads=5)


def test_zero_start_leaves_the_correlation_as_it_comes():
    torch.manual_seed(0)
    aggregator = Aggregator(2, grid=4, appearance_dim=8, heads=4, zero_start=True)
    corr, source, target = torch.rand(1, 2, 16, 16), torch.rand(1, 2, 16, 8), torch.rand(1, 2, 16, 8)
    assert torch.allclose(aggregator(corr, source, target), corr.mean(1), atol=1e-6)
