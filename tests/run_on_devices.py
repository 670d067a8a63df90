"""Norms on forced host devices against one device: `python tests/run_on_devices.py` prints JSON, a
list of [scheme, way, devices, data, mask, quantity, relative error].

Ways: `jit`, plain jit over a sharded batch (`jit/4`: with stats_batch 4); `shard_map` and `vmap`,
with axis_name; `groups in shard_map`, with axis_index_groups; `vmap in vmap` and `vmap in
shard_map`, a population of two members around it or inside. The mesh has automatic axes: with
explicit ones JAX asks for the sharding of each reshape.
"""

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

if __name__ == "__main__":  # read when jax starts
    given = os.environ.get("XLA_FLAGS", "")  # of tests/conftest.py
    os.environ["XLA_FLAGS"] = f"{given} --xla_force_host_platform_device_count=8"
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from normlab.norms import NORMS, build

SHAPE = (16, 2, 3, 4)
DATA = {"mean 0": (0.0, 1.0), "mean 1e4": (1e4, 1.0), "std 1e20": (0.0, 1e20)}
MASKS = ("none", "uneven", "half")
FULL = ("batch", "layer")
"""What goes all ways. The others share their classes and cores, and half a second of compilation
for each way adds up."""
SCHEMES = [name for name, row in NORMS.items() if name in FULL or "axis_name" in row.arguments]
"""In the others no example depends on another, as in layer norm."""
Outcome = tuple[Any, Any, Any]
"""Gradients of (params, x), output, state left behind."""
Step = Callable[..., Outcome]
"""(variables, x, cotangent, mask) -> outcome."""


def draw(seed: int, loc: float = 0.0, std: float = 1.0, shape=SHAPE) -> np.ndarray:
    return (loc + std * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def mask_of(name: str) -> np.ndarray | None:
    """`uneven`: one of eight devices has nothing; `half`: one of two has nothing."""
    mask = np.ones((*SHAPE[:-1], 1), bool)
    mask[4:6] = mask[9, 1:] = mask[10:12, :, 1] = False
    mask[: 8 if name == "half" else 0] = False
    return None if name == "none" else mask


def step_of(name: str, **options) -> Step:
    """Return the forward and backward pass of a training step; the loss is a sum over examples."""
    norm = build(name, **options).norm(name="norm_1")

    def step(variables, x, cotangent, mask):
        def loss_of(params, x):
            y, moved = norm.apply(
                {**variables, "params": params},
                x,
                train=True,
                mask=mask,
                mutable=["batch_stats", "norm_state"],
            )
            return (y * cotangent).sum(), (y, moved)

        grads, (y, moved) = jax.grad(loss_of, argnums=(0, 1), has_aux=True)(variables["params"], x)
        return grads, y, moved

    return step


def variables_of(name: str, loc: float, std: float, single: Step) -> dict[str, Any]:
    """Parameters and state around 1, the state moved by two steps of `single`."""
    norm = build(name).norm(name="norm_1")
    shapes = jax.eval_shape(lambda x: norm.init(jax.random.key(0), x, train=True), draw(0))
    around = jax.tree.map(lambda v: (1 + draw(1, 0, 0.1, v.shape)).astype(v.dtype), shapes)
    variables = {"params": {}} | around
    for seed in (2, 3):
        moved = single(variables, draw(seed, loc, std), draw(5), mask_of("uneven"))[2]
        variables |= jax.tree.map(np.asarray, moved)
    return variables


def sharded(step: Step, mesh: Mesh) -> Step:
    batch = NamedSharding(mesh, P("data"))
    jitted = jax.jit(step)

    def run(variables, *arrays):
        return jitted(variables, *jax.device_put(arrays, batch))

    return run


def shard_mapped(step: Step, mesh: Mesh) -> Step:
    """JAX adds the gradient of the parameters up, and refuses a state that differs by device."""
    batch = P("data")
    specs = {"in_specs": (P(), batch, batch, batch), "out_specs": ((P(), batch), batch, P())}
    return jax.jit(jax.shard_map(step, mesh=mesh, **specs))


def stateless(step: Step) -> Step:
    """The step without its state, which differs by group of devices."""
    return lambda *given: (*step(*given)[:2], {})


def vmapped(step: Step, parts: int) -> Step:
    """The batch in `parts`, one vmapped call for each; a state that differs by part is refused."""

    def split(v):
        return v.reshape(parts, -1, *v.shape[1:])

    def run(variables, *arrays):
        axes = {"in_axes": (None, 0, 0, 0), "out_axes": ((0, 0), 0, None), "axis_name": "data"}
        parted = jax.tree.map(split, arrays)
        (of_params, of_x), y, moved = jax.vmap(step, **axes)(variables, *parted)
        of_params = jax.tree.map(lambda g: g.sum(0), of_params)
        return (of_params, of_x.reshape(SHAPE)), y.reshape(SHAPE), moved

    return jax.jit(run)


def population(run: Step) -> Step:
    """Two members of which the second has its own data; the outcome is the first's."""

    def members(variables, x, cotangent, mask):
        xs, cotangents = jax.numpy.stack([x, x[::-1]]), jax.numpy.stack([cotangent, cotangent])
        out = jax.vmap(run, in_axes=(None, 0, 0, None))(variables, xs, cotangents, mask)
        return jax.tree.map(lambda v: v[0], out)

    return members


def ways_of(name: str) -> Iterator[tuple[str, int, dict[str, Any], Step]]:
    """Yield (way, devices, options of the reference on one device, the same done that way)."""
    is_full, has_axis = name in FULL, "axis_name" in NORMS[name].arguments
    meshes = {
        n: Mesh(np.array(jax.devices()[:n]), ("data",), axis_types=(AxisType.Auto,))
        for n in ((1, 2, 8) if is_full else (8,))
    }
    for size in ((0, 2, 4, 8) if is_full else (4,)) if has_axis else (0,):
        options = {"stats_batch": size} if size else {}
        for n in (2, 8) if is_full and size in (0, 4) else (8,):
            way = f"jit/{size}" if size else "jit"
            yield way, n, options, sharded(step_of(name, **options), meshes[n])
    step = step_of(name, **({"axis_name": "data"} if has_axis else {}))
    for n in meshes:
        yield "shard_map", n, {}, shard_mapped(step, meshes[n])
    if is_full and has_axis:
        yield "vmap", 8, {}, vmapped(step, 8)
        halves = {"axis_name": "data", "axis_index_groups": ((0, 1, 2, 3), (4, 5, 6, 7))}
        groups = stateless(step_of(name, **halves))
        yield "groups in shard_map", 8, {"stats_batch": 8}, shard_mapped(groups, meshes[8])
        yield "vmap in vmap", 8, {}, jax.jit(population(vmapped(step, 8)))
        yield "vmap in shard_map", 8, {}, shard_mapped(population(step), meshes[8])


def relative(value, reference, unit=None) -> float:
    value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
    size = np.linalg.norm(reference if unit is None else np.asarray(unit, np.float64))
    return float(np.linalg.norm(value - reference) / (size or 1.0))


def quantities(outcome: Outcome, reference: Outcome) -> Iterator[tuple[str, float]]:
    """Yield the relative error of each quantity; of running means in standard deviations."""
    for (path, value), ref in zip(
        jax.tree_util.tree_leaves_with_path(outcome[:2]),
        jax.tree.leaves(reference[:2]),
        strict=True,
    ):
        yield jax.tree_util.keystr(path), relative(value, ref)
    for collection, leaves in outcome[2].items():
        expected = reference[2][collection]
        for leaf in leaves:
            value, ref, unit = leaves[leaf], expected[leaf], None
            if leaf == "mean_lo":
                continue
            if leaf == "mean" and "var" in leaves:
                value = np.float64(value) + np.float64(leaves.get("mean_lo", 0.0))
                ref = np.float64(ref) + np.float64(expected.get("mean_lo", 0.0))
                unit = np.sqrt(expected["var"])
            yield leaf, relative(value, ref, unit)


def errors_of(name: str) -> Iterator[list[Any]]:
    """Yield a line for each way, number of devices, data, mask and quantity of one scheme."""
    singles = {"{}": jax.jit(step_of(name))}
    start = {data: variables_of(name, *moments, singles["{}"]) for data, moments in DATA.items()}
    for way, devices, options, run in ways_of(name):
        single = singles.setdefault(str(options), jax.jit(step_of(name, **options)))
        # no mask is another program: only where the types of shard_map could differ
        for mask in MASKS if name in FULL and (way, devices) == ("shard_map", 8) else MASKS[1:]:
            for data, moments in DATA.items():
                arrays = (draw(4, *moments), draw(5), mask_of(mask))
                out, expected = (f(start[data], *arrays) for f in (run, single))
                for quantity, error in quantities(out, expected):
                    yield [name, way, devices, data, mask, quantity, error]


if __name__ == "__main__":
    print(json.dumps([line for name in SCHEMES for line in errors_of(name)]))
