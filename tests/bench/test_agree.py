"""The plain way and ours are two computations of the same thing."""

from __future__ import annotations

import pytest
import torch
from bench.agree import check_text, check_training
from bench.load import load_pair

from tiny_audio.model.speech import SpeechModel


@pytest.fixture(scope="module")
def model() -> SpeechModel:
    return load_pair("tiny", torch.device("cpu"), random=True)


def test_same_loss_and_gradients(model: SpeechModel) -> None:
    assert check_training(model)


def test_same_tokens(model: SpeechModel) -> None:
    assert check_text(model)
