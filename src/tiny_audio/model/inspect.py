"""A look inside what was learned: the projector of a checkpoint, and its adapters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.config import ProjectorConfig
from tiny_audio.errors import AudioError, CheckpointError
from tiny_audio.model.checkpoint import load_checkpoint
from tiny_audio.model.decoder import embedding_rms, embedding_table
from tiny_audio.model.lora_report import AdapterRow, lora_report
from tiny_audio.model.projectors import build_projector
from tiny_audio.model.projectors.base import SCALE_DRIFT, length_mask
from tiny_audio.model.resolve import find_checkpoint
from tiny_audio.model.speech import SpeechModel

ALIKE = 0.95  # mean cosine above which queries or the tokens of a window say the same thing
_PROBE_SECONDS = (2.0, 4.0, 7.0)


@dataclass(frozen=True)
class ProjectorReport:
    """What a projector does with some clips."""

    kind: str
    stats: dict[str, float]  # the projector's own, see routing.py and the projectors
    embedding_rms: float
    weights: dict[str, float]  # RMS of each matrix and of the projector's own norms
    token_rms: Tensor  # [number of real audio tokens]
    row_rms: Tensor  # [V] of the decoder's embedding rows
    first_clip: Tensor  # [A, W] its audio tokens
    warnings: list[str]


@torch.no_grad()
def inspect_projector(model: SpeechModel, clips: Sequence[Tensor]) -> ProjectorReport:
    """Run a model's projector on clips (each [S], 16 kHz) and measure what comes out.

    Raises:
        AudioError: a clip is too short for an audio token.
    """
    for i, clip in enumerate(clips):
        if model.audio_tokens(len(clip)) == 0:
            seconds = len(clip) / SAMPLE_RATE
            raise AudioError(
                f"clip {i + 1} has {seconds:.3f} s, too short for an audio token; leave it out",
                reason="too_short",
            )
    model.eval()
    waveform = pad_sequence(list(clips), batch_first=True).to(model.device)
    lengths = torch.tensor([len(clip) for clip in clips], device=model.device)
    tokens, n_tokens = model.embed_audio(waveform, lengths)
    real = tokens.float()[length_mask(n_tokens, tokens.shape[1])]
    stats = model.projector.stats()
    scale = embedding_rms(model.causal_lm)
    longest = int(n_tokens.argmax())
    return ProjectorReport(
        kind=type(model.projector).__name__,
        stats=stats,
        embedding_rms=scale,
        weights={
            name: _rms(p)
            for name, p in model.projector.named_parameters()
            if p.dim() > 1 or name.count(".") <= 1  # not every bias inside the Q-Former
        },
        token_rms=real.square().mean(-1).sqrt().cpu(),
        row_rms=embedding_table(model.causal_lm).float().square().mean(-1).sqrt().cpu(),
        first_clip=tokens[longest, : int(n_tokens[longest])].float().cpu(),
        warnings=projector_warnings(stats, scale),
    )


def projector_warnings(stats: Mapping[str, float], scale: float) -> list[str]:
    """What is wrong with these statistics, in plain words; ``scale`` is the embeddings' RMS."""
    found = []
    ratio = stats["output_rms"] / scale if scale else 1.0
    if not 1 / SCALE_DRIFT < ratio < SCALE_DRIFT:
        found.append(
            f"the audio tokens have {ratio:.2g} times the RMS of the decoder's embeddings; "
            "they are unlike anything it has read"
        )
    if stats.get("dead_experts", 0) > 0:
        found.append(f"{stats['dead_experts']:.0f} experts get next to no frames")
    for name in ("query_similarity", "token_similarity"):
        if stats.get(name, 0.0) > ALIKE:
            found.append(f"{name} is {stats[name]:.2f}: the queries have become alike")
    return found


def projector_command(folder: str, out: str | None = None, files: Sequence[str] = ()) -> None:
    """Print what a checkpoint's projector does with some clips, and draw it.

    Args:
        folder: a checkpoint, a run, or a known name.
        out: the picture; None: ``projector.png`` here.
        files: recordings; none: a synthetic voice-like sound, which shows scale and routing but
            is no speech.
    """
    console = Console()
    model = load_checkpoint(find_checkpoint(folder), device="cpu", dtype="float32")
    clips = [torch.from_numpy(load_audio(file)) for file in files] or probe_clips()
    report = inspect_projector(model, clips)
    told = f"{len(files)} recordings" if files else "a synthetic voice-like sound (no speech)"
    table = Table(title=f"{report.kind} on {told}, {len(report.token_rms)} audio tokens")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_row("embedding_rms (decoder)", f"{report.embedding_rms:.4g}")
    for name, value in report.stats.items():
        table.add_row(name, f"{value:.4g}")
    for name, value in report.weights.items():
        table.add_row(f"rms of {name}", f"{value:.4g}")
    console.print(table)
    for warning in report.warnings:
        console.print(f"warning: {warning}", highlight=False)
    path = Path(out or "projector.png")
    from tiny_audio.model.inspect_plot import draw_projector

    draw_projector(model.projector, report, path)
    console.print(f"Picture: {path}", highlight=False, soft_wrap=True)


def lora_command(folder: str) -> None:
    """Print how much each adapter of a checkpoint changes its layer.

    Raises:
        CheckpointError: the checkpoint has no adapters.
    """
    console = Console()
    path = find_checkpoint(folder)
    rows = lora_report(load_checkpoint(path, device="cpu", dtype="float32").decoder)
    if not rows:
        raise CheckpointError(f"{path}: has no adapters")
    table = Table(title=f"{len(rows)} adapters of rank {rows[0].rank}")
    table.add_column("layer", overflow="fold")
    for column in ("norm", "of the layer's", "effective rank"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            row.module, f"{row.norm:.3g}", f"{row.relative_norm:.2%}", f"{row.effective_rank:.1f}"
        )
    console.print(table)
    for line in lora_summary(rows):
        console.print(line, highlight=False)


def lora_summary(rows: Sequence[AdapterRow]) -> list[str]:
    """The adapters in one or two sentences."""
    zero = [row.module for row in rows if row.is_zero]
    largest = max(rows, key=lambda row: row.relative_norm)
    lines = [
        f"Largest change: {largest.module}, {largest.relative_norm:.2%} of its layer's norm.",
        f"Zero adapters: {len(zero)} of {len(rows)}.",
    ]
    if len(zero) == len(rows):
        lines.append("warning: no adapter has learned anything yet")
    elif zero:
        lines.append(f"warning: these change nothing: {', '.join(zero[:5])}")
    return lines


def parameter_counts(d_encoder: int = 1280, d_decoder: int = 1024) -> dict[str, int]:
    """Parameters of every projector with its default settings, without memory for them.

    The widths are those of GLM-ASR's encoder and Qwen3-0.6B.
    """
    counts = {}
    settings = asdict(ProjectorConfig())
    del settings["type"]
    for kind, options in settings.items():
        with torch.device("meta"):
            projector = build_projector(kind, d_encoder, d_decoder, 1.0, options)
        counts[kind] = sum(p.numel() for p in projector.parameters())
    return counts


def probe_clips() -> list[Tensor]:
    """Three clips [S] of a synthetic voice: gliding harmonics in syllables, over a little noise."""
    random = np.random.default_rng(0)
    clips = []
    for seconds in _PROBE_SECONDS:
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)  # Hz
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        formant = 700 + 400 * np.sin(2 * np.pi * 1.9 * t)  # Hz, where the harmonics are loud
        voice = sum(
            np.exp(-(((k * pitch - formant) / 400) ** 2)) * np.sin(k * phase) for k in range(1, 24)
        )
        syllables = np.clip(np.sin(2 * np.pi * 2.0 * t), 0, None)  # four beats in two seconds
        sound = 0.1 * voice * syllables + 0.002 * random.standard_normal(len(t))
        clips.append(torch.from_numpy(np.asarray(sound, dtype=np.float32)))
    return clips


def _rms(tensor: Tensor) -> float:
    return float(tensor.float().square().mean().sqrt())
