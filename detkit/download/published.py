"""The models that their authors publish, by name: where their weights are, how large they are, and what they reach."""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass

VIDT = "https://github.com/naver-ai/vidt/releases/download/"
SWIN = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
TIMM = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"


@dataclass(frozen=True)
class Published:
    """A file of weights that its authors publish; the figures are theirs.

    Attributes:
        name: what every command takes instead of a file.
        url: of the authors' file.
        parameters: in millions.
        licence: of the repository that publishes the file.
        box_ap, mask_ap: on COCO val2017, in percent; None where none is published.
        is_body: whether this is a backbone for `model.backbone.pretrained`, trained on ImageNet, and no detector.
        accuracy: of a body on ImageNet, in percent; None where none is published.
    """

    name: str
    url: str
    parameters: int
    licence: str = "Apache-2.0"
    box_ap: float | None = None
    mask_ap: float | None = None
    is_body: bool = False
    accuracy: float | None = None

    def figures(self) -> str:
        """ "45.3 box AP", with the mask AP where there is one; of a body "81.2 % on ImageNet"."""
        if self.is_body:
            return "ImageNet" if self.accuracy is None else f"{self.accuracy} % on ImageNet"
        return f"{self.box_ap} box AP" + (f", {self.mask_ap} mask AP" if self.mask_ap else "")


# Figures and addresses from the README of naver-ai/vidt, branches `main` and `vidt-plus`; of EfficientNet from timm.
_MODELS = (
    Published("vidt_swin_nano", VIDT + "v0.1-vidt/vidt_nano_50.pth", 15, box_ap=40.4),
    Published("vidt_swin_tiny", VIDT + "v0.1-vidt/vidt_tiny_50.pth", 37, box_ap=44.9),
    Published("vidt_swin_small", VIDT + "v0.1-vidt/vidt_small_50.pth", 60, box_ap=47.4),
    Published("vidt_swin_base", VIDT + "v0.1-vidt/vidt_base_50.pth", 99, box_ap=49.4),
    Published("vidt_plus_swin_nano", VIDT + "v0.1-vidt-plus/vidt_plus_nano_det300.pth", 16, box_ap=45.3),
    Published("vidt_plus_swin_tiny", VIDT + "v0.1-vidt-plus/vidt_plus_tiny_det300.pth", 38, box_ap=49.7, mask_ap=39.5),
    Published(
        "vidt_plus_swin_small", VIDT + "v0.1-vidt-plus/vidt_plus_small_det300.pth", 61, box_ap=51.2, mask_ap=40.8
    ),
    Published("vidt_plus_swin_base", VIDT + "v0.1-vidt-plus/vidt_plus_base_det300.pth", 100, box_ap=53.2),
    # 150 epochs, and the last decoder layers dropped.
    *(
        Published(
            f"vidt_plus_swin_{size}_optimized",
            f"{VIDT}v0.1-vidt-plus-optimized/vidt_plus_swin_{size}_optimized.pth",
            parameters,
            box_ap=box_ap,
        )
        for size, parameters, box_ap in (("nano", 14, 47.0), ("tiny", 36, 50.8), ("small", 59, 51.8))
    ),
    Published("swin_nano", VIDT + "v0.1-swin/swin_nano_patch4_window7_224.pth", 6, is_body=True, accuracy=74.9),
    Published("swin_tiny", SWIN + "swin_tiny_patch4_window7_224.pth", 28, "MIT", is_body=True, accuracy=81.2),
    Published("swin_small", SWIN + "swin_small_patch4_window7_224.pth", 50, "MIT", is_body=True, accuracy=83.2),
    Published("efficientnet_lite0", TIMM.format("tf_efficientnet_lite0.in1k"), 5, is_body=True),
    Published("swin_base", SWIN + "swin_base_patch4_window7_224_22k.pth", 88, "MIT", is_body=True, accuracy=86.3),
)
PUBLISHED = {model.name: model for model in _MODELS}
_URLS = {model.url for model in _MODELS}


def address(url: str) -> str:
    """Where a file is asked for: published ones at $DETKIT_MIRROR, if it is set, under the path that they have.

    With `DETKIT_MIRROR=https://files.example.org/weights` it is `https://files.example.org/weights/naver-ai/vidt/...`.

    Raises:
        ValueError: the variable is no http(s) URL.
    """
    mirror = os.environ.get("DETKIT_MIRROR", "")
    if not mirror or url not in _URLS:
        return url
    if not mirror.startswith(("http://", "https://")):
        raise ValueError(f"DETKIT_MIRROR must begin with http:// or https://, got {mirror!r}")
    return mirror.rstrip("/") + urllib.parse.urlsplit(url).path


def advice(url: str, path: object) -> str:
    """What to do where `url` cannot be reached: get the file by other means, or from another host."""
    mirror = ", or let DETKIT_MIRROR name a host that has it" if url in _URLS else ""
    return f"without network put the file at {path}{mirror}"
