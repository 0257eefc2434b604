"""A recogniser whose text says something about its audio."""

import pytest
import torch

from tests.model.helpers import CPU, model_config
from tiny_audio.config import Config
from tiny_audio.infer.transcribe import Recogniser
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import save_checkpoint

CONFIG = model_config()
CONFIG.encoder.window_seconds = 8.0  # so that ten seconds make a long recording


@pytest.fixture(scope="session")
def recogniser() -> Recogniser:
    """The tiny pair with larger weights: at its own, every clip gets the same few letters."""
    model = build_model(CONFIG, device=CPU)
    with torch.no_grad():
        for name, weight in model.causal_lm.named_parameters():
            if weight.dim() > 1 and "embed" not in name:
                weight.mul_(8.0)
        for name, weight in model.projector.named_parameters():
            if "norm_2" in name:
                weight.mul_(30.0)
    model.decoder_changed = True  # a checkpoint of it holds the decoder
    return Recogniser(model)


@pytest.fixture(scope="session")
def checkpoint(recogniser: Recogniser, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "restless"
    config = Config(model=CONFIG, output_dir=str(folder))
    save_checkpoint(recogniser.model, folder, config=config, metadata={})
    return str(folder)
