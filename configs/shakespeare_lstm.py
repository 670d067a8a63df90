"""An LSTM of 100 units predicts the next character of Shakespeare's plays.

About a minute on one core. The text is prepared once by `python scripts/data.py
--prepare=tiny_shakespeare --download`. Statistics of each step, in batch norm:

    python scripts/train.py --config=configs/shakespeare_lstm.py --config.norm.name=batch \\
        --config.init.norm_scale=0.1
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "tiny_shakespeare",
                "data.batch": 16,
                "model.name": "rnn",
                "model.cell": "lstm",
                "model.widths": (100,),
                "norm.name": "none",
                "optim.name": "adam",
                "optim.lr": 3e-3,
                "optim.schedule": "cosine",
                "train.steps": 1000,
                "train.eval_every": 200,
            }
        )
    )
