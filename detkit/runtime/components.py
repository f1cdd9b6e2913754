"""From the parts of a config to objects."""

from __future__ import annotations

import importlib
import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader

from detkit.data.loading import train_loader
from detkit.data.pairs.dataset import PairSamples
from detkit.modeling.base import InputRule, Model
from detkit.registry import ConfigError, build, check_all, check_value, lookup
from detkit.registry.ranges import Component
from detkit.registry.values import parameters_of
from detkit.runtime.imports import import_named
from detkit.runtime.processes import rank, world_size
from detkit.runtime.signals import shielded
from detkit.runtime.stored_parts import without_files
from detkit.structures import LabelMap
from detkit.structures.protocols import Dataset, Evaluator

logger = logging.getLogger(__name__)

MODULES = (
    "detkit.backbones.coat",
    "detkit.backbones.conv_det",
    "detkit.backbones.fpn",
    "detkit.backbones.resnet",
    "detkit.backbones.swin",
    "detkit.backbones.from_timm.features",
    "detkit.backbones.vit",
    "detkit.vidt.model",
    "detkit.pointseg.refine.data",
    "detkit.pointseg.refine.model",
    "detkit.pointseg.schedules",
    "detkit.pointseg.solov2",
    "detkit.vidt.without_neck",
    "detkit.correspondence.cats",
    "detkit.correspondence.catspp",
    "detkit.correspondence.features.conv_layers",
    "detkit.correspondence.features.maps",
    "detkit.correspondence.neighbours",
    "detkit.correspondence.features.timm_layers",
    "detkit.data.coco",
    "detkit.data.corruptions.transform",
    "detkit.data.pairs.pool",
    "detkit.data.pairs.keypoints",
    "detkit.data.pairs.colour",
    "detkit.data.pairs.folders",
    "detkit.data.pairs.transforms",
    "detkit.data.pairs.warp",
    "detkit.data.points.dataset",
    "detkit.data.pairs.annotated",
    "detkit.data.synthetic",
    "detkit.data.pairs.synthetic",
    "detkit.data.transforms",
    "detkit.evaluation.coco",
    "detkit.evaluation.pck",
    "detkit.evaluation.refined_masks",
)

# The arguments that the program gives to the component of a section.
ADDED = {
    "model": ("num_classes",),
    "schedule": ("lr", "epochs", "steps_per_epoch"),
    "evaluator": ("dataset",),
}


def import_components(imports: Sequence[str] = ()) -> None:
    """Import the modules whose classes configs can name, so that they register themselves.

    Args:
        imports: modules and files beside those of detkit, see `detkit.runtime.imports.import_named`.

    Raises:
        ConfigError: one of `imports` cannot be imported.
    """
    for module in MODULES:
        importlib.import_module(module)
    import_named(imports)


def check_components(config: dict[str, Any]) -> None:
    """Check all components of a run's config and their arguments, before anything is built.

    Args:
        config: as `detkit.config.resolve_config` makes it; datasets may be missing.

    Raises:
        ConfigError: an unknown name, an unknown, missing or wrong argument, or a component that cannot stand in its
            place; the message begins with its path.
    """
    for name in ("model", "schedule", "evaluator"):
        check_value(config[name], Component, name)
    check_value(config["model"], Model, "model")
    for name in ("train", "val"):
        _check_dataset(config["data"][name], f"data.{name}")
        _check_batches(config["model"], config["data"][name], f"data.{name}")
    for number, hook in enumerate(config["hooks"]):
        check_value(hook, Component, f"hooks.{number}")
        _check_place(hook, f"hooks.{number}", "detkit.engine", "a hook")
    for number, transform in enumerate(config["data"]["transforms"]):
        _check_place(transform, f"data.transforms.{number}", "detkit.data", "a transform")
        _check_transform(transform, config["data"]["train"], f"data.transforms.{number}")
    sections = {name: config[name] for name in ("model", "schedule", "evaluator", "data", "hooks")}
    sections["model"] = {key: value for key, value in config["model"].items() if key != "num_classes"}
    for name, section in sections.items():
        check_all(section, name, ADDED.get(name, ()))


def _check_place(config: dict[str, Any], path: str, package: str, wanted: str) -> None:
    """Refuse a component of detkit that is not from the package of those that can stand in this place."""
    made = lookup(config["type"], path)
    inside = made.__module__.startswith(package) and not hasattr(made, "__getitem__")
    if made.__module__.startswith("detkit.") and not inside:
        raise ConfigError(f"{path}: {config['type']} is not {wanted}")


def _check_batches(model: dict[str, Any], data: dict[str, Any] | None, path: str) -> None:
    """Refuse a dataset whose batches the model cannot take, as far as annotations tell."""
    if data is None:
        return
    learner, dataset = lookup(model["type"], "model"), lookup(data["type"], path)
    if not hasattr(learner, "batch_losses") or not hasattr(dataset, "collate"):
        return
    wanted = parameters_of(learner.batch_losses)["batch"].annotation
    given = getattr(dataset.collate, "__self__", None)
    if inspect.isclass(wanted) and inspect.isclass(given) and not issubclass(given, wanted):
        kinds = f"which gives a {given.__name__}: the model takes a {wanted.__name__}"
        raise ConfigError(f"{path}: a {model['type']} cannot learn from a {data['type']}, {kinds}")


def _check_transform(transform: dict[str, Any], data: dict[str, Any] | None, path: str) -> None:
    """Refuse a transform of detkit for single images where there are pairs of images, and the other way round."""
    if data is None:
        return
    made, dataset = lookup(transform["type"], path), lookup(data["type"], path)
    if not made.__module__.startswith("detkit.") or not inspect.isclass(dataset):
        return
    for_pairs = made.__module__.startswith("detkit.data.pairs.")
    if for_pairs != issubclass(dataset, PairSamples):
        kind = "pairs of images" if for_pairs else "single images"
        raise ConfigError(f"{path}: a {transform['type']} changes {kind}, which a {data['type']} does not give")


def _check_dataset(config: dict[str, Any] | None, path: str) -> None:
    """Refuse a component whose class cannot be a dataset; what others lack is found when they are built."""
    if config is None:
        return
    made = lookup(config["type"], path)
    if inspect.isclass(made) and not hasattr(made, "__getitem__"):
        raise ConfigError(f"{path}: a {config['type']} is no dataset; name one such as CocoDataset")


def build_model(
    config: dict[str, Any],
    label_map: LabelMap,
    input_rule: dict[str, Any] | None = None,
    *,
    pretrained: bool = True,
) -> Model:
    """Build the model of a config for the classes of `label_map`.

    Args:
        config: the "model" section; its `num_classes` may be left out.
        input_rule: the fields of an `InputRule` that replaces the model's own.
        pretrained: False reads no files, for a model whose weights are all loaded afterwards: arguments that name
            files (`pretrained`, `teacher`, ...) are left out, datasets and checkpoints as parts refused.

    Raises:
        ConfigError: a `num_classes` that contradicts the label map, or see `detkit.registry.build`.
    """
    import_components()
    stated = config.get("num_classes", len(label_map))
    if stated != len(label_map):
        raise ConfigError(f"model.num_classes: is {stated}, but the data has {len(label_map)} classes; leave it out")
    arguments = {key: value for key, value in config.items() if key != "num_classes"}
    if not pretrained:
        arguments = without_files(arguments, "model")
    model = build(arguments, path="model", num_classes=len(label_map))
    if not isinstance(model, Model):
        raise ConfigError(f"model: a {type(model).__name__} is no model; derive it from detkit.modeling.base.Model")
    model.label_map = label_map
    if input_rule is not None:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in input_rule.items()}
        model.input_rule = InputRule(**fields)
    return model


def build_datasets(config: dict[str, Any]) -> tuple[Dataset, Dataset | None]:
    """The training and the validation dataset (None without one) of the "data" section.

    Raises:
        ConfigError: no training images or no objects in them, or validation data with classes that training has not.
    """
    import_components()
    train = build_dataset(config["train"], "data.train")
    if len(train) == 0:
        raise ConfigError("data.train: the dataset has no images")
    if train.max_objects_per_image == 0:
        raise ConfigError("data.train: no image has an object to learn from: check the annotations and `classes`")
    if config["val"] is None:
        return train, None
    val = build_dataset(config["val"], "data.val")
    known, wanted = (set(zip(d.label_map.category_ids, d.label_map.names, strict=True)) for d in (train, val))
    if unknown := wanted - known:
        raise ConfigError(f"data.val: its classes differ from those of data.train, which lacks {_listed(unknown)}")
    if lacking := known - wanted:
        logger.warning("data.val: lacks the classes %s of data.train: they are not evaluated", _listed(lacking))
    return train, val


def _listed(classes: set[tuple[int, str | None]]) -> str:
    text = ", ".join(f"{name!r} (id {i})" for i, name in sorted(classes, key=lambda pair: pair[0])[:10])
    return text + (f", ... ({len(classes)} in all)" if len(classes) > 10 else "")


def build_dataset(config: dict[str, Any], path: str) -> Dataset:
    """The dataset of a component dict.

    Raises:
        ConfigError: see `detkit.registry.build`, or an object that is no dataset; what it lacks is named.
    """
    return _obeying(Dataset, build(config, path=path), path, "detkit.data.base.ImageDataset has defaults")


def build_evaluator(config: dict[str, Any], dataset: Dataset) -> Evaluator:
    """The evaluator of a whole config for the validation data.

    Raises:
        ConfigError: see `detkit.registry.build`, or an object that is no evaluator; what it lacks is named.
    """
    built = build(config["evaluator"], path="evaluator", dataset=dataset)
    return _obeying(Evaluator, built, "evaluator", "see detkit.structures.protocols.Evaluator")


def _obeying(protocol: type, built: Any, path: str, hint: str) -> Any:
    if isinstance(built, protocol):
        return built
    members = [name for name in dir(protocol) if not name.startswith("_")] + ["__len__", "__getitem__"]
    lacking = ", ".join(name for name in members if hasattr(protocol, name) and not hasattr(built, name))
    raise ConfigError(f"{path}: a {type(built).__name__} is no {protocol.__name__.lower()}, it lacks {lacking}; {hint}")


def build_evaluation(config: dict[str, Any], label_map: LabelMap) -> tuple[Dataset, Evaluator]:
    """The validation dataset and the evaluator of a whole config, for a model whose outputs mean `label_map`.

    Raises:
        ConfigError: no validation data, or none of its categories is known to the model.
    """
    import_components()
    if config["data"]["val"] is None:
        raise ConfigError("data.val: is missing, there is nothing to evaluate on")
    dataset = build_dataset(config["data"]["val"], "data.val")
    unknown = set(dataset.label_map.category_ids) - set(label_map.category_ids)
    if len(unknown) == len(dataset.label_map):
        raise ConfigError(
            f"data.val: none of its category ids {sorted(unknown)} is among those of the model, "
            f"{sorted(label_map.category_ids)}"
        )
    if unknown:
        logger.warning("data.val: the model does not know the category ids %s", sorted(unknown))
    _check_names(label_map, dataset.label_map)
    return dataset, build_evaluator(config, dataset)


def _check_names(of_model: LabelMap, of_data: LabelMap) -> None:
    """One category id must not be two classes; a model whose outputs have no names is taken at its ids."""
    known = dict(zip(of_model.category_ids, of_model.names, strict=True))
    pairs = zip(of_data.category_ids, of_data.names, strict=True)
    clashes = [f"{i} is {known[i]!r} in the model, {name!r} in the data" for i, name in pairs if _clash(known, i, name)]
    if clashes:
        raise ConfigError(f"data.val: category ids mean different classes: {'; '.join(clashes[:5])}")


def _clash(known: dict[int, str | None], category_id: int, name: str | None) -> bool:
    own = known.get(category_id)
    return own is not None and own != f"class_{category_id}" and own != name


def warn_of_crowds(model: Model, dataset: Dataset) -> None:
    """Warn where images have more objects than the model can find."""
    most, limit = dataset.max_objects_per_image, model.max_detections
    if most is not None and limit is not None and most > limit:
        logger.warning(
            "an image of data.train has %d objects, but the model finds at most %d: set model.backbone.num_tokens, "
            "or with proposals model.queries",
            most,
            limit,
        )


def build_loader(
    config: dict[str, Any], dataset: Dataset, *, seed: int, train: Mapping[str, Any] | None = None
) -> DataLoader:
    """The training loader of this process by the "data" section.

    Args:
        train: the "train" section, whose length tells when transforms with `until` end; without it they do not.

    Raises:
        ConfigError: a wrong transform, or a batch size that the dataset cannot fill.
    """
    transforms = [build(transform, path=f"data.transforms.{i}") for i, transform in enumerate(config["transforms"])]
    options = {name: config[name] for name in ("batch_size", "workers", "skip_broken")}
    if train is not None:
        options["epochs"] = epochs_of(train, len(dataset) // (config["batch_size"] * world_size()))
    try:
        loader = train_loader(dataset, transforms, seed=seed, rank=rank(), world_size=world_size(), **options)
    except ValueError as error:
        raise ConfigError(f"data: {error}") from error
    return shielded(loader)


def epochs_of(train: Mapping[str, Any], batches: int) -> float:
    """The epochs of a training by the "train" section, less where `max_steps` ends it before.

    Args:
        batches: of an epoch, in each process.
    """
    steps = -(-batches // train["accumulate"])
    limit = math.inf if train["max_steps"] is None or not steps else train["max_steps"] / steps
    return min(train["epochs"], limit)
