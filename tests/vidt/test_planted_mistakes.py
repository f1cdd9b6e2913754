"""The judgement of the goldens rejects a model, or detections, with one mistake in them.

Most mistakes sit in the last decoder layer, where only the last stage can show them and rounding is the largest.
"""

import copy

import pytest
import torch
import vidt_golden

from detkit.structures import Detections
from detkit.vidt.convert import from_official
from detkit.vidt.decoder import inverse_sigmoid


@pytest.fixture(scope="module")
def coat():
    description, arrays = vidt_golden.load("vidt_coat_lite_tiny")
    return from_official(vidt_golden.state_dict(description))[0], description, arrays


def judge(model, description, arrays):
    """What the tests of the goldens do: each stage from the boxes of the golden, then from the model's own."""
    images = vidt_golden.images(description)
    stages = vidt_golden.forward_from_golden_boxes(model, images, arrays)
    for stage in range(7):
        vidt_golden.assert_stage(stages, stage, ("logits", "boxes"), description, arrays)
    with torch.no_grad():
        stages = model.forward_stages(images)
    for stage in range(7):
        vidt_golden.assert_coat_stage(stages, stage, description, arrays)


def test_the_model_without_a_mistake_passes(coat):
    judge(*coat)


def epsilon_of_one_norm_1e_5_instead_of_1e_6(model):
    model.backbone.stages[0].blocks[0].norm1.eps = 1e-5


def epsilon_of_the_last_norm_1e_2(model):
    model.decoder[5].norm3.eps = 1e-2


def x_and_y_of_the_sampling_offsets_swapped(model):
    offsets = model.decoder[5].cross_attn.sampling_offsets
    for tensor in (offsets.weight, offsets.bias):
        tensor.copy_(tensor.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))


def rows_and_columns_of_a_patch_embedding_swapped(model):
    weight = model.backbone.stages[0].patch_embed.proj.weight
    weight.copy_(weight.transpose(2, 3).clone())


def no_bias_in_the_last_feed_forward_network(model):
    model.decoder[5].linear2.bias.zero_()


def no_bias_in_the_last_box_head(model):
    model.bbox_embed[6].layers[0].bias.zero_()


def attention_scaled_by_all_channels_instead_of_those_of_a_head(model):
    attention = model.decoder[5].self_attn
    for tensor in (attention.in_proj_weight, attention.in_proj_bias):
        tensor[: attention.embed_dim] *= attention.num_heads**-0.5


def sampling_reaches_twice_as_far_from_a_box(model):
    offsets = model.decoder[5].cross_attn.sampling_offsets
    for tensor in (offsets.weight, offsets.bias):
        tensor *= 2


def boxes_change_by_half_of_what_they_should(model):
    last = model.bbox_embed[6].layers[-1]
    for tensor in (last.weight, last.bias):
        tensor *= 0.5


@pytest.mark.parametrize(
    "plant",
    [
        epsilon_of_one_norm_1e_5_instead_of_1e_6,
        epsilon_of_the_last_norm_1e_2,
        x_and_y_of_the_sampling_offsets_swapped,
        rows_and_columns_of_a_patch_embedding_swapped,
        no_bias_in_the_last_feed_forward_network,
        no_bias_in_the_last_box_head,
        attention_scaled_by_all_channels_instead_of_those_of_a_head,
        sampling_reaches_twice_as_far_from_a_box,
        boxes_change_by_half_of_what_they_should,
    ],
)
def test_a_mistake_in_a_layer(coat, plant):
    model, description, arrays = coat
    model = copy.deepcopy(model)
    with torch.no_grad():
        plant(model)
    with pytest.raises(AssertionError):
        judge(model, description, arrays)


def test_a_wrong_constant_in_box_refinement(coat, monkeypatch):
    """Boxes are kept from 0 and 1 by 1e-2 instead of 1e-5; few boxes come so near."""
    monkeypatch.setattr("detkit.vidt.model.inverse_sigmoid", lambda x: inverse_sigmoid(x, eps=1e-2))
    with pytest.raises(AssertionError):
        judge(*coat)


@pytest.fixture(scope="module")
def detected():
    """The detections of the first image, the arrays of the golden and the size of the image."""
    description, arrays = vidt_golden.load("postprocess_vidt_plus_nano")
    model, _ = from_official(vidt_golden.state_dict(description))
    model.top_k += vidt_golden.SPARE
    sizes = [tuple(size) for size in description["original_sizes_hw"]]
    with torch.no_grad():
        return model.detect(vidt_golden.images(description), sizes)[0], arrays, sizes[0]


def reordered(found, changes):
    """Detections whose scores stay, but place k shows what was found at `changes[k]`."""
    order = torch.arange(len(found))
    for place, source in changes.items():
        order[place] = source
    return Detections(found.boxes[order], found.scores, found.labels[order], found.masks[order])


def test_detections_change_places_where_scores_tie(detected):
    found, arrays, size = detected
    vidt_golden.assert_detections(found, arrays, 0, size)
    tied = int(found.scores[:99].diff().abs().argmin())
    vidt_golden.assert_detections(reordered(found, {tied: tied + 1, tied + 1: tied}), arrays, 0, size)
    assert found.scores[99] - found.scores[100] < 1e-3
    vidt_golden.assert_detections(reordered(found, {99: 100, 100: 99}), arrays, 0, size)


@pytest.mark.parametrize(
    "changes",
    [{10: 40, 40: 10}, {50: 51}, {99: 98}, {40: 110}],
    ids=["other places without a tie", "one twice", "the last one twice", "one that belongs behind the cut"],
)
def test_wrong_detections(detected, changes):
    found, arrays, size = detected
    with pytest.raises(AssertionError):
        vidt_golden.assert_detections(reordered(found, changes), arrays, 0, size)


@pytest.mark.parametrize("place", [0, 57, 99])
@pytest.mark.parametrize("part", ["labels", "boxes", "masks", "scores"])
def test_a_mistake_in_one_detection(detected, part, place):
    found, arrays, size = detected
    changed = reordered(found, {})
    value = getattr(changed, part)
    if part == "labels":
        value[place] += 1
    elif part == "boxes":
        value[place] = value[place, [1, 0, 3, 2]]
    elif part == "masks":
        value[place] = ~value[place]
    else:
        changed.scores = value.clone()
        changed.scores[: place + 1] += 3e-3
    with pytest.raises(AssertionError):
        vidt_golden.assert_detections(changed, arrays, 0, size)
