"""A checkpoint as a folder that transformers reads: with its own classes alone, or with ours.

transformers   GlmAsrForConditionalGeneration, whose language model may be of any kind; needs
               model.projector.type=glm on GLM-ASR's encoder
pipeline       what `tiny-audio push` sends; any projector and stage, needs this package
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    GlmAsrConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    WhisperFeatureExtractor,
)
from transformers.models.glmasr.modeling_glmasr import GlmAsrEncoder

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.config import GenerationConfig as OurGeneration
from tiny_audio.errors import CheckpointError, ConfigError, ModelError
from tiny_audio.model.checkpoint import find_checkpoint, load_checkpoint
from tiny_audio.model.projectors.glm import Glm
from tiny_audio.model.speech import SpeechModel
from tiny_audio.share.hub import package
from tiny_audio.text.prompt import Prompt

_TEMPLATE = (
    "{{{{ {head} }}}}{{% set content = messages[-1]['content'] %}}"
    "{{{{ content | selectattr('type', 'equalto', 'text') | map(attribute='text') | join"
    " or {instruction} }}}}"
    "{{% for item in content if item['type'] == 'audio' %}}{{{{ {audio} }}}}{{% endfor %}}"
    "{{{{ {tail} }}}}"
)
_TIGHT = (
    "warning: this model was trained with encoder.padding=tight, on clips alone; transformers pads "
    "them to {window:g} s without a mask, so that it hears another signal and writes other text. "
    "Train with +experiments=glm, which pads as transformers does."
)


def export_command(run: str, out: Path, kind: str) -> None:
    """Write a checkpoint for transformers to a new folder, whole or not at all. Raises ConfigError
    for an unknown format, ModelError where it has no place for such a model, CheckpointError where
    the folder exists or cannot be written."""
    if kind not in ("transformers", "pipeline"):
        raise ConfigError(f"--format {kind}: use transformers or pipeline.")
    if out.exists():
        raise CheckpointError(f"{out}: exists; choose a new folder")
    checkpoint = find_checkpoint(run)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        if kind == "transformers":
            model = load_checkpoint(checkpoint, device="cpu", dtype="float32")
            native, processor = to_transformers(model)
            if model.encoder.padding == "tight":
                print(_TIGHT.format(window=model.window_seconds), file=sys.stderr)
            processor.save_pretrained(part)
            native.save_pretrained(part)
            _load_in_float32(part, native)
        else:
            for name, content in package(checkpoint, str(out)).items():
                (part / name).parent.mkdir(exist_ok=True)
                data = content if isinstance(content, bytes) else content.read_bytes()
                (part / name).write_bytes(data)
        part.rename(out)
    except OSError as error:
        raise CheckpointError(f"{out}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    print(f"{out}: {sum(path.stat().st_size for path in out.rglob('*')):,} bytes")


def to_transformers(model: SpeechModel) -> tuple[Any, Any]:
    """The same model as transformers' own class, adapters merged, and its processor. Weights are
    shared, and of 16 bits where that loses nothing. Raises ModelError where the class has no place
    for a part."""
    projector, tower = model.projector, model.encoder.tower
    if not isinstance(projector, Glm) or not isinstance(tower, GlmAsrEncoder):
        name = type(projector).__name__.lower()
        raise ModelError(
            f"transformers has no class for the projector {name} on a {type(tower).__name__}: "
            "train with +experiments=glm, or use --format pipeline"
        )
    stacked = tower.config.intermediate_size / tower.config.hidden_size
    if projector.stride != 4 or stacked != 4:  # the class's constant, and where it takes it from
        raise ModelError(
            "transformers' class stacks four frames, and takes the encoder's intermediate_size for "
            f"their width: not with stride {projector.stride} and {stacked:g} times the width"
        )
    frames = model.encoder.out_len(int(model.window_seconds * SAMPLE_RATE) // model.features.hop)
    if frames % 4 or model.window_seconds % 1:
        raise ModelError(
            f"model.encoder.window_seconds={model.window_seconds:g} gives {frames} encoder frames; "
            "transformers needs whole seconds, and a number of frames that 4 divides"
        )
    decoder: Any = model.decoder
    lm = decoder.merge_and_unload() if isinstance(decoder, PeftModel) else model.causal_lm
    parts = {
        "model.audio_tower": tower,
        "model.multi_modal_projector": projector,
        "model.language_model": lm.base_model,
        "lm_head": lm.get_output_embeddings(),
    }
    state = {
        f"{name}.{key}": _narrow(value)
        for name, part in parts.items()
        for key, value in part.state_dict().items()
    }
    config: Any = GlmAsrConfig(
        audio_config=type(tower.config).from_dict(tower.config.to_dict()),
        text_config=type(lm.config).from_dict(lm.config.to_dict()),
        audio_token_id=model.prompt.placeholder_id,
        tie_word_embeddings=lm.config.tie_word_embeddings,
    )
    with torch.device("meta"):
        native: Any = GlmAsrForConditionalGeneration(config)
    try:
        native.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise ModelError(f"the decoder does not fit transformers' class: {error}") from None
    native.tie_weights()
    own = getattr(lm.generation_config, "eos_token_id", None)
    ends = {model.prompt.end_id, *([own] if isinstance(own, int) else own or [])}
    tokens = math.ceil(model.window_seconds * OurGeneration.tokens_per_second)
    native.generation_config = GenerationConfig(
        eos_token_id=sorted(ends),
        pad_token_id=model.prompt.end_id,
        max_new_tokens=max(OurGeneration.min_tokens, tokens),
    )
    return native, _processor(model)


def _processor(model: SpeechModel) -> Any:
    """transformers' processor, whose chat template writes our prompt around the audio."""
    mel, prompt, tokenizer = model.features, model.prompt, model.tokenizer
    window = int(model.window_seconds)
    extractor = WhisperFeatureExtractor(
        mel.n_mels, n_fft=mel.n_fft, hop_length=mel.hop, chunk_length=window
    )
    audio = str(tokenizer.convert_ids_to_tokens(prompt.placeholder_id))
    instruction = model.identity["decoder.instruction"]
    head = str(tokenizer.decode(prompt.prefix_ids)).removesuffix(instruction)
    texts = {"head": head, "instruction": instruction, "audio": audio}
    texts["tail"] = str(tokenizer.decode(prompt.suffix_ids))
    processor: Any = GlmAsrProcessor(
        extractor,
        tokenizer,
        chat_template=_TEMPLATE.format(**{name: repr(text) for name, text in texts.items()}),
        audio_token=audio,
        default_transcription_prompt=instruction,
        max_audio_len=window,
    )
    _check_prompt(processor, prompt, model.audio_tokens(SAMPLE_RATE))
    return processor


def _check_prompt(processor: Any, prompt: Prompt, n_audio: int) -> None:
    """Raise ModelError unless a second of audio gets the very ids that the model learned with."""
    second = np.zeros(SAMPLE_RATE, np.float32)
    ids = processor.apply_transcription_request(second)["input_ids"][0].tolist()
    if ids != prompt.build(n_audio):
        raise ModelError(
            "transformers' processor makes another prompt of this tokenizer's chat template than "
            "the model learned with; use --format pipeline"
        )


def _narrow(value: Tensor) -> Tensor:
    """The tensor in 16 bits where every value has a place there."""
    for dtype in (torch.bfloat16, torch.float16):
        if torch.equal(value.to(dtype).to(value.dtype), value):
            return value.to(dtype)
    return value


def _load_in_float32(folder: Path, native: Any) -> None:
    """Say so in the configuration: the projector's weights have more than 16 bits."""
    config = native.config
    for one in (config, config.audio_config, config.text_config):
        one.dtype = torch.float32
    config.save_pretrained(folder)
