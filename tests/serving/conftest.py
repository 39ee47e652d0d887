import pytest

from minirec.serving.engine import Engine
from tests.serving.small import World


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.fixture(scope="module")
def engine(world):
    """An engine over the world, in which a first tile has been answered."""
    engine = Engine(world.recommender(), world.served(), exclude_seen=True, deadline_s=60.0)
    yield engine
    engine.close()
