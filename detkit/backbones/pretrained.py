"""Loading published backbone weights from a file, a URL or timm; every missing or unexpected key is an error."""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from detkit.download.fetch import local_file
from detkit.download.published import PUBLISHED
from detkit.official.unpickling import read_stored
from detkit.registry.ranges import Channels, Depth, OptionsOf, Pixels, PositiveFloat, ShareBelowOne

logger = logging.getLogger(__name__)

# Arguments of constructors, here and in timm, that name a file, URL or checkpoint to read.
FILE_ARGUMENTS = frozenset(
    ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "teacher")
)


def load_pretrained(
    model: nn.Module,
    source: str,
    convert: Callable[[Mapping[str, Tensor]], tuple[dict[str, Tensor], list[str]]],
    is_new: Callable[[str], bool],
) -> None:
    """Load published weights into `model`.

    Args:
        model: the backbone.
        source: a file, an http(s) URL (downloaded once, see `detkit.download.fetch`), the name of a published body such
            as "swin_tiny", or "timm:MODEL_NAME".
        convert: gives the weights under the model's names, and the published keys that are left out on purpose.
        is_new: tells of one of the model's own names whether published weights are known to lack it.

    Raises:
        ValueError: the source cannot be read, or a key is missing, unexpected or of another shape.
    """
    weights, left_out = convert(read_state_dict(source))
    own = model.state_dict()
    problems = [f"unexpected: {key}" for key in weights if key not in own]
    problems += [f"missing: {key}" for key in own if key not in weights and not is_new(key)]
    problems += [
        f"{key}: {tuple(weights[key].shape)} in the file, {tuple(own[key].shape)} in the model"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if problems:
        more = f" and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"weights {source} do not fit this backbone: {'; '.join(problems[:10])}{more}")
    model.load_state_dict(weights, strict=False)
    new = sum(key not in weights for key in own)
    logger.info("loaded %d tensors of %s; %d new, %d left out", len(weights), source, new, len(left_out))


def read_state_dict(source: str) -> Mapping[str, Tensor]:
    """The state dict stored at a file, URL, name of a body or timm model name (see `load_pretrained`)."""
    if source.startswith("timm:"):
        return timm_state_dict(source.removeprefix("timm:"))
    body = PUBLISHED.get(source)
    stored = read_stored(local_file(body.url if body is not None and not Path(source).exists() else source))
    for key in ("model", "state_dict"):
        if isinstance(stored, Mapping) and isinstance(stored.get(key), Mapping):
            stored = stored[key]
    if not isinstance(stored, Mapping) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise ValueError(f"{source} holds no state dict")
    return stored


def import_timm():
    """Import timm, also where torchvision's compiled operators do not load.

    timm needs torchvision only for its data pipeline, which is not used here; but a CPU build of torch beside
    torchvision's CUDA wheel makes `import torchvision` stop at operators that do not exist. Declaring them (they
    are never called) lets the import go on.
    """
    for name, signature in {
        "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    }.items():
        if not _torchvision_operators_load():
            torch.library.define(f"torchvision::{name}", signature)
    try:
        import timm
    except ImportError as error:
        raise ValueError('timm is not installed: pip install "detkit[timm]"') from error
    return timm


def _torchvision_operators_load() -> bool:
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return True
    except RuntimeError:
        return False
    return True


def timm_arguments(
    *,
    img_size: Pixels | tuple[Pixels, Pixels] | None = None,
    patch_size: Pixels | tuple[Pixels, Pixels] | None = None,
    embed_dim: Channels | Sequence[Channels] | None = None,
    depth: Depth | None = None,
    depths: Sequence[Depth] | None = None,
    num_heads: Depth | Sequence[Depth] | None = None,
    mlp_ratio: PositiveFloat | Sequence[PositiveFloat] | None = None,
    drop_rate: ShareBelowOne = 0.0,
    drop_path_rate: ShareBelowOne = 0.0,
    **others: Any,
) -> dict[str, Any]:
    """Types and ranges of arguments that many timm models share; what else there is depends on the model."""
    return {**locals(), **others}


ModelArgs = Annotated[Mapping[str, Any], OptionsOf(timm_arguments)]


def checked_model_args(model_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """The `model_args` of a config as arguments for `create_timm_model`; None gives none.

    Raises:
        ValueError: an argument that makes timm read a file: timm may unpickle it, so a config from elsewhere could run
            code.
    """
    arguments = dict(model_args or {})
    if refused := sorted(arguments.keys() & FILE_ARGUMENTS):
        raise ValueError(f"model_args: {', '.join(refused)} would make timm read a file; use `pretrained` beside it")
    return arguments


def create_timm_model(name: str, **arguments: Any) -> nn.Module:
    """A timm model by its name, with or without a tag of weights (`vit_tiny_patch16_224.augreg_in21k`).

    Raises:
        ValueError: timm is not installed, does not know the name, or cannot fetch the weights.
        Exception: what timm raises for wrong `arguments`.
    """
    timm = import_timm()
    known, architecture = timm.list_models(), name.split(".")[0]
    if architecture not in known:
        near = difflib.get_close_matches(architecture, known, n=10) or timm.list_models(f"*{name.split('_')[0]}*")[:10]
        raise ValueError(f"timm has no model {name!r}" + (f"; it has {', '.join(near)}" if near else ""))
    try:
        return timm.create_model(name, **arguments)
    except Exception as error:
        if not arguments.get("pretrained") or isinstance(error, TypeError):
            if isinstance(error, (RuntimeError, ArithmeticError, KeyError, AttributeError)):
                raise ValueError(f"timm cannot build {name} with {arguments}: {error}") from error
            raise
        raise ValueError(
            f"timm could not fetch the weights of {name}: {error} Without network give a file of them as `pretrained`"
        ) from error


def timm_state_dict(name: str) -> Mapping[str, Tensor]:
    """The published weights of a timm model; errors are those of `create_timm_model`."""
    return create_timm_model(name, pretrained=True).state_dict()


def is_counter(name: str) -> bool:
    """Whether a name is that of a batch norm's counter, which old weight files lack and nothing here reads."""
    return name.endswith("num_batches_tracked")


def count(pattern: str, keys: Iterable[str]) -> int:
    """One more than the highest number that the group of `pattern` finds at the start of a key; 0 if none has one."""
    found = (re.match(pattern, key) for key in keys)
    return 1 + max((int(m[1]) for m in found if m), default=-1)


def names_in_body(state_dict: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename the weights of a timm classifier for its `features_only` body.

    timm joins the first two parts of a name where it unrolls a sequence, or wraps the model as a whole.

    Returns:
        The renamed weights, and the keys that the body does not have.
    """
    converted, left_out = {}, []
    for key, value in state_dict.items():
        names = [name for name in (key, key.replace(".", "_", 1), f"model.{key}") if name in own]
        if names:
            converted[names[0]] = value
        else:
            left_out.append(key)
    return converted, left_out
