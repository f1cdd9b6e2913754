import pytest
import torch
from small_vidt import batch, objects, small_vidt

from detkit.vidt.losses.distillation import distillation_loss
from detkit.vidt.outputs import DistillationFeatures


def test_the_loss_by_hand():
    def tokens(value):
        return DistillationFeatures(
            torch.full((1, 5, 4), value),
            [(2, 2), (1, 1)],
            torch.full((1, 3, 4), value),
            torch.full((2, 1, 3, 4), value),
        )

    # A distance of 2 * sqrt(4) = 4 for each of two levels, the body tokens and two stages.
    assert distillation_loss(tokens(0.0), tokens(2.0)).item() == pytest.approx((5 * 4) ** 0.5)


def test_equal_tokens_have_a_finite_gradient():
    features = torch.randn(1, 4, 8, requires_grad=True)
    student = DistillationFeatures(features, [(2, 2)], features[:, :2], features[None, :, :2])
    distillation_loss(student, student).backward()
    assert torch.isfinite(features.grad).all()


def test_a_student_is_drawn_to_its_teacher_which_stays_as_it_is():
    teacher = small_vidt()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    torch.manual_seed(1)
    student = small_vidt(teacher=teacher, dropout=0.0)
    torch.nn.init.normal_(student.tgt_proj[0].weight)
    student.train()
    assert student.state_dict().keys() == teacher.state_dict().keys()
    optimizer = torch.optim.Adam(student.parameters(), 1e-3)
    data, terms = batch(objects((0, 0, 20, 20))), []
    for _ in range(10):
        losses = student(data)
        terms.append(losses["loss_distil"].item())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert terms[-1] < 0.9 * terms[0]
    assert not teacher.training
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


def test_a_teacher_with_other_tokens_is_an_error():
    with pytest.raises(ValueError, match="it has channels 64, not 32, stages 2, not 3"):
        small_vidt(teacher=small_vidt(hidden_dim=64, decoder_layers=1))
    with pytest.raises(ValueError, match="the teacher is a Linear"):
        small_vidt(teacher=torch.nn.Linear(1, 1))
