"""normlab: what normalization layers really do to training, with error bars.

Nothing heavy is imported here. docs/architecture.md lists the rooms in the order in which they may
import one another.
"""

__version__ = "0.1.0"
