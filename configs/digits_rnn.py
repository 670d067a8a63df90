"""A recurrent network, GRU 32, over scikit-learn's 8x8 digits row by row: seconds on one core.

About 95 % of the 600 test images. Sequences of 4 to 20 steps instead of 8:

    python scripts/train.py --config=configs/digits_rnn.py --config.data.length=12 \\
        --config.data.length_spread=8 --config.norm.name=layer
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "digits",
                "data.batch": 16,
                "model.name": "rnn",
                "model.widths": (32,),
                "train.steps": 600,
                "train.eval_every": 200,
                "optim.lr": 0.1,
            }
        )
    )
