"""The plain vision transformers of timm taken apart: their blocks computed with any attention between the tokens.

timm has two families of them, `VisionTransformer` (ViT, DeiT, AugReg, CLIP, DINOv2) and `Eva` (EVA, EVA-02, DINOv3),
whose blocks are alike but for where the biases, the layer scales and the rotary embedding are.

Shape letters: b images, t tokens, c channels, m heads, d channels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from detkit.backbones.pretrained import create_timm_model, load_pretrained
from detkit.ops.linear import linear, linear_gelu

HEAD = ("head.", "head_dist.", "fc_norm.", "attn_pool.")


def create_body(model: str, pretrained: bool | str, **arguments: Any) -> nn.Module:
    """A plain vision transformer of timm without classifier, for images of any size.

    Args:
        model: the name in timm.
        pretrained: True for the published weights; a file, URL or "timm:MODEL_NAME" with a state dict in timm's names.
        arguments: of the timm model.

    Raises:
        ValueError: no plain vision transformer, one whose blocks are not known here, or weights that do not fit.
    """
    if arguments.get("patch_drop_rate"):
        raise ValueError("patch_drop_rate: the maps of a detector need every patch")
    try:
        body = create_timm_model(model, pretrained=pretrained is True, dynamic_img_size=True, **arguments)
    except TypeError as error:
        raise ValueError(f"timm model {model!r} is no plain vision transformer, or: {error}") from error
    check_body(model, body)
    body.prune_intermediate_layers(1)  # keeps every block, drops the classifier
    if isinstance(pretrained, str):
        load_pretrained(body, pretrained, convert_body, lambda name: False)
    return body


def check_body(model: str, body: nn.Module) -> None:
    """Raise a ValueError for a transformer that `project` and `finish` would not compute as timm does."""
    from timm.layers import Attention
    from timm.models import eva, vision_transformer

    if not isinstance(body, (vision_transformer.VisionTransformer, eva.Eva)):
        raise ValueError(f"timm model {model!r} is a {type(body).__name__}, not a VisionTransformer or Eva")
    for block in body.blocks:
        if type(block) not in (vision_transformer.Block, eva.EvaBlock):
            raise ValueError(f"timm model {model!r} has blocks of another kind: {type(block).__name__}")
        attn = block.attn
        plain = type(attn) in (Attention, eva.EvaAttention, eva.AttentionRope)
        if not plain or getattr(attn, "gate", None) is not None or getattr(attn, "num_kv_groups", 1) > 1:
            raise ValueError(f"timm model {model!r} has attention of another kind: {type(attn).__name__}")


def convert_body(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Weights in timm's names without the classifier, and the keys that are left out."""
    weights = {key: value for key, value in state_dict.items() if not key.startswith(HEAD)}
    return weights, [key for key in state_dict if key not in weights]


def embed(body: nn.Module, images_b3hw: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """Tokens `[b, t, c]` before the first block (class and register tokens, then patches row by row).

    Beside them the rotary embedding of each block, None where there is none.
    """
    x, rope = body._pos_embed(body.patch_embed(images_b3hw)), None
    if isinstance(x, tuple):
        x, rope = x
    if rope is not None and getattr(body, "rope_mixed", False):
        return body.norm_pre(x), list(rope)
    return body.norm_pre(x), [rope] * len(body.blocks)


def project(attn: nn.Module, x_btc: Tensor, parts: slice = slice(0, 3)) -> list[Tensor]:
    """Queries, keys and values (or the `parts` of them) of normalised tokens, each `[b, m, t, d]`."""
    if attn.qkv is None:
        found = [layer(x_btc) for layer in (attn.q_proj, attn.k_proj, attn.v_proj)[parts]]
    else:
        bias = attn.qkv.bias
        if getattr(attn, "q_bias", None) is not None:
            bias = torch.cat([attn.q_bias, attn.k_bias, attn.v_bias])
        step = len(attn.qkv.weight) // 3
        rows = slice(parts.start * step, parts.stop * step)
        weight = attn.qkv.weight if parts == slice(0, 3) else attn.qkv.weight[rows]
        found = linear(x_btc, weight, None if bias is None else bias[rows]).split(step, dim=-1)
    heads = [x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for x in found]
    norms = (attn.q_norm, attn.k_norm, nn.Identity())[parts]
    return [norm(x) for norm, x in zip(norms, heads, strict=True)]


def rotate(attn: nn.Module, x_bmtd: Tensor, rope: Tensor, prefix: int) -> Tensor:
    """Apply a rotary position embedding to the patches; the first `prefix` tokens have no position."""
    from timm.layers import apply_rot_embed_cat

    patches = apply_rot_embed_cat(x_bmtd[:, :, prefix:], rope, half=getattr(attn, "rotate_half", False))
    return torch.cat([x_bmtd[:, :, :prefix], patches.to(x_bmtd.dtype)], dim=2)


def attention_dropout(attn: nn.Module) -> float:
    """The dropout rate of the attention weights: that of the layer in training, 0 in eval mode."""
    return attn.attn_drop.p if attn.training else 0.0


def finish(block: nn.Module, x_btc: Tensor, attended_bmtd: Tensor) -> Tensor:
    """The rest of a block after attention: both residual sums and the feed-forward network.

    Args:
        block: of the body.
        x_btc: the tokens that came into the block.
        attended_bmtd: what the attention gave, before its output projection.

    Returns:
        The tokens `[b, t, c]` after the block.
    """
    attn = block.attn
    out = attn.norm(attended_bmtd.transpose(1, 2).flatten(2))
    out = attn.proj(out) if torch.is_grad_enabled() else linear(out, attn.proj.weight, attn.proj.bias)
    x = _add(block, x_btc, attn.proj_drop(out), 1)
    return _add(block, x, feed_forward(block.mlp, block.norm2(x)), 2)


def feed_forward(mlp: nn.Module, x_btc: Tensor) -> Tensor:
    """The feed-forward network of a block; a plain one without gradients by the products of `detkit.ops.linear`."""
    from timm.layers import Mlp

    exact = isinstance(getattr(mlp, "act", None), nn.GELU) and mlp.act.approximate == "none"
    plain = type(mlp) is Mlp and exact and isinstance(mlp.fc1, nn.Linear) and isinstance(mlp.norm, nn.Identity)
    if torch.is_grad_enabled() or mlp.training or not plain:
        return mlp(x_btc)
    return linear(linear_gelu(x_btc, mlp.fc1.weight, mlp.fc1.bias), mlp.fc2.weight, mlp.fc2.bias)


def _add(block: nn.Module, x_btc: Tensor, more_btc: Tensor, branch: int) -> Tensor:
    """A residual sum with the layer scale and the stochastic depth of the branch."""
    layer, gamma = getattr(block, f"ls{branch}", None), getattr(block, f"gamma_{branch}", None)
    if not block.training and not torch.is_grad_enabled():
        gamma = getattr(layer, "gamma", gamma)
        return x_btc + more_btc if gamma is None else torch.addcmul(x_btc, more_btc, gamma)
    if layer is not None:
        more_btc = layer(more_btc)
    elif gamma is not None:
        more_btc = gamma * more_btc
    return x_btc + getattr(block, f"drop_path{branch}")(more_btc)
