"""normlab: what normalization layers really do to training, with error bars.

Nothing heavy is imported here: `normlab.norms`, `normlab.models`, `normlab.data`, `normlab.engine`
and `normlab.lab` are the rooms, in the order in which they may import one another.
"""

__version__ = "0.1.0"
