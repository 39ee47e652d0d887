"""One step on weighted tokens; as a program, one of two JAX processes that take it together.

The model's logits are the same everywhere: log p, with p = (1, 2, 3, 2) / 8.
"""

import json
import os
import pathlib
import sys

# A program that a test starts finds the project as the test did.
if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from minirec.training import TokenTask
from minirec.training.step import TrainStep

# Two tokens a row; a quarter, three quarters and a whole, and what is context only.
TARGETS = np.array([[0, 1], [2, 3], [1, 1], [3, 0]], np.int32)
WEIGHTS = np.array([[0.25, 0.75], [0.0, 3.0], [1.0, 0.0], [0.0, 0.0]], np.float32)


class Unigram(nnx.Module):
    """Knows how often each token comes, and nothing of what came before."""

    def __init__(self):
        self.log_p = nnx.Param(jnp.log(jnp.array([1.0, 2.0, 3.0, 2.0]) / 8))

    def __call__(self, tokens, positions, segment_ids, *, dropout_key=None):
        return jnp.zeros((*tokens.shape, 1))

    def logits(self, hidden):
        return hidden + self.log_p[...]


def step(rows=slice(None), accumulate=1, mesh=None):
    """Returns [loss, its denominator, the gradient's norm] of one step on some of the rows."""
    model = Unigram()
    if mesh is not None:
        everywhere = NamedSharding(mesh, PartitionSpec())
        nnx.update(model, jax.device_put(nnx.state(model), everywhere))
    task = TokenTask(evaluator=dict)
    train_step = TrainStep(
        model,
        nnx.Optimizer(model, optax.sgd(0.0), wrt=nnx.Param),
        task,
        schedule=lambda _: 0.0,
        accumulate=accumulate,
        seed=0,
    )
    empty = np.zeros_like(TARGETS)
    batch = task.inputs(
        {
            "tokens": empty,
            "targets": TARGETS,
            "loss_mask": WEIGHTS,
            "positions": empty,
            "segment_ids": empty + 1,
        }
    )
    inputs = {name: value[rows] for name, value in batch.items()}
    if mesh is not None:
        by_rows = NamedSharding(mesh, PartitionSpec("data"))
        inputs = {
            name: jax.make_array_from_process_local_data(by_rows, value)
            for name, value in inputs.items()
        }
    _, metrics = train_step(train_step.start(), inputs, 0)
    total, denominator = metrics.ratios["loss"]
    return [float(total) / float(denominator), float(denominator), float(metrics.grad_norm)]


def main():
    index, address = int(sys.argv[1]), sys.argv[2]
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=index)
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    print(json.dumps(step(slice(2 * index, 2 * index + 2), mesh=mesh)))


if __name__ == "__main__":
    main()
