"""What the suites of the beam step share."""

import pytest

from kernels.beam_step import IMPLEMENTATIONS


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request):
    if request.param == "triton_gpu":
        pytest.importorskip("triton", reason="needs Triton, which has no wheel for this machine")
    return request.param
