"""What the suites of the beam step share."""

import pytest

from kernels.beam_step import IMPLEMENTATIONS


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def implementation(request):
    return request.param
