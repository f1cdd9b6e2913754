"""A small ViDT, objects and batches for it."""

import torch

from detkit.backbones.swin import Swin
from detkit.structures import Annotations, Batch
from detkit.vidt.model import ViDT

SMALL = dict(num_tokens=7, embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), pos_dim=32)


def small_vidt(num_classes=3, **options):
    torch.manual_seed(0)
    arguments = dict(hidden_dim=32, decoder_layers=2, heads=4, ffn_dim=64, input_rule=dict(shortest=64, longest=128))
    return ViDT(Swin(**SMALL), num_classes, **(arguments | options))


def small_config(decoder_layers):
    """The "model" section of a ViDT that trains in milliseconds."""
    swin = dict(embed_dim=16, depths=(1, 1, 1, 1), num_heads=(2, 2, 4, 4), window=4, num_tokens=4, pos_dim=32)
    return dict(
        type="ViDT",
        backbone=dict(type="Swin", **swin),
        hidden_dim=32,
        decoder_layers=decoder_layers,
        heads=4,
        ffn_dim=64,
        input_rule=dict(shortest=64, longest=64, multiple=1),
    )


def objects(*boxes, label=0):
    return Annotations(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), torch.full((len(boxes),), label))


def batch(*annotations):
    generator = torch.Generator().manual_seed(1)
    samples = [
        (torch.randint(256, (3, 64, 80 + 16 * i), dtype=torch.uint8, generator=generator), a)
        for i, a in enumerate(annotations)
    ]
    return Batch.collate(samples)
