"""Three 3x3 convolutions, 16-32-64 with two pools, on 8x8 digits: about a second on one core.

About 98 % of the 600 test images.

    python scripts/train.py --config=configs/digits_cnn.py --config.norm.name=group
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "digits",
                "model.name": "cnn",
                "model.widths": (16, 32, 64),
                "optim.lr": 0.1,
            }
        )
    )
