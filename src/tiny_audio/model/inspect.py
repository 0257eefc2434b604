"""What a model is made of and what it has learned: its parts, its projector, its adapters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from tiny_audio.audio.io import SAMPLE_RATE, load_audio
from tiny_audio.compose import compose
from tiny_audio.config import ProjectorConfig
from tiny_audio.errors import AudioError, CheckpointError
from tiny_audio.model.build import skeleton
from tiny_audio.model.checkpoint import BUNDLED, find_checkpoint, load_checkpoint, read_config
from tiny_audio.model.decoder import embedding_rms, embedding_table
from tiny_audio.model.encoder import PlainEncoder
from tiny_audio.model.lora import AdapterRow, lora_report
from tiny_audio.model.projectors import Projector, build_projector
from tiny_audio.model.projectors.base import SCALE_DRIFT, length_mask
from tiny_audio.model.projectors.qformer import QFormer
from tiny_audio.model.speech import SpeechModel

ALIKE = 0.95  # mean cosine above which queries or the tokens of a window say the same thing
_GIB = 2**30

# ------------------------------------------------------------------------------------- its parts


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    name: str
    kind: str
    parameters: int
    learns: bool
    bytes_held: int  # weights and, for what learns, gradient and AdamW's two moments (fp32)


def parts(model: SpeechModel, learns: Sequence[str]) -> list[Part]:
    """The model's parts; ``learns`` are the names in training.learns."""
    weights: dict[str, list[nn.Parameter]] = {
        "encoder": list(model.encoder.parameters()),
        "projector": list(model.projector.parameters()),
        "decoder": [p for n, p in model.decoder.named_parameters() if ".lora_" not in n],
        "lora": [p for n, p in model.decoder.named_parameters() if ".lora_" in n],
    }
    modules = {
        "encoder": model.encoder.tower,
        "projector": model.projector,
        "decoder": model.causal_lm,
    }
    return [
        Part(
            "adapters" if name == "lora" else name,
            type(modules[name]).__name__ if name in modules else "LoRA",
            sum(p.numel() for p in of_part),
            name in learns,
            sum(p.numel() * (p.element_size() + (12 if name in learns else 0)) for p in of_part),
        )
        for name, of_part in weights.items()
        if of_part
    ]


def describe_command(arguments: Sequence[str]) -> None:
    """Print a model: a checkpoint, a run, a bundled name, or settings such as ``model=tiny``.

    Weights are never downloaded for this: a pair from the hub is built without weights.
    """
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
    rows = parts(model, config.training.learns)
    table = Table(title=config.model.name, title_justify="left")
    for column in ("part", "kind", "parameters", "learns", "GiB in training"):
        table.add_column(column, justify="right" if column == "parameters" else "left")
    for part in rows:
        numbers = f"{part.parameters:,}", "yes" if part.learns else "frozen"
        table.add_row(part.name, part.kind, *numbers, f"{part.bytes_held / _GIB:.2f}")
    total, held = sum(part.parameters for part in rows), sum(part.bytes_held for part in rows)
    table.add_row("all", "", f"{total:,}", "", f"{held / _GIB:.2f}", style="bold")
    counts = parameter_counts(model.encoder.width, embedding_table(model.causal_lm).shape[1])
    listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    console = Console()
    console.print(table)
    for line in (
        *_rates(model),
        f"projectors at their default sizes for this pair: {listed}",
        "frozen weights are bfloat16 on CUDA and float32 elsewhere, unless model.dtype says",
    ):
        console.print(line)


def _rates(model: SpeechModel) -> list[str]:
    """How a second of audio shrinks on its way."""
    ten, encoder = 10 * SAMPLE_RATE, model.encoder
    if isinstance(encoder, PlainEncoder):
        lines = [f"encoder frames a second: {encoder.out_len(ten) / 10:g}"]
    else:
        mel = model.features.out_len(ten)
        lines = [
            f"log-mel: {model.features.n_mels} bands, {mel / 10:g} frames a second",
            f"encoder: {encoder.out_len(mel) / 10:g} frames a second, {encoder.width} wide, "
            f"padding {encoder.padding}",
        ]
    lines.append(
        f"audio tokens: {model.audio_tokens(ten) / 10:g} a second; a 30 s clip fills "
        f"{model.audio_tokens(3 * ten) + model.prompt.fixed_length} of the decoder's "
        f"{getattr(model.causal_lm.config, 'max_position_embeddings', '?')} positions"
    )
    return lines


def parameter_counts(d_encoder: int = 1280, d_decoder: int = 1024) -> dict[str, int]:
    """Parameters of every projector with its default settings; widths: GLM-ASR's, Qwen3-0.6B's."""
    settings = asdict(ProjectorConfig())
    del settings["type"]
    with torch.device("meta"):
        built = {k: build_projector(k, d_encoder, d_decoder, 1.0, o) for k, o in settings.items()}
    return {kind: sum(p.numel() for p in made.parameters()) for kind, made in built.items()}


# --------------------------------------------------------------------------------- its projector


@dataclass(frozen=True)
class ProjectorReport:
    """What a projector does with some clips."""

    kind: str
    stats: dict[str, float]  # the projector's own, see projectors/
    embedding_rms: float
    weights: dict[str, float]  # RMS of each matrix and of the projector's own norms
    token_rms: Tensor  # [number of real audio tokens]
    row_rms: Tensor  # [V] of the decoder's embedding rows
    first_clip: Tensor  # [A, W] audio tokens of the longest clip
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
            name: float(p.float().square().mean().sqrt())
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
    """Print what a checkpoint's projector does with some recordings, and draw it to ``out``.

    Without ``files``: with a synthetic voice-like sound, which shows scale and routing but is no
    speech.
    """
    console = Console()
    model = load_checkpoint(find_checkpoint(folder), device="cpu", dtype="float32")
    clips = [torch.from_numpy(load_audio(file)) for file in files] or probe_clips()
    report = inspect_projector(model, clips)
    source = f"{len(files)} recordings" if files else "a synthetic voice-like sound (no speech)"
    table = Table(title=f"{report.kind} on {source}, {len(report.token_rms)} audio tokens")
    table.add_column("measure")
    table.add_column("value", justify="right")
    measures = {"embedding_rms (decoder)": report.embedding_rms, **report.stats}
    measures |= {f"rms of {name}": value for name, value in report.weights.items()}
    for name, value in measures.items():
        table.add_row(name, f"{value:.4g}")
    console.print(table)
    for warning in report.warnings:
        console.print(f"warning: {warning}", highlight=False)
    path = Path(out or "projector.png")
    draw_projector(model.projector, report, path)
    console.print(f"Picture: {path}", highlight=False, soft_wrap=True)


def probe_clips() -> list[Tensor]:
    """Three clips [S] of a synthetic voice: gliding harmonics in syllables, over a little noise."""
    random = np.random.default_rng(0)
    clips = []
    for seconds in (2.0, 4.0, 7.0):
        t = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
        pitch = 120 + 30 * np.sin(2 * np.pi * 0.7 * t)  # Hz
        phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
        voice = sum(np.sin(k * phase) / k for k in range(1, 24))
        syllables = np.clip(np.sin(2 * np.pi * 2.0 * t), 0, None)  # four beats in two seconds
        sound = 0.1 * voice * syllables + 0.002 * random.standard_normal(len(t))
        clips.append(torch.from_numpy(np.asarray(sound, dtype=np.float32)))
    return clips


def draw_projector(projector: Projector, report: ProjectorReport, path: Path) -> None:
    """Write a PNG of a report; needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{report.kind} projector")
    (scale, tokens), (inner, weights) = figure.subplots(2, 2)
    both = torch.cat([report.token_rms, report.row_rms]).clamp(min=1e-8).log10()
    bins = torch.logspace(float(both.min()) - 0.1, float(both.max()) + 0.1, 60).tolist()
    for values, label in (
        (report.row_rms, "decoder's embedding rows"),
        (report.token_rms, "audio tokens"),
    ):
        scale.hist(values.numpy(), bins=bins, density=True, alpha=0.6, label=label)
    scale.set(xscale="log", title="scale", xlabel="RMS", yticks=[])
    scale.legend()
    _draw_cosines(tokens, report.first_clip, "cosine of the longest clip's audio tokens")
    shares = [v for name, v in report.stats.items() if re.fullmatch(r"share_\d+", name)]
    if shares:
        inner.bar(range(len(shares)), shares)
        inner.axhline(1 / len(shares), color="black", linestyle="--", label="even")
        inner.set(title="share of the frames", xlabel="expert", xticks=range(len(shares)))
        inner.legend()
    elif isinstance(projector, QFormer):
        _draw_cosines(inner, projector.queries.detach().cpu(), "cosine of the learned queries")
    else:
        last = [p for p in projector.parameters() if p.dim() == 2][-1]
        inner.semilogy(torch.linalg.svdvals(last.detach().float().cpu()).numpy())
        inner.set(title="singular values of the last linear layer", xlabel="direction")
    largest = dict(sorted(report.weights.items(), key=lambda item: -item[1])[:20])
    weights.barh(list(largest), list(largest.values()))
    weights.invert_yaxis()
    weights.tick_params(axis="y", labelsize=7)
    weights.set(title="RMS of the weights", xscale="log")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)


def _draw_cosines(axis: Any, rows: Tensor, title: str) -> None:
    """The cosine of every pair of rows [N, W]."""
    unit = F.normalize(rows.float(), dim=-1)
    image = axis.imshow((unit @ unit.T).numpy(), vmin=-1, vmax=1, cmap="RdBu_r")
    axis.set(title=title)
    axis.figure.colorbar(image, ax=axis)


# ---------------------------------------------------------------------------------- its adapters


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
