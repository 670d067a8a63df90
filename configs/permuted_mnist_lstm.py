"""LSTM of 100 units over MNIST pixel by pixel, 784 steps in one random order: for an accelerator.

arXiv:1603.09025 has 95.4 % with batch norm and 90.2 % without. The first steps, on a CPU:

    python scripts/train.py --config=configs/permuted_mnist_lstm.py --config.train.steps=300 \\
        --config.train.eval_every=100
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "mnist",
                "data.batch": 64,
                "data.patch": 1,
                "data.permuted": True,
                "model.name": "rnn",
                "model.cell": "lstm",
                "model.widths": (100,),
                "norm.name": "batch",
                "init.norm_scale": 0.1,
                "optim.name": "adam",
                "optim.lr": 1e-3,
                "train.steps": 100_000,
                "train.eval_every": 2_000,
            }
        )
    )
