"""ResNet-20 on CIFAR-10, the recipe of its authors: 64,000 steps of batch 128, for an accelerator.

python scripts/train.py --config=configs/cifar10_resnet.py --config.norm.name=group
python scripts/train.py --config=configs/cifar10_resnet.py --config.model.block=pre
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "cifar10",
                "data.batch": 128,
                "data.augment": "crop_flip",
                "model.name": "resnet",
                "model.widths": (16, 32, 64),
                "model.depth": 20,
                "optim.name": "momentum",
                "optim.momentum": 0.9,
                "optim.lr": 0.1,
                "optim.weight_decay": 1e-4,
                "optim.schedule": "step",
                "train.steps": 64_000,
                "train.eval_every": 1_000,
            }
        )
    )
