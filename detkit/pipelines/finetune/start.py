"""What a fine-tuning starts from: a detector trained on COCO, a body trained on ImageNet, or random weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from detkit.checkpoints.published import is_here, published_checkpoint
from detkit.checkpoints.weights import read_header
from detkit.download.fetch import answers, cache_folder, cached_name, fetch, is_url, local_file
from detkit.download.published import PUBLISHED, Published, address
from detkit.runtime.stored_parts import without_files

# GiB of GPU memory from which a size of ViDT+ is taken. Not measured: where it does not suffice, batches are halved.
SIZES_BY_MEMORY = ((40, "base"), (24, "small"), (12, "tiny"), (0, "nano"))
LARGEST_ON_CPU = 16  # million parameters: nano
BODY_ON_CPU = "efficientnet_lite0"
BODY_ON_GPU = "swin_tiny"  # that of the config `finetune`
RECIPES = {"ConvDet": "finetune_cpu", "TimmFeatures": "finetune_lite"}  # by the backbone; `finetune` for all others
HELP = "detkit train quickstart`, then `--set train.init_from=runs/quickstart/best.safetensors"
MASK_OPTIONS = ("mask_vectors", "vector_hidden_dim", "token_labels")  # of ViDT, for what is learned from masks


@dataclass
class Start:
    """What a run starts from.

    Attributes:
        recipe: the config that says how to train.
        weights: of a whole detector, for `train.init_from`; None without one.
        model: the "model" section of that detector; None for that of the recipe.
        body: for `model.backbone.pretrained`, where the recipe's model is taken.
        words: the same for a person.
        lacking: what could not be had, and why.
    """

    recipe: str
    weights: str | None = None
    model: dict[str, Any] | None = None
    body: str | None = None
    words: str = ""
    lacking: list[str] = field(default_factory=list)


def choose_start(device: torch.device, *, masks: bool) -> Start:
    """The best start that this device can train and that can be had within seconds, from the cache or the web.

    On a GPU: a ViDT+ of COCO by the memory of the GPU, else what the cache has of the published detectors, else a Swin
    of ImageNet, else random weights. On a CPU: a small published detector if the cache has one, else an
    EfficientNet-Lite of ImageNet, else random weights.

    Args:
        device: that will train.
        masks: whether the data have masks.
    """
    on_gpu, end, lacking = device.type == "cuda", "_masks" if masks else "", []
    if on_gpu:
        wanted = PUBLISHED[f"vidt_plus_swin_{_size_for(device)}"]
        if (problem := why_not(wanted)) is None:
            return start_from(wanted.name, masks=masks)
        lacking.append(problem)
    if (detector := _best_here(wanted.parameters if on_gpu else LARGEST_ON_CPU)) is not None:
        return start_from(detector.name, masks=masks, lacking=lacking)
    body = PUBLISHED[BODY_ON_GPU if on_gpu else BODY_ON_CPU]
    if (problem := why_not(body)) is None:
        words = f"{body.name}, trained on ImageNet"
        return Start(f"finetune{'' if on_gpu else '_lite'}{end}", body=body.name, words=words, lacking=lacking)
    words = f"random weights; better from a trained detector: `{HELP}`"
    return Start(f"finetune{'' if on_gpu else '_cpu'}{end}", words=words, lacking=[*lacking, problem])


def start_from(source: str, *, masks: bool, lacking: list[str] | None = None) -> Start:
    """A start from a checkpoint, and the recipe for detectors of its kind.

    Args:
        source: a file, the folder of a run, the name of a published model or a URL.
        masks: whether the data have masks.
        lacking: of the `Start`.

    Raises:
        ValueError: no such checkpoint, or one that cannot be read.
    """
    model = stored_model(local_file(source) if is_url(source) else source, masks=masks)
    words = f"{source}, whose classes meet yours by name"
    if masks and not learns_masks(model):
        words += " (it has no masks: boxes only)"
    recipe = RECIPES.get(str((model.get("backbone") or {}).get("type")), "finetune")
    end = "_masks" if masks and learns_masks(model) else ""
    return Start(recipe + end, weights=source, model=model, words=words, lacking=lacking or [])


def stored_model(source: str | Path, *, masks: bool) -> dict[str, Any]:
    """The "model" section of a checkpoint for new data: without classes and files, and without masks unless wanted."""
    header = read_header(source)
    model = {**without_files(header["config"]["model"], "model"), "input_rule": header["input_rule"]}
    model.pop("num_classes", None)
    if (model.get("criterion") or {}).get("official"):
        del model["criterion"]  # that of the authors' code, which differs from the paper
    return model if masks else {key: value for key, value in model.items() if key not in MASK_OPTIONS}


def learns_masks(model: dict[str, Any]) -> bool:
    """Whether the model of a config learns from masks."""
    return model.get("type") == "SOLOv2" or any(model.get(option) for option in ("mask_vectors", "token_labels"))


def why_not(entry: Published) -> str | None:
    """Get a published model; None if the cache has it then, else why it cannot be had, within seconds."""
    if not is_here(entry) and not answers(address(entry.url)):
        place = cache_folder() / cached_name(entry.url)
        return f"{entry.name} cannot be had: no answer from {address(entry.url)}; the file may be put at {place}"
    try:
        if entry.is_body:
            fetch(entry.url)
        else:
            published_checkpoint(entry.name)
    except (ValueError, OSError) as error:
        return f"{entry.name} cannot be had: {error}"
    return None


def _size_for(device: torch.device) -> str:
    memory = torch.cuda.get_device_properties(device).total_memory / 2**30
    return next(size for least, size in SIZES_BY_MEMORY if memory >= least)


def _best_here(most_parameters: int) -> Published | None:
    """The best published detector in the cache of at most so many million parameters that can be read."""
    fitting = [m for m in PUBLISHED.values() if not m.is_body and m.parameters <= most_parameters and is_here(m)]
    ranked = sorted(fitting, key=lambda model: model.box_ap or 0, reverse=True)
    return next((model for model in ranked if why_not(model) is None), None)
