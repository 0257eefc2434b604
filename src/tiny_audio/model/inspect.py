"""What a model is made of and what it has learned: its parts, its projector, its adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft.tuners.lora import Linear as LoraLinear
from rich.console import Console
from rich.table import Table
from scipy.signal import chirp
from torch import Tensor, nn
from torch.nn.functional import normalize

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.compose import compose
from tiny_audio.config import ProjectorConfig
from tiny_audio.errors import AudioError, CheckpointError
from tiny_audio.model.build import skeleton
from tiny_audio.model.checkpoint import BUNDLED, find_checkpoint, load_checkpoint, read_config
from tiny_audio.model.decoder import embedding_rms, embedding_table
from tiny_audio.model.lora import ADAPTER
from tiny_audio.model.projectors import build_projector
from tiny_audio.model.speech import SpeechModel


def parts(model: SpeechModel, learns: Sequence[str]) -> list[tuple[str, str, int, int]]:
    """Name, kind, parameters and bytes of each part; ``learns`` are the names in training.learns.
    Bytes are those of weights and, for what learns, of gradient and AdamW's two moments (fp32)."""
    decoder = dict(model.decoder.named_parameters())
    rows = []
    for name, kind, weights in (
        ("encoder", model.encoder.tower, list(model.encoder.parameters())),
        ("projector", model.projector, list(model.projector.parameters())),
        ("decoder", model.causal_lm, [p for n, p in decoder.items() if ".lora_" not in n]),
        ("lora", model.decoder, [p for n, p in decoder.items() if ".lora_" in n]),
    ):
        learned = 12 if name in learns else 0
        held = sum(p.numel() * (p.element_size() + learned) for p in weights)
        rows.append((name, type(kind).__name__, sum(p.numel() for p in weights), held))
    return [row for row in rows if row[2]]


def describe_command(arguments: Sequence[str]) -> None:
    """Print a model: a checkpoint, a run, a bundled name, or settings such as ``model=tiny``; of a
    pair from the hub nothing is downloaded."""
    names = [a for a in arguments if "=" not in a]
    overrides = [a for a in arguments if "=" in a]
    if names and (names[0] in BUNDLED or Path(names[0]).exists()):
        folder = find_checkpoint(names[0])
        config = read_config(folder)
        model = load_checkpoint(folder, device="cpu")
    else:
        overrides += [f"model={names[0]}"] if names else []
        config = compose([*overrides, "output_dir=."])
        model = skeleton(config.model)
    learns, encoder, lm = config.training.learns, model.encoder, model.causal_lm
    columns = ("part", "kind", "parameters", "learns", "GiB in training")
    table = Table(*columns, title=config.model.name, title_justify="left")
    for name, kind, count, held in parts(model, learns):
        is_learned = "yes" if name in learns else "frozen"
        table.add_row(name, kind, f"{count:,}", is_learned, f"{held / 2**30:.2f}")
    mel, tokens = model.features.out_len(10 * SAMPLE_RATE), model.audio_tokens(10 * SAMPLE_RATE)
    counts = parameter_counts(encoder.width, embedding_table(lm).shape[1])
    console = Console()
    console.print(
        table,
        f"log-mel: {encoder.n_mels} bands, {mel / 10:g} frames a second",
        f"encoder: {encoder.out_len(mel) / 10:g} frames a second, {encoder.width} wide",
        f"audio tokens: {tokens / 10:g} a second; a 30 s clip fills "
        f"{model.audio_tokens(30 * SAMPLE_RATE) + model.prompt.fixed_length} of the decoder's "
        f"{getattr(lm.config, 'max_position_embeddings', '?')} positions",
        "projectors at their default sizes for this pair: "
        + ", ".join(f"{kind} {count:,}" for kind, count in counts.items()),
        sep="\n",
    )


def parameter_counts(d_encoder: int = 1280, d_decoder: int = 1024) -> dict[str, int]:
    """Parameters of every projector with its default settings; widths: GLM-ASR's, Qwen3-0.6B's."""
    settings = asdict(ProjectorConfig())
    del settings["type"]
    with torch.device("meta"):
        built = {k: build_projector(k, d_encoder, d_decoder, 1.0, o) for k, o in settings.items()}
    return {kind: sum(p.numel() for p in made.parameters()) for kind, made in built.items()}


def projector_command(folder: str, out: str | None = None, files: Sequence[str] = ()) -> None:
    """Print what a checkpoint's projector does with recordings (without any, with a rising tone,
    which shows its scale), and draw it to ``out``. Raises AudioError where one is too short."""
    model = load_checkpoint(find_checkpoint(folder), device="cpu", dtype="float32")
    clips = [load_audio(file) for file in files]
    for name, clip in zip(files, clips, strict=True):
        if model.audio_tokens(len(clip)) == 0:
            raise AudioError(f"{name}: is too short for an audio token", reason="too_short")
    seconds = np.arange(4 * SAMPLE_RATE, dtype=np.float32) / SAMPLE_RATE
    clips = clips or [0.1 * chirp(seconds, 100, 4, 4000)]
    tokens, stats = run_projector(model, [torch.from_numpy(clip) for clip in clips])
    source = f"{len(files)} recordings" if files else "a rising tone (no speech)"
    kind = type(model.projector).__name__
    table = Table("measure", "value", title=f"{kind} on {source}, {len(tokens)} audio tokens")
    for name, value in {"embedding_rms (decoder)": embedding_rms(model.causal_lm), **stats}.items():
        table.add_row(name, f"{value:.4g}")
    path = Path(out or "projector.png")
    _draw(tokens, embedding_table(model.causal_lm), path)
    console = Console()
    console.print(table)
    console.print(f"Picture: {path}", highlight=False, soft_wrap=True)


@torch.no_grad()
def run_projector(model: SpeechModel, clips: Sequence[Tensor]) -> tuple[Tensor, dict[str, float]]:
    """Audio tokens [A, W] of clips (each [S], 16 kHz), and the projector's statistics on them."""
    lengths = torch.tensor([len(clip) for clip in clips])
    waveform = nn.utils.rnn.pad_sequence(list(clips), batch_first=True)
    tokens, counts = model.embed_audio(waveform, lengths)
    real = [row[:n] for row, n in zip(tokens, counts.tolist(), strict=True)]
    return torch.cat(real).float(), model.projector.stats()


def _draw(tokens: Tensor, table: Tensor, path: Path) -> None:
    """Draw tokens [A, W] beside the decoder's embedding rows [V, W]: their scale, their cosines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    scale, cosines = figure.subplots(1, 2)
    rms = [x.float().square().mean(-1).sqrt().clamp(min=1e-8).log10() for x in (table, tokens)]
    labels = ["decoder's embedding rows", "audio tokens"]
    scale.hist(rms, bins=60, density=True, histtype="stepfilled", alpha=0.6, label=labels)
    scale.set(title="scale", xlabel="log10 of the RMS", yticks=[])
    scale.legend()
    unit = normalize(tokens, dim=-1)
    image = cosines.imshow((unit @ unit.T).numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    cosines.set(title="cosine of every two audio tokens")
    figure.colorbar(image, ax=cosines)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


@torch.no_grad()
def lora_command(folder: str) -> None:
    """Print how much each adapter of a checkpoint changes its layer: the Frobenius norm of its
    change, and its share of the layer's own."""
    path = find_checkpoint(folder)
    decoder = load_checkpoint(path, device="cpu", dtype="float32").decoder
    table = Table("layer", "norm of the change", "of the layer's")
    for name, module in decoder.named_modules():
        if isinstance(module, LoraLinear):
            layer: Any = module
            norm = float(layer.get_delta_weight(ADAPTER).norm())
            share = norm / float(layer.get_base_layer().weight.norm())
            table.add_row(name.removeprefix("base_model.model."), f"{norm:.3g}", f"{share:.2%}")
    if not table.row_count:
        raise CheckpointError(f"{path}: has no adapters")
    Console().print(table)
