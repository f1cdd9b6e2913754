import pytest
import torch
from torch import nn

from detkit.official.report import ConversionReport, load_completely, without_prefix


def test_report_in_words():
    assert str(ConversionReport(["a", "b"], unused=["c"])) == "2 tensors loaded, 1 never used by the official code"
    text = str(ConversionReport(["a"], ["b", "c"], []))
    assert text == "1 tensors loaded, 2 duplicates of them, 0 never used by the official code"


def test_prefix_of_a_wrapper():
    a, b = torch.zeros(1), torch.ones(1)
    assert without_prefix({"module.a": a, "module.b.module.c": b}) == {"a": a, "b.module.c": b}
    assert without_prefix({"module.a": a, "b": b}).keys() == {"module.a", "b"}


def test_loading_leaves_nothing_open():
    model, weights = nn.Linear(2, 3), {"weight": torch.ones(3, 2), "bias": torch.ones(3)}
    load_completely(model, weights)
    assert not model.training and torch.equal(model.weight, weights["weight"])
    load_completely(model, weights, assign=True)
    assert model.weight.data_ptr() == weights["weight"].data_ptr()
    with pytest.raises(ValueError, match=r"1 tensors belong to no part .* \['more'\], 1 are missing \['bias'\]"):
        load_completely(model, {"weight": weights["weight"], "more": torch.ones(1)})
    with pytest.raises(ValueError, match=r"(?s)cannot convert: .*size mismatch for bias"):
        load_completely(model, weights | {"bias": torch.ones(4)})
