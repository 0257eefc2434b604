"""One server for each module of tests."""

from collections.abc import Iterator

import pytest

import tiny_audio
from tests.infer.conftest import checkpoint as checkpoint
from tests.infer.conftest import recogniser as recogniser
from tiny_audio.infer.transcribe import Recogniser

for module in ("fastapi", "uvicorn", "python_multipart", "prometheus_client", "openai"):
    pytest.importorskip(module, reason="needs the extra serve and OpenAI's client")

from tests.serve.helpers import Running, running  # noqa: E402


@pytest.fixture(scope="session")
def nano() -> Recogniser:
    return tiny_audio.load("nano", device="cpu")


@pytest.fixture(scope="module")
def guarded(nano: Recogniser) -> Iterator[Running]:
    with running(nano, keys=(b"secret",)) as found:
        yield found


@pytest.fixture(scope="module")
def server(recogniser: Recogniser) -> Iterator[Running]:
    with running(recogniser) as found:
        yield found
