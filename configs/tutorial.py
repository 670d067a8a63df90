"""The network of many a first lesson: 784 - dense 64 - batch norm - ReLU - dense 10 on MNIST.

Everything as Keras has it by default: batches of 32, Adam at 1e-3, 10 epochs. About a minute on
one core. `python scripts/bench.py --suite=keras_parity` compares it with Keras step by step.

    python scripts/train.py --config=configs/tutorial.py --config.norm.name=none
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest

EPOCH = 55_000 // 32
"""Steps; the last partial batch is dropped."""


def get_config() -> ConfigDict:
    return ConfigDict(
        nest(
            defaults()
            | {
                "data.name": "mnist",
                "data.batch": 32,
                "model.name": "mlp",
                "model.act": "relu",
                "model.widths": (64,),
                "norm.name": "batch",
                "norm.epsilon": 1e-3,
                "norm.momentum": 0.99,
                "init.kernel": "glorot_uniform",
                "optim.name": "adam_keras",
                "optim.lr": 1e-3,
                "optim.momentum": 0.9,
                "train.steps": 10 * EPOCH,
                "train.eval_every": EPOCH,
            }
        )
    )
