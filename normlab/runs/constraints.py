"""What settings of data, batches and measurements may not be together."""

from __future__ import annotations

from normlab.data.table import DATASETS
from normlab.diagnostics.names import probe_names
from normlab.models.table import MODELS
from normlab.runs.errors import ConfigError
from normlab.settings import Config


def check_training(config: Config) -> None:
    """Raise ConfigError for examples, batches, augmentation or probes that cannot be."""
    _check_examples(config)
    _check_batch(config)
    _check_late(config)
    _check_augment(config)
    _check_probes(config)


def training_examples(config: Config) -> int:
    return config["data.train_examples"] or DATASETS[config["data.name"]].train


def _check_examples(config: Config) -> None:
    name = config["data.name"]
    sizes = {"train": DATASETS[name].train, "validation": DATASETS[name].validation}
    for part, size in sizes.items():
        asked = config[f"data.{part}_examples"]
        if asked > size:
            raise ConfigError(
                f"data.{part}_examples = {asked} is larger than the {size} {part} examples of "
                f"{name}; use at most {size}"
            )
    seen, examples = config["eval.train_examples"], training_examples(config)
    if config["data.label_noise"] and 0 < seen < examples:
        raise ConfigError(
            f"eval.train_examples = {seen} of {examples} with label noise: use 0 or all of them"
        )
    if config["train.stop_at_loss"] and not seen:
        raise ConfigError(
            f"train.stop_at_loss = {config['train.stop_at_loss']} needs training examples to be "
            "measured on; set eval.train_examples"
        )


def _check_late(config: Config) -> None:
    late, batch = config["train.late_batch"], config["data.batch"]
    if late > batch:
        raise ConfigError(
            f"train.late_batch = {late} is larger than data.batch = {batch}; use at most that"
        )
    if late and config["norm.stats_batch"]:
        raise ConfigError(
            f"train.late_batch = {late} and norm.stats_batch = {config['norm.stats_batch']}: only "
            "one of them can be set"
        )


def _check_probes(config: Config) -> None:
    try:
        probe_names(config["eval.probes"])
    except ValueError as error:
        raise ConfigError(f"eval.probes = {config['eval.probes']!r}: {error}") from error
    seen = min(config["eval.stats_examples"], training_examples(config))
    if config["eval.probes"] and seen < config["data.batch"]:
        raise ConfigError(
            f"eval.probes look at a batch of the first eval.stats_examples = {seen} training "
            f"images, data.batch is {config['data.batch']}; use at least that many"
        )


def _check_batch(config: Config) -> None:
    batch, stats = config["data.batch"], config["norm.stats_batch"]
    examples = training_examples(config)
    if batch > examples:
        raise ConfigError(
            f"data.batch = {batch} is larger than the {examples} training examples of "
            f"{config['data.name']}; use at most {examples}"
        )
    if stats and batch % stats:
        legal = [b for b in range(1, batch + 1) if batch % b == 0]
        raise ConfigError(
            f"norm.stats_batch = {stats} does not divide data.batch = {batch}; use one of {legal}"
        )
    if config["eval.batch_statistics"] and stats and config["eval.batch"] % stats:
        raise ConfigError(
            f"eval.batch = {config['eval.batch']} is not a multiple of norm.stats_batch = {stats}, "
            "which eval.batch_statistics needs; use one that is"
        )
    if config["optim.warmup"] >= config["train.steps"] and config["optim.warmup"]:
        raise ConfigError(
            f"optim.warmup = {config['optim.warmup']} must be below train.steps = "
            f"{config['train.steps']}"
        )


def _check_augment(config: Config) -> None:
    name, model = config["data.name"], config["model.name"]
    height, width, _ = DATASETS[name].shape
    if config["data.augment"] == "none":
        return
    if not MODELS[model].is_convolutional:
        legal = ", ".join(m for m, row in MODELS.items() if row.is_convolutional)
        raise ConfigError(
            f"data.augment = 'crop_flip' needs images, {model!r} is a network without space; use "
            f"none, or one of {legal}"
        )
    if min(height, width) < 8:
        raise ConfigError(
            f"data.augment = 'crop_flip' shifts by up to 4 pixels, the {height} x {width} images "
            f"of {name} are smaller than 8 x 8; use none"
        )
