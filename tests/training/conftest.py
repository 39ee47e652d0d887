import pytest

from minirec.training import train
from tests.training.helpers import config, fresh
from tests.training.tiny import TinyTask, stages


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory):
    """(folder, model, result) of a run of two stages that nothing stopped."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    model = fresh()
    result = train(model, TinyTask(), stages(10, 7), config(folder))
    return folder, model, result
