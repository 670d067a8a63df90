"""Three forms of one convolution: x [N, H, W, C] * kernel [k, k, C, F], k odd, padding (k - 1) / 2.

The output is [N, ceil(H / stride), ceil(W / stride), F]: for stride 1 XLA's SAME, for larger
strides PyTorch's padding = (k - 1) / 2. The forms differ in speed and in the order of the sums:

lax      XLA's own operation: for accelerators. Its derivatives are slow on a CPU (60 times, 16x16).
cpu      each shape as a CPU runs it fastest, derivatives too; slow under vmap over kernels.
patches  shifted slices and one matrix product: also under vmap over kernels. Moves k^2 times x.

Figures below: float32, one core of an AMD EPYC, inside `lax.scan`, jax 0.10.2, 2026-11-20.
"""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

Padding = tuple[int, int]
"""Zeros before the first row or column and after the last."""
CACHE_BYTES = 640 * 1024
"""What the kernel gradient may take at once of x and dy: 8.6 ms instead of 14, [128, 8, 8, 64]."""
FEW_CHANNELS = 8
TINY = 4
"""H * W up to which a convolution is one matrix product with zeros in it: 61 us instead of 105."""


def conv_lax(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the convolution by XLA's own operation."""
    side = (kernel.shape[0] - 1) // 2
    return convolve(x, kernel, (side, side), (side, side), stride)


def convolve(
    x: jax.Array, kernel: jax.Array, of_h: Padding, of_w: Padding, stride: int = 1
) -> jax.Array:
    """Return XLA's convolution with these paddings (low, high) of H and W."""
    strides, axes = (stride, stride), ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, [of_h, of_w], dimension_numbers=axes)


def conv_patches(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the convolution as slices of x, side by side, times the kernel as a matrix."""
    k, _, channels, features = kernel.shape
    n, height, width, _ = x.shape
    side = (k - 1) // 2
    padded = jnp.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
    shifted = [
        padded[:, i : i + height : stride, j : j + width : stride, :]
        for i in range(k)
        for j in range(k)
    ]
    columns = jnp.concatenate(shifted, axis=-1)
    out = columns.reshape(-1, k * k * channels) @ kernel.reshape(-1, features)
    return out.reshape(*columns.shape[:3], features)


def conv_cpu(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Return the convolution in the form that suits its shape on a CPU.

    XLA:CPU runs a plain convolution at 88 GFLOP/s (patches: 5 to 81), the ones that its derivatives
    are made of at 1 to 2. So the derivatives are plain convolutions too.
    """
    side = (kernel.shape[0] - 1) // 2
    padding = side, side
    if stride > 1:
        x, kernel, padding = by_blocks(x, kernel, stride)
    if x.shape[1] * x.shape[2] <= TINY:
        return conv_dense(x, kernel, padding)
    return conv_same(x, kernel, padding)


def by_blocks(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, jax.Array, Padding]:
    """Return x, kernel and padding of the convolution without stride that equals one with it.

    The stride x stride pixels of a block become channels; kernel rows outside of it are 0.
    """
    k, _, channels, features = kernel.shape
    n, height, width, _ = x.shape
    side, rows, columns = (k - 1) // 2, -(-height // stride), -(-width // stride)
    before, after = -(-side // stride), side // stride
    size = before + after + 1
    ends = (stride * before - side, stride * (after + 1) - 1 - side)
    kernel = jnp.pad(kernel, (ends, ends, (0, 0), (0, 0)))
    kernel = kernel.reshape(size, stride, size, stride, channels, features)
    x = jnp.pad(x, ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0)))
    x = x.reshape(n, rows, stride, columns, stride, channels)
    deep = stride * stride * channels
    return (
        x.transpose(0, 1, 3, 2, 4, 5).reshape(n, rows, columns, deep),
        kernel.transpose(0, 2, 1, 3, 4, 5).reshape(size, size, deep, features),
        (before, after),
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_same(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Return the convolution that keeps H and W: padding is (low, high), low + high = k - 1."""
    if x.shape[-1] < FEW_CHANNELS and x.shape[2] % 2 == 0:
        return conv_pairs(x, kernel, padding)
    return convolve(x, kernel, padding, padding)


def conv_dense(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Return it as x [N, H W C] times a matrix [H W C, H W F] of the kernel's values."""
    n, height, width, channels = x.shape
    matrix = spread(spread(kernel, 0, height, padding), 2, width, padding)
    # [H (in), H (out), W (in), W (out), C, F]
    matrix = matrix.transpose(0, 2, 4, 1, 3, 5)
    inputs = height * width * channels
    out = x.reshape(n, inputs) @ matrix.reshape(inputs, -1)
    return out.reshape(n, height, width, -1)


def spread(kernel: jax.Array, axis: int, size: int, padding: Padding) -> jax.Array:
    """Return `kernel` with its axis of taps replaced by [size inputs, size outputs].

    out[i, o] = kernel[i - o + low], 0 where there is no such tap.
    """
    low, high = padding
    wide = [(0, 0)] * kernel.ndim
    wide[axis] = (max(size - 1 - low, 0), max(size - 1 - high, 0))
    padded, first = jnp.pad(kernel, wide), max(low, size - 1)
    columns = [
        lax.slice_in_dim(padded, first - o, first - o + size, axis=axis) for o in range(size)
    ]
    return jnp.stack(columns, axis + 1)


def conv_pairs(x: jax.Array, kernel: jax.Array, padding: Padding) -> jax.Array:
    """Return it with two neighbours in W as channels of one pixel, and two of the output likewise.

    Half of the expanded kernel is 0, but narrow images go through faster: 824 us instead of 3,318
    (patches 1,721), [64, 28, 28, 1] -> 16.
    """
    n, height, width, channels = x.shape
    k, features = kernel.shape[0], kernel.shape[-1]
    low, high = padding
    before, after = -(-low // 2), -(-high // 2)
    size = before + after + 1
    # Output o of a pair takes its tap j from input o + j - low, counted from the pair's first.
    pair = [
        jnp.pad(
            kernel,
            ((0, 0), (2 * before - low + o, 2 * size - k - (2 * before - low + o)), (0, 0), (0, 0)),
        )
        for o in range(2)
    ]
    wide = jnp.stack(pair, axis=3).reshape(k, size, 2 * channels, 2 * features)
    pairs = x.reshape(n, height, width // 2, 2 * channels)
    return convolve(pairs, wide, padding, (before, after)).reshape(n, height, width, features)


def _forward(x, kernel, padding):
    return conv_same(x, kernel, padding), (x, kernel)


def _backward(padding, residuals, dy):
    x, kernel = residuals
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    return conv_same(dy, turned, padding[::-1]), kernel_gradient(x, dy, padding)


conv_same.defvjp(_forward, _backward)


def kernel_gradient(x: jax.Array, dy: jax.Array, padding: Padding) -> jax.Array:
    """Return dk[i, j, c, f] = sum over n, h, w of x[n, h + i - low, w + j - low, c] dy[n, h, w, f].

    It is a plain convolution: its batch are the channels of x, its channels are the examples, its
    kernel is dy. As many examples are taken at once as fit a cache.
    """
    n, features = x.shape[0], dy.shape[-1]
    count = examples_at_once(n, math.prod(x.shape[1:]) + math.prod(dy.shape[1:]))

    def gradient(x, dy):
        return convolve(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), padding, padding)

    def add(total, part):
        return total + gradient(*part), None

    if count == n:
        out = gradient(x, dy)
    else:
        parts = tuple(a.reshape(n // count, count, *a.shape[1:]) for a in (x, dy))
        taps = sum(padding) + 1
        zero = jnp.zeros((x.shape[-1], taps, taps, features), dy.dtype)
        out = lax.scan(add, zero, parts)[0]
    return out.transpose(1, 2, 0, 3)


def examples_at_once(n: int, values: int) -> int:
    """Return the largest divisor of n, from 8 to n / 2, of which float32 examples fit CACHE_BYTES.

    With all of them at once, outside of a loop, XLA computes x again for its transposition. A step
    of a small CNN then takes 1.03 instead of 1.01 ms.

    >>> examples_at_once(128, 8 * 8 * (64 + 64)), examples_at_once(64, 4 * 4 * (16 + 32))
    (16, 32)
    """
    divisors = [d for d in range(8, n // 2 + 1) if n % d == 0] or [n]
    fitting = [d for d in divisors if 4 * d * values <= CACHE_BYTES]
    return max(fitting) if fitting else min(divisors)


FORMS = {"patches": conv_patches, "lax": conv_lax, "cpu": conv_cpu}
