"""A small GPT, 2 blocks of width 64, predicts the next character of Shakespeare's plays.

About a minute on one core. The text is prepared once by `python scripts/data.py
--prepare=tiny_shakespeare --download`. Other norms, their place, norms of queries and keys:

    python scripts/train.py --config=configs/shakespeare_gpt.py --config.norm.name=rms \\
        --config.model.placement=peri --config.model.qk_norm=true
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
                "model.name": "decoder",
                "model.widths": (64,),
                "model.depth": 2,
                "norm.name": "layer",
                "optim.name": "adam",
                "optim.lr": 3e-3,
                "optim.schedule": "cosine",
                "optim.warmup": 50,
                "train.steps": 1000,
                "train.eval_every": 200,
            }
        )
    )
