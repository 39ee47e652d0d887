"""What the suites of the beam step share."""

import jax
import pytest

from kernels import dispatch
from kernels.beam_step import IMPLEMENTATIONS


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request):
    if request.param == "triton_gpu":
        pytest.importorskip("triton", reason="needs Triton, which has no wheel for this machine")
    return request.param


@pytest.fixture
def interpreted_alone(monkeypatch):
    """Traces a Pallas kernel as a CPU runs it and not a second time, larger, as a TPU would.

    What is lowered for a CPU is the same; `test_x64.py` and `test_beam_step_api.py` trace both.
    """
    if jax.default_backend() == "cpu":
        monkeypatch.setattr(
            dispatch, "interpreted_on_cpu", lambda step, *arrays: step(*arrays, interpret=True)
        )
