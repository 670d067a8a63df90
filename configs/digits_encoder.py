"""A transformer encoder, 2 blocks of width 32, over scikit-learn's 8x8 digits row by row.

Seconds on one core. Sequences of 4 to 20 steps instead of 8, with statistics over all tokens:

    python scripts/train.py --config=configs/digits_encoder.py --config.data.length=12 \\
        --config.data.length_spread=8 --config.norm.time=sequence
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
                "model.name": "encoder",
                "model.widths": (32,),
                "model.depth": 2,
                "optim.name": "adam",
                "optim.lr": 3e-3,
                "train.steps": 600,
                "train.eval_every": 200,
            }
        )
    )
