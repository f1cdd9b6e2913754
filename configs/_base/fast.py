"""What learns fast at 128 to 256 pixels on a CPU: the quickstart and the configs for fine-tuning there start from it.

What each part gives, and what did not help and is left out, is in docs/fine_tuning.md.
"""

# Convolutions with [DET] tokens in the last stage learn faster from random weights than a small Swin.
CONV = dict(type="ConvDet", dims=(32, 64, 128, 256), depths=(1, 1, 1, 1), num_tokens=20, pos_dim=128)


def detector(backbone=CONV, **options):
    """A small ViDT whose queries start at the proposals of a dense head; most of its options are the paper's."""
    return dict(
        type="ViDT",
        backbone=dict(backbone),
        hidden_dim=128,
        decoder_layers=2,
        heads=4,
        ffn_dim=512,
        dropout=0.0,
        proposals=True,
        **options,
    )


def optimizer(lr=2e-3, **options):
    """AdamW at a rate that suits a few hundred to a few thousand steps."""
    return dict(lr=lr, weight_decay=1e-4, **options)


def schedule(warmup_steps):
    """A cosine over all steps."""
    return dict(type="cosine", per_step=True, min_lr=1e-5, warmup_steps=warmup_steps)
