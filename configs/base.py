"""The settings of every run; normlab/settings/table.py has their defaults, units and reasons.

A network of three dense layers on scikit-learn's digits, 300 steps: about a second on one core.

    python scripts/train.py --config=configs/base.py --config.optim.lr=0.3
"""

from ml_collections import ConfigDict

from normlab.settings import defaults, nest


def get_config() -> ConfigDict:
    return ConfigDict(nest(defaults()))
