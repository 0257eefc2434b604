"""A corpus of generated audio, and the prompt of a tokenizer that needs no file."""

from pathlib import Path

import pytest

from tests.data.helpers import make_corpus
from tiny_audio.model.decoder import byte_tokenizer
from tiny_audio.text.prompt import Prompt


@pytest.fixture(scope="session")
def prompt() -> Prompt:
    return Prompt.from_tokenizer(byte_tokenizer())


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), 40)
