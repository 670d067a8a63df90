"""ResNet-50 on ImageNet, the recipe of the paper on group norm: 8 workers with batches of 32.

python scripts/train.py --config=configs/imagenet_resnet50.py --config.norm.name=group
python scripts/train.py --config=configs/imagenet_resnet50.py --config.norm.stats_batch=2 \\
    --config.data.batch=16 --config.optim.lr=0.00625 --config.train.steps=7944700

Source: arXiv:1803.08494, section 4.1. A worker has N = 32, 16, 8, 4 or 2 examples and its own
statistics: norm.stats_batch = N, data.batch = 8 N, rate 0.1 N / 32. 100 epochs, with a tenth of the
rate from epochs 30, 60 and 90 on; group norm has 32 groups.
Deviations: 10,000 training images are kept for validation. Images are cut from their middle and
shifted by up to 4 pixels, instead of scaled and cut at random. Weight decay is on kernels alone, in
the paper also on scales and biases. Test images are scored once, after the last step; the paper has
the median of the last 5 epochs. Prepare the images with scripts/data.py --prepare=imagenet.
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest

WORKERS, N, EPOCHS = 8, 32, 100
EPOCH = 1_271_167 // (WORKERS * N)
"""Steps of an epoch."""


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "imagenet",
                "data.batch": WORKERS * N,
                "data.augment": "crop_flip",
                "model.name": "resnet50",
                "model.widths": (64, 128, 256, 512),
                "norm.name": "batch",
                "norm.stats_batch": N,
                "norm.groups": 32,
                "norm.momentum": 0.9,
                "optim.name": "momentum",
                "optim.momentum": 0.9,
                "optim.lr": 0.1 * N / 32,
                "optim.weight_decay": 1e-4,
                "optim.schedule": "step_three",
                "train.steps": EPOCHS * EPOCH,
                "train.eval_every": EPOCH,
                "host.width": 1,
            }
        )
    )
