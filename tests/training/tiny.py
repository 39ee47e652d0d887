"""A tiny model, task and loader, whose run is a real one in every other respect."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from minirec.training import OptimizerConfig, Stage, TrainConfig, train

WIDTH = 8


class TinyModel(nnx.Module):
    """A two-layer network with stacked norms, dropout by key, and state that is no parameter."""

    def __init__(self, *, rngs: nnx.Rngs, width: int = WIDTH):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (2, width, width)) * 0.3)
        self.norm_scale = nnx.Param(jnp.ones((2, width)))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
        self.layers = nnx.List([nnx.Linear(width, 1, rngs=rngs)])

    def __call__(self, x, key=None):
        for i in range(2):
            x = jnp.tanh(x @ self.kernel[i]) * self.norm_scale[i]
        if key is not None:
            x = x * jax.random.bernoulli(key, 0.9, x.shape) / 0.9
        return self.layers[0](x)[:, 0]


class TinyTask:
    """Squared error, weighted; the model's quality is the negative error on fixed points."""

    select_metric = "quality"

    def __init__(self, dropout: bool = True):
        self.dropout = dropout

    def loss(self, model, batch, *, key):
        model.calls[...] += 1
        error = model(batch["x"], key if self.dropout else None) - batch["y"]
        weight = batch["weight"]
        close = jnp.sum((jnp.abs(error) < 0.5) * weight)
        return jnp.sum(error**2 * weight), jnp.sum(weight), {"close": (close, jnp.sum(weight))}

    def evaluate(self, model):
        x, y = points(np.random.default_rng(99), 16)
        return {"quality": -float(jnp.mean((model(x) - y) ** 2)), "users_per_second": 1.0}


def points(rng, count):
    x = rng.normal(size=(count, WIDTH)).astype(np.float32)
    return x, np.sin(x[:, 0] + x[:, 1])


class TinyBatches:
    """Batch i is drawn by (seed, i); the place is i."""

    def __init__(self, seed, size=8, stop=None, poison=None):
        self.seed, self.size, self.stop, self.poison, self.next = seed, size, stop, poison, 0

    def __iter__(self):
        return self

    def __next__(self):
        if self.next == self.stop:
            raise StopIteration
        rng = np.random.default_rng((self.seed, self.next))
        x, y = points(rng, self.size)
        weight = rng.integers(0, 3, self.size).astype(np.float32)
        weight[0] = 1.0
        if self.next == self.poison:
            x[0, 0] = np.nan
        self.next += 1
        return {"x": x, "y": y, "weight": weight, "place": f"seed {self.seed}, {self.next - 1}"}

    def get_state(self):
        return {"next": self.next}

    def set_state(self, state):
        self.next = state["next"]


def stages(*lengths, **optimizer):
    return [
        Stage(
            name=f"stage{i}",
            make_batches=lambda i=i: TinyBatches(i),
            num_steps=length,
            optimizer=OptimizerConfig(learning_rate=0.02, warmup_steps=3, **optimizer),
            accumulate=1 + i,
        )
        for i, length in enumerate(lengths)
    ]


def run(folder):
    """Trains in a folder, or goes on there; returns why it ended, and the step."""
    config = TrainConfig(folder=folder, seed=1, eval_every=15, checkpoint_every=20, log_every=4)
    result = train(TinyModel(rngs=nnx.Rngs(0)), TinyTask(), stages(60, 40), config)
    return f"{result.reason} {result.step}"


def run_and_tell(folder):
    """Runs as a process of its own, and writes what `run` returns beside the folder."""
    folder.with_suffix(".txt").write_text(run(folder))
