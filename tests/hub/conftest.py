import pytest
from tests.hub.server import Hub


@pytest.fixture
def hub():
    with Hub() as h:
        yield h
