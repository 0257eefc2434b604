"""Checkpoints of the bundled pair with any projector, at any stage."""

from pathlib import Path

import torch

from tiny_audio.compose import compose
from tiny_audio.config import Config
from tiny_audio.data.records import Utterance
from tiny_audio.infer.recognise import prompt_batch
from tiny_audio.model.build import build_model
from tiny_audio.model.checkpoint import save_checkpoint
from tiny_audio.model.lora import add_lora
from tiny_audio.model.speech import SpeechModel


def checkpoint(folder: Path, *settings: str, lora: bool = False, decoder: bool = False) -> Path:
    """A checkpoint as a run would write it; adapters and decoder are moved a little."""
    config: Config = compose(["model=nano", "data=manifest", "output_dir=.", *settings])
    model = build_model(config.model, device=torch.device("cpu"))
    torch.manual_seed(0)
    if decoder:
        for parameter in model.causal_lm.parameters():
            parameter.data += 0.01 * torch.randn_like(parameter) * parameter.std()
        model.decoder_changed = True
    if lora:
        options = vars(config.model.lora) | {"target_modules": ["q_proj", "v_proj"]}
        model.decoder = add_lora(model.causal_lm, **options)
        for name, parameter in model.decoder.named_parameters():
            if "lora_B" in name:
                parameter.data = 0.02 * torch.randn_like(parameter)
    save_checkpoint(model, folder, config=config, metadata={"step": 1})
    return folder


def prompt_logits(model: SpeechModel, waveform: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of the whole prompt of one clip."""
    clip = Utterance("", waveform.numpy(), "", "")
    prefill = model.prefill(prompt_batch(model, [clip]))
    with torch.no_grad():
        return model.decoder(
            inputs_embeds=prefill.inputs_embeds, position_ids=prefill.position_ids
        ).logits[0]
