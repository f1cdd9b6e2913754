import pytest
import torch
from torch import nn

from detkit.ops.deformable_attention import ms_deform_attn, project_and_attend

SHAPES = [(5, 7), (3, 4), (1, 1)]
POSITIONS = sum(h * w for h, w in SHAPES)


def inputs(dtype=torch.float32, b=2, q=6, m=4, d=8, p=3):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(b, POSITIONS, m * d, generator=generator, dtype=torch.float64)
    locations = torch.rand(b, q, m, len(SHAPES), p, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(b, q, m, len(SHAPES), p, generator=generator, dtype=torch.float64)
    return features.to(dtype), locations.to(dtype), weights.to(dtype)


def naive(value, locations, weights):
    """Pixel by pixel, straight from the equation."""
    b, _, m, d = value.shape
    out = torch.zeros(b, locations.shape[1], m, d, dtype=value.dtype)
    for index in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        image, query, head, level, _ = index
        h, w = SHAPES[level]
        start = sum(a * c for a, c in SHAPES[:level])
        x, y = (locations[tuple(index)] * torch.tensor([w, h]) - 0.5).tolist()
        for row in range(h):
            for column in range(w):
                bilinear = max(0.0, 1 - abs(x - column)) * max(0.0, 1 - abs(y - row))
                if bilinear:
                    sample = value[image, start + row * w + column, head]
                    out[image, query, head] += weights[tuple(index)] * bilinear * sample
    return out.flatten(2)


def test_equals_the_equation():
    features, locations, weights = inputs(torch.float64)
    value = features.unflatten(-1, (4, 8))
    torch.testing.assert_close(ms_deform_attn(value, SHAPES, locations, weights), naive(value, locations, weights))


def test_gradients():
    features, locations, weights = (t.requires_grad_() for t in inputs(torch.float64, b=1, q=2, m=2, d=2, p=2))
    torch.autograd.gradcheck(
        lambda f, loc, w: ms_deform_attn(f.unflatten(-1, (2, 2)), SHAPES, loc, w), (features, locations, weights)
    )


def test_bfloat16_values_are_sampled_in_float32():
    features, locations, weights = inputs()
    exact = ms_deform_attn(features.unflatten(-1, (4, 8)), SHAPES, locations, weights)
    half = ms_deform_attn(features.bfloat16().unflatten(-1, (4, 8)), SHAPES, locations, weights)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("queries", "points"), [(1, 1), (6, 3)])  # fewer samples than positions, and more
def test_projecting_before_or_after_sampling_is_the_same(dtype, queries, points):
    features, locations, weights = inputs(dtype, q=queries, p=points)
    padding = torch.rand(2, POSITIONS, generator=torch.Generator().manual_seed(1)) < 0.3
    projection = nn.Linear(32, 32).to(dtype)
    tensors = [t.requires_grad_() for t in (features, locations, weights)]
    parameters = [*tensors, projection.weight, projection.bias]
    value = projection(features).masked_fill(padding[..., None], 0).unflatten(-1, (4, 8))
    expected = ms_deform_attn(value, SHAPES, locations, weights)
    actual = project_and_attend(features, padding, projection, SHAPES, locations, weights)
    torch.testing.assert_close(actual, expected)
    target = torch.randn(expected.shape, dtype=dtype, generator=torch.Generator().manual_seed(2))
    expected_gradients = torch.autograd.grad((expected * target).sum(), parameters)
    actual_gradients = torch.autograd.grad((actual * target).sum(), parameters)
    for ours, theirs in zip(actual_gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_levels_that_do_not_add_up():
    features, locations, weights = inputs()
    with pytest.raises(ValueError, match="do not add up to 48"):
        ms_deform_attn(features.unflatten(-1, (4, 8)), SHAPES[:2], locations[:, :, :, :2], weights[:, :, :, :2])
