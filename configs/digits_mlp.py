"""A dense network, 3 x 100 with ReLU, on scikit-learn's 8x8 digits: about a second on one core.

About 97 % of the 600 test images.

    python scripts/train.py --config=configs/digits_mlp.py --config.norm.name=layer
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "digits",
                "model.name": "mlp",
                "model.widths": (100, 100, 100),
                "optim.lr": 0.1,
            }
        )
    )
