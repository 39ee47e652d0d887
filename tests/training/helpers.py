"""What the tests of the training loop share."""

import numpy as np
from flax import nnx

from minirec.training import TrainConfig, read_metrics, without_wall_clock
from tests.training.tiny import TinyModel, TinyTask


def fresh(**fields):
    return TinyModel(rngs=nnx.Rngs(0), **fields)


def config(folder, **fields):
    defaults = {"eval_every": 6, "checkpoint_every": 4, "log_every": 2, "seed": 1}
    return TrainConfig(folder, progress=False, tensorboard=False, **(defaults | fields))


def values(model):
    return {
        ".".join(map(str, path)): np.asarray(variable[...])
        for path, variable in nnx.to_flat_state(nnx.state(model))
    }


def assert_equal_models(one, other):
    one, other = values(one), values(other)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def lines(folder, kind=None):
    return [
        without_wall_clock(line) for line in read_metrics(folder) if kind in (None, line["kind"])
    ]


class ScriptedTask(TinyTask):
    """Evaluates to given values, in a row."""

    def __init__(self, *qualities):
        super().__init__()
        self.qualities = list(qualities)

    def evaluate(self, model):
        return {"quality": self.qualities.pop(0)}
