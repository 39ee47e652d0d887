"""A training step's program, apart from a run."""

import jax
import numpy as np
from flax import nnx

from minirec.training import OptimizerConfig, make_optimizer, make_schedule
from minirec.training.step import TrainStep
from tests.training.helpers import fresh
from tests.training.tiny import TinyTask, points


def test_a_lowered_step_is_the_one_that_a_call_runs_and_is_compiled_once():
    model, options = fresh(), OptimizerConfig()
    step = TrainStep(
        model,
        nnx.Optimizer(model, make_optimizer(options, 10), wrt=nnx.Param),
        TinyTask(),
        schedule=make_schedule(options, 10),
        accumulate=1,
        seed=0,
    )
    state = step.start()
    x, y = points(np.random.default_rng(0), 4)
    inputs = {"x": x, "y": y, "weight": np.ones(4, np.float32)}
    compiled = step.lower(state, inputs, 3).compile()
    # A copy, since the program's arguments are donated.
    copy = jax.tree.map(lambda array: array.copy(), state)
    _, of_compiled = compiled(copy, inputs, step.tables, np.uint32(3))
    compilations = []

    def listen(name, *_, **__):
        if name.endswith("backend_compile_duration"):
            compilations.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        _, of_call = step(state, inputs, 3)
        compiled_by_call = len(compilations)
        jax.jit(lambda x: x + 3)(x)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert step.traces == 1
    assert compiled_by_call == 0
    assert compilations  # So that a compilation would have been heard.
    assert float(of_call.ratios["loss"][0]) == float(of_compiled.ratios["loss"][0])
