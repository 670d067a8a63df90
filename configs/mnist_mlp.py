"""The network of the 2015 paper's first experiment: 784-100-100-100-10 with sigmoids, batch 60.

10,000 steps on MNIST (the paper took 50,000 and does not state its rate): seconds on one core.
Source: arXiv:1502.03167, section 4.1.

    python scripts/train.py --config=configs/mnist_mlp.py --config.norm.name=none
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "mnist",
                "data.batch": 60,
                "model.name": "mlp",
                "model.act": "sigmoid",
                "model.widths": (100, 100, 100),
                "optim.lr": 0.1,
                "train.steps": 10_000,
                "train.eval_every": 10,
                "train.eval_growth": 1.1,
            }
        )
    )
