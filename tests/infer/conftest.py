"""Fixtures of the tests of inference."""

from __future__ import annotations

import pytest

from tests.infer.helpers import restless_model, save_restless
from tiny_audio.infer.transcribe import Recogniser


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    return Recogniser(restless_model())


@pytest.fixture(scope="session")
def checkpoint(recogniser: Recogniser, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_restless(recogniser.model, tmp_path_factory.mktemp("models") / "restless"))
