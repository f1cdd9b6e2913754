import pytest
import torch
import torch.nn.functional as F

from detkit.ops import linear as module
from detkit.ops.linear import Linear, linear


def problem(shape=(2, 300, 256), out=384, bias=True):
    torch.manual_seed(0)
    layer = torch.nn.Linear(shape[-1], out, bias=bias)
    return torch.randn(shape, requires_grad=True), layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(600, 256), (600, 512), (2, 300, 256), (2, 3, 100, 256), (1, 4, 8)])
def test_values_and_gradients_are_those_of_pytorch(shape, bias):
    x, layer = problem(shape, bias=bias)
    weight = torch.randn(layer(x).shape)
    inputs = [x, *layer.parameters()]
    expected = torch.autograd.grad((F.linear(x, layer.weight, layer.bias) * weight).sum(), inputs)
    out = linear(x, layer.weight, layer.bias)
    torch.testing.assert_close(out, layer(x), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad((out * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)


def test_inputs_that_are_not_contiguous_and_a_transposed_weight():
    x, layer = problem()
    turned = x.detach().transpose(0, 1)
    torch.testing.assert_close(linear(turned, layer.weight, layer.bias), layer(turned), rtol=1e-5, atol=1e-5)
    weight = layer.weight.detach().t().contiguous().t()
    torch.testing.assert_close(linear(turned, weight), F.linear(turned, weight), rtol=1e-5, atol=1e-5)
    rows = layer.weight.detach()[100:300]
    torch.testing.assert_close(linear(turned, rows), F.linear(turned, rows), rtol=1e-5, atol=1e-5)


def test_frozen_parts_get_no_gradient():
    x, layer = problem()
    layer.weight.requires_grad_(False)
    linear(x.detach(), layer.weight, layer.bias).sum().backward()
    assert x.grad is None and layer.weight.grad is None
    assert layer.bias.grad.tolist() == [600.0] * 384


def test_autocast_and_double_precision_keep_their_types():
    x, layer = problem()
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, layer.weight, layer.bias).dtype == torch.bfloat16
    assert linear(x.double(), layer.weight.double(), layer.bias.double()).dtype == torch.float64


@pytest.mark.skipif(not module.ONEDNN, reason="switched off, or this build of PyTorch has no oneDNN for x86")
def test_large_products_go_to_onednn_and_small_ones_do_not():
    _, layer = problem()
    with torch.no_grad(), torch.profiler.profile() as profile:
        linear(torch.randn(600, 256), layer.weight, layer.bias)
        linear(torch.randn(2, 256), layer.weight, layer.bias)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert counts["mkldnn::_linear_pointwise"] == 1
    assert counts["aten::addmm"] == 1


def test_layer_loads_and_stores_like_that_of_pytorch():
    _, layer = problem()
    ours = Linear(256, 384)
    ours.load_state_dict(layer.state_dict())
    x = torch.randn(600, 256)
    torch.testing.assert_close(ours(x), layer(x), rtol=1e-5, atol=1e-5)
    assert isinstance(ours, torch.nn.Linear)


def test_exported_layers_use_the_portable_operator():
    exported = torch.export.export(Linear(256, 384).eval(), (torch.randn(600, 256),))
    assert "mkldnn" not in str(exported.graph)


def test_flops_count_the_same_on_both_paths(monkeypatch):
    from detkit.studies.benchmark import count_flops

    ours, x = Linear(256, 384), torch.randn(600, 256)
    fast = count_flops(ours, lambda: ours(x))
    monkeypatch.setattr(module, "ONEDNN", False)
    assert fast == count_flops(ours, lambda: ours(x)) == 2 * 600 * 256 * 384


@pytest.mark.parametrize(("size", "stride", "bias"), [(1, 1, True), (1, 2, False), (3, 1, True), (3, 2, False)])
def test_convolutions_are_those_of_pytorch(size, stride, bias):
    from detkit.studies.benchmark import count_flops

    torch.manual_seed(0)
    conv = torch.nn.Conv2d(64, 96, size, stride=stride, padding=2 * (size // 2), dilation=2, bias=bias)
    x = torch.randn(2, 64, 40, 36, requires_grad=True)
    weight = torch.randn(conv(x).shape)
    inputs = [x, *conv.parameters()]
    expected = torch.autograd.grad((conv(x) * weight).sum(), inputs)
    out = module.conv2d(x, conv.weight, conv.bias, conv)
    torch.testing.assert_close(out, conv(x), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad((out * weight).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-3)
    flops = 2 * out[:, :1].numel() * conv.weight.numel()
    assert count_flops(conv, lambda: module.conv2d(x.detach(), conv.weight, conv.bias, conv)) == flops


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("rows", [2, 600])
def test_gelu_is_that_of_the_error_function(rows, grad):
    _, layer = problem()
    x = torch.randn(rows, 256) * 3
    with torch.set_grad_enabled(grad):
        found = module.linear_gelu(x, layer.weight, layer.bias)
    torch.testing.assert_close(found, F.gelu(layer(x)), rtol=1e-5, atol=1e-5)
    assert found.requires_grad == grad


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [1, 3])
def test_a_convolution_without_gradients_keeps_layout_and_values(size, layout):
    conv = module.Conv2d(64, 96, size, padding=size // 2)
    x = torch.randn(2, 64, 20, 24).contiguous(memory_format=layout)
    with torch.no_grad():
        found = conv(x)
    torch.testing.assert_close(found, conv(x).detach(), rtol=1e-4, atol=1e-4)
    assert found.is_contiguous(memory_format=layout)
