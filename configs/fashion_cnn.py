"""Three 3x3 convolutions, 16-32-64 with two pools, on Fashion-MNIST: 1,000 steps, 20 s on a core.

python scripts/train.py --config=configs/fashion_cnn.py --config.norm.name=layer_channels
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "fashion_mnist",
                "model.name": "cnn",
                "model.widths": (16, 32, 64),
                "optim.lr": 0.1,
                "train.steps": 1_000,
                "train.eval_every": 100,
            }
        )
    )
