"""The types and ranges of the options of a run's sections; their defaults and meanings are in `detkit.config`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from detkit.registry.ranges import (
    Component,
    Decay,
    Device,
    Images,
    InnerShare,
    PositiveFloat,
    PositiveInt,
    Rate,
    Seed,
    ShareBelowOne,
    Text,
    Workers,
)

TYPES: dict[str, dict[str, Any]] = {
    "data": dict(
        train=Component | None,
        val=Component | None,
        transforms=Sequence[Component],
        batch_size=Images,
        eval_batch_size=Images,
        workers=Workers,
        skip_broken=bool,
    ),
    "optimizer": dict(
        type=str,
        lr=Rate,
        weight_decay=Decay,
        backbone_lr_scale=Annotated[float, Ge(0), Le(1000)],
        betas=tuple[ShareBelowOne, ShareBelowOne],
        momentum=ShareBelowOne,
    ),
    "train": dict(
        epochs=PositiveInt,
        init_from=Text | None,
        freeze=Literal["backbone"] | None,
        max_steps=PositiveInt | None,
        seed=Seed,
        device=Device,
        precision=Literal["auto", "bf16", "fp32"],
        accumulate=Images,
        clip_norm=PositiveFloat | None,
        ema=InnerShare | None,
        log_every=PositiveInt,
        eval_every=PositiveInt,
        first_eval=PositiveInt | None,
        checkpoint_every=PositiveInt | None,
        checkpoint_epochs=PositiveInt,
        keep_steps=Sequence[PositiveInt],
        best_metric=Text | None,
        early_stop=PositiveInt | None,
        draw_samples=Annotated[int, Ge(0), Le(10_000)],
        tensorboard=bool | Literal["auto"],
        loggers=Sequence[Text],
        profile_steps=Annotated[int, Ge(0), Le(100_000)],
    ),
}
