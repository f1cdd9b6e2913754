"""Small models to export, and a session that runs a graph by PyTorch instead of a file."""

import torch
from small_pyramid import SmallPyramid

import detkit.pointseg.solov2  # noqa: F401  registers the model
from detkit.registry import build

SOLO = dict(num_grids=(10, 8, 6, 4, 3), instance_channels=16, instance_convs=2, kernel_channels=16, mask_channels=16)


def small_solo(**options):
    """A SOLOv2 with masks of some area everywhere; `options` are of its postprocessing."""
    torch.manual_seed(0)
    postprocess = dict(type="SoloPostprocess", **options)
    config = dict(type="SOLOv2", backbone=dict(type=SmallPyramid.__name__), num_classes=3, postprocess=postprocess)
    model = build(config | SOLO | dict(input_rule=dict(shortest=64, longest=96)))
    with torch.no_grad():
        for head in (model.instance_head.category, model.instance_head.kernel):
            head.weight.normal_(std=0.3)
    return model.eval()


def lively(model):
    """The model with random numbers where its weights begin as zeros, so that every part has a say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.any() or "sampling_offsets" in name:
                parameter.normal_(std=0.3)
    return model.eval()


class GraphSession:
    """Runs a graph as the session of a file does."""

    def __init__(self, graph, description):
        self.graph, self.description = graph, description

    @torch.no_grad()
    def run(self, arrays):
        return [output.numpy() for output in self.graph(*map(torch.from_numpy, arrays))]
