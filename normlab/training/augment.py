"""Augmentation of training images, inside the compiled step.

Training batches alone are augmented: never the first images that a start sees, those that
statistics are re-estimated on, nor those that are scored.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

PAD = 4
"""Pixels of zeros around an image before it is cropped to its size again."""
STREAM = 2**32 - 1
"""Keeps the keys apart from those of the noise, which are numbered by the step: no step is this."""


def augment_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Return the key of one step's augmentation, for a member's key."""
    return jax.random.fold_in(jax.random.fold_in(key, STREAM), step)


def crop_and_flip(key: jax.Array, x: jax.Array) -> jax.Array:
    """Return each image of x [N, H, W, C] shifted by -4..4 rows and columns, zeros moving in, then
    mirrored left-right with probability 1/2.

    All draws are uniform and depend on the key alone. These are the random crop after padding by 4
    and the flip of arXiv 1512.03385, section 4.2.
    """
    # Products with matrices of one 1 a row (none where zeros move in) are exact at full precision.
    # Times are of 128 images of 32x32x3 gathered from uint8 in a scan, one of 2 cores, 2026-11-20.
    # These products take 0.9 ms alone (the mode of a CPU), 1.3 ms a mapped member. Two
    # take_along_axis take 1.4 and 0.3 ms; one dynamic_slice an example 1.9 and 1.2 ms. The batch
    # alone takes 0.2 ms.
    n, height, width, _ = x.shape
    key_shift, key_flip = jax.random.split(key)
    down, right = jax.random.randint(key_shift, (2, n, 1), -PAD, PAD + 1)
    is_flipped = jax.random.bernoulli(key_flip, shape=(n, 1))
    columns = jnp.arange(width)
    columns = jnp.where(is_flipped, columns[::-1], columns)
    take_rows = jax.nn.one_hot(jnp.arange(height) - down, height, dtype=x.dtype)
    take_columns = jax.nn.one_hot(columns - right, width, dtype=x.dtype)
    y = jnp.einsum("nih,nhwc->niwc", take_rows, x, precision="highest")
    return jnp.einsum("njw,niwc->nijc", take_columns, y, precision="highest")
