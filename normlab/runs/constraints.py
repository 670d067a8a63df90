"""What the settings of one run may not be together.

Each check yields one message for each problem: the value, the limit and the way out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from normlab.data import DATASETS, sequence_shape
from normlab.diagnostics.names import probe_names
from normlab.layers.table import find_kernel
from normlab.models.outside import check_network
from normlab.models.row import Shape
from normlab.models.table import MODELS
from normlab.norms.table import Norm, find_norm
from normlab.runs.errors import ConfigError
from normlab.settings import SETTINGS, Config


def check_constraints(config: Config) -> None:
    """Raise ConfigError for the first problem of a complete configuration."""
    for check in (
        _kind,
        _examples,
        _sequence,
        _batch,
        _late_batch,
        _augment,
        _diagnostics,
        _network,
        _dtype,
    ):
        for message in check(config):
            raise ConfigError(message)


def training_examples(config: Config) -> int:
    return config["data.train_examples"] or DATASETS[config["data.name"]].train


def example_shape(config: Config) -> Shape:
    """Return the shape of an example as the network takes it: (H, W, C), or (T, D + 1, 1) where
    images become sequences."""
    row = DATASETS[config["data.name"]]
    if row.kind != "images" or not MODELS[config["model.name"]].has_time:
        return row.shape
    kind = ("data.length", "data.length_spread", "data.patch", "data.length_law")
    return sequence_shape(row.shape, *(config[name] for name in kind))


def divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def _examples(config: Config) -> Iterator[str]:
    row = DATASETS[config["data.name"]]
    for part, size in (("train", row.train), ("validation", row.validation)):
        asked = config[f"data.{part}_examples"]
        if asked > size:
            yield (
                f"data.{part}_examples = {asked} is larger than the {size} {part} examples of "
                f"{config['data.name']}; use at most {size}"
            )
    seen, examples = config["eval.train_examples"], training_examples(config)
    if config["data.label_noise"] and 0 < seen < examples:
        yield (f"eval.train_examples = {seen} of {examples} with label noise: use 0 or all of them")
    if config["train.stop_at_loss"] and not seen:
        yield (
            f"train.stop_at_loss = {config['train.stop_at_loss']} needs training examples to be "
            "measured on; set eval.train_examples"
        )


def _kind(config: Config) -> Iterator[str]:
    name, model = config["data.name"], config["model.name"]
    kind, kinds = DATASETS[name].kind, MODELS[model].kinds
    if kind not in kinds:
        legal = ", ".join(m for m, row in MODELS.items() if kind in row.kinds)
        yield (
            f"model.name = {model!r} takes {' or '.join(kinds)}, {name} is {kind}; use one of "
            f"{legal}, or other data"
        )
    if DATASETS[name].on_disk and MODELS[model].has_time:
        yield (
            f"model.name = {model!r} takes sequences, made of all images in memory, and {name} "
            "stays on the disk; use a network that takes images"
        )
    for setting in ("data.length", "data.length_spread", "data.patch", "eval.long"):
        if kind != "images" and config[setting]:
            yield f"{setting} = {config[setting]}: {name} has lengths of its own; use 0"
    if kind != "images" and config["data.permuted"]:
        yield f"data.permuted = True takes rows or patches of images, {name} is {kind}; use False"
    if kind != "images" and config["data.length_law"] == "natural":
        yield f"data.length_law = 'natural' takes columns of images, {name} is {kind}; use even"
    if kind == "text" and config["data.label_noise"]:
        yield (
            f"data.label_noise = {config['data.label_noise']}: the labels of {name} are its next "
            "tokens; use 0"
        )
    if kind == "text" and config["norm.least"]:
        yield f"norm.least = {config['norm.least']}: all steps of {name} are valid; use 0"
    norm = config["norm.name"]
    mixes_steps = config["norm.time"] == "sequence" and not find_norm(norm).is_per_sample
    if kind == "text" and mixes_steps:
        yield (
            f"norm.time = 'sequence' with norm.name = {norm!r}: statistics of all steps would show "
            f"{model!r} the tokens that it has to predict; use norm.time=step"
        )


def _sequence(config: Config) -> Iterator[str]:
    name = config["data.name"]
    patch, (height, width, _) = config["data.patch"], DATASETS[name].shape
    if patch and (height % patch or width % patch):
        sides = [n for n in divisors(height) if width % n == 0]
        yield (
            f"data.patch = {patch} does not divide the {height} x {width} images of "
            f"{config['data.name']}; use one of {sides}"
        )
    length, spread = config["data.length"], config["data.length_spread"]
    for setting in ("data.length", "eval.long"):
        if patch and config[setting]:
            yield (
                f"data.patch = {patch} and {setting} = {config[setting]}: only rows can be "
                "resampled to a length; set one of them to 0"
            )
        if config["data.permuted"] and config[setting]:
            yield (
                f"data.permuted = True and {setting} = {config[setting]}: between permuted steps "
                f"nothing can be resampled; use data.permuted=False or {setting}=0"
            )
    ordered = ("data.length", "data.length_spread", "data.patch", "data.permuted", "eval.long")
    for setting in ordered:
        if config["data.length_law"] == "natural" and config[setting]:
            yield (
                f"{setting} = {config[setting]} with data.length_law = 'natural': the columns of "
                f"an image have a length of their own; use {SETTINGS[setting].default}"
            )
    if spread and spread >= length:
        yield (
            f"data.length_spread = {spread} leaves nothing of sequences of data.length = {length}; "
            f"use at most {max(length - 1, 0)}"
        )


def _batch(config: Config) -> Iterator[str]:
    batch, stats = config["data.batch"], config["norm.stats_batch"]
    examples, steps = training_examples(config), config["train.steps"]
    if batch > examples:
        yield (
            f"data.batch = {batch} is larger than the {examples} training examples of "
            f"{config['data.name']}; use at most {examples}"
        )
    if stats and batch % stats:
        yield (
            f"norm.stats_batch = {stats} does not divide data.batch = {batch}; "
            f"use one of {divisors(batch)}"
        )
    if stats and config["norm.time"] == "sequence":
        yield (
            f"norm.stats_batch = {stats} groups examples, and norm.time = 'sequence' puts all "
            "steps of all examples together; use norm.time=step"
        )
    if config["eval.batch_statistics"] and stats and config["eval.batch"] % stats:
        yield (
            f"eval.batch = {config['eval.batch']} is not a multiple of norm.stats_batch = {stats}, "
            "which eval.batch_statistics needs; use one that is"
        )
    if config["optim.warmup"] and config["optim.warmup"] >= steps:
        yield f"optim.warmup = {config['optim.warmup']} must be below train.steps = {steps}"


def _late_batch(config: Config) -> Iterator[str]:
    late, batch, stats = (
        config[name] for name in ("train.late_batch", "data.batch", "norm.stats_batch")
    )
    if late > batch:
        yield f"train.late_batch = {late} is larger than data.batch = {batch}; use at most that"
    if late and stats:
        yield (
            f"train.late_batch = {late} and norm.stats_batch = {stats}: only one of them can be set"
        )


def _augment(config: Config) -> Iterator[str]:
    name, model = config["data.name"], config["model.name"]
    height, width, _ = DATASETS[name].shape
    if config["data.augment"] == "none":
        return
    if not MODELS[model].is_convolutional:
        legal = ", ".join(m for m, row in MODELS.items() if row.is_convolutional)
        yield (
            f"data.augment = 'crop_flip' needs images, {model!r} is a network without space; use "
            f"none, or one of {legal}"
        )
    if min(height, width) < 8:
        yield (
            f"data.augment = 'crop_flip' shifts by up to 4 pixels, the {height} x {width} images "
            f"of {name} are smaller than 8 x 8; use none"
        )


def _diagnostics(config: Config) -> Iterator[str]:
    if config["eval.probes"] and MODELS[config["model.name"]].has_time:
        yield (
            f"eval.probes = {config['eval.probes']!r} cannot look into {config['model.name']!r}, "
            "whose layers see one step after another; use eval.probes=''"
        )
    try:
        probe_names(config["eval.probes"])
    except ValueError as error:
        yield f"eval.probes = {config['eval.probes']!r}: {error}"
    seen = min(config["eval.stats_examples"], training_examples(config))
    if config["eval.probes"] and seen < config["data.batch"]:
        yield (
            f"eval.probes look at a batch of the first eval.stats_examples = {seen} training "
            f"images, data.batch is {config['data.batch']}; use at least that many"
        )


def _network(config: Config) -> Iterator[str]:
    row, image = find_norm(config["norm.name"]), example_shape(config)
    model, shapes = MODELS[config["model.name"]], []
    try:
        if model.check:
            model.check(config, row)
        check_network(config, image)
        shapes = model.shapes(config, image)
    except ValueError as error:
        yield str(error)
    for i, shape in enumerate(shapes, 1):
        yield from _layer(config, row, i, shape)
    if "shift" in find_kernel(config["norm.kernel"]).invariant and not model.is_convolutional:
        fan_ins = [math.prod(image), *(channels for _, _, channels in shapes[:-1])]
        if min(fan_ins) < 2:
            yield (
                f"norm.kernel = {config['norm.kernel']!r} needs at least 2 inputs to every layer, "
                f"model.widths = {config['model.widths']} gives 1; use wider layers"
            )
    if config["model.placement"] == "peri" and not model.has_time:
        yield (
            f"model.placement = 'peri' has a branch between two norms, {config['model.name']!r} "
            "has none; use pre or post, or model.name=encoder"
        )
    if config["model.placement"] == "post" and shapes:
        yield from _after_the_activation(config, row, shapes[-1][2])


def _dtype(config: Config) -> Iterator[str]:
    if config["model.dtype"] == "float32":
        return
    given = f"model.dtype = {config['model.dtype']!r}"
    if MODELS[config["model.name"]].has_time:
        yield (
            f"{given}: {config['model.name']!r} has products of its own, which would stay "
            "float32; use float32, or a network of images"
        )
    for setting, plain in (("norm.kernel", "none"), ("eval.probes", "")):
        if config[setting] != plain:
            yield (
                f"{given} and {setting} = {config[setting]!r}: what that computes needs float32; "
                f"use float32, or {setting}={plain or repr(plain)}"
            )


def _layer(config: Config, row: Norm, number: int, shape: Shape) -> Iterator[str]:
    height, width, channels = shape
    groups = config["norm.groups"] if row.grouped else 1
    if channels % groups:
        yield (
            f"norm.groups = {groups} does not divide the {channels} channels of layer {number}; "
            f"use one of {divisors(channels)}"
        )
    examples = config["norm.stats_batch"] or config["data.batch"]
    sizes = {"N": examples, "H": height, "W": width, "C": channels, "C/G": channels // groups}
    values = math.prod(sizes[letter] for letter in row.over)
    if row.needs_space and height * width < 2:
        values = 1
    if row.over and values < 2:
        yield (
            f"norm.name = {config['norm.name']!r}: a statistic of layer {number} would be made of "
            f"{values} value (H, W, C = {height}, {width}, {channels}), at least 2 are needed; use "
            "a larger batch or a scheme that averages over more axes"
        )


def _after_the_activation(config: Config, row: Norm, channels: int) -> Iterator[str]:
    name, model = config["norm.name"], config["model.name"]
    if row.act:
        yield (
            f"model.placement = 'post': norm {name!r} replaces the activation too and can only "
            "take its place; use placement 'pre'"
        )
    is_per_channel = row.needs_space or (row.grouped and config["norm.groups"] == channels)
    if MODELS[model].ends_in_global_mean and row.centered and is_per_channel:
        yield (
            f"model.placement = 'post' puts norm {name!r} right before the global mean of "
            f"{model!r}, whose output is then a constant; use placement 'pre'"
        )
