"""What a model is made of: parts, parameters, rates, what learns, and the memory it needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from torch import nn

from tiny_audio.compose import compose
from tiny_audio.config import Config
from tiny_audio.model.checkpoint import load_checkpoint, read_config
from tiny_audio.model.decoder import embedding_table
from tiny_audio.model.inspect import parameter_counts
from tiny_audio.model.lengths import skeleton
from tiny_audio.model.plain_encoder import PlainEncoder
from tiny_audio.model.resolve import BUNDLED, find_checkpoint
from tiny_audio.model.speech import SpeechModel

_GIB = 2**30
_SECOND = 16_000  # samples


@dataclass(frozen=True)
class Part:
    """One row of the table."""

    name: str
    kind: str
    parameters: int
    learns: bool
    bytes_held: int


def parts(model: SpeechModel, learns: Sequence[str]) -> list[Part]:
    """The model's parts. ``learns`` are the names in training.learns.

    Bytes are the weights and, for what learns, its gradient and AdamW's two moments (fp32).
    """
    lora = [p for n, p in model.decoder.named_parameters() if ".lora_" in n]
    base = [p for n, p in model.decoder.named_parameters() if ".lora_" not in n]
    rows = [
        ("encoder", _kind(model.encoder), list(model.encoder.parameters()), "encoder"),
        ("projector", _kind(model.projector), list(model.projector.parameters()), "projector"),
        ("decoder", _kind(model.causal_lm), base, "decoder"),
    ]
    if lora:
        rows.append(("adapters", "LoRA", lora, "lora"))
    return [
        Part(
            name,
            kind,
            sum(p.numel() for p in weights),
            key in learns,
            sum(p.numel() * (p.element_size() + (12 if key in learns else 0)) for p in weights),
        )
        for name, kind, weights, key in rows
    ]


def describe_command(arguments: Sequence[str]) -> None:
    """Print a model: a checkpoint, a run, a bundled name, or settings such as ``model=tiny``.

    Weights are never downloaded for this: a pair from the hub is built without weights.
    """
    console = Console()
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
    _print(console, model, config)


def _print(console: Console, model: SpeechModel, config: Config) -> None:
    learns = list(config.training.learns)
    table = Table(title=f"{config.model.name}", title_justify="left")
    for column in ("part", "kind", "parameters", "learns", "GiB in training"):
        table.add_column(column, justify="right" if column in ("parameters",) else "left")
    rows = parts(model, learns)
    for part in rows:
        table.add_row(
            part.name,
            part.kind,
            f"{part.parameters:,}",
            "yes" if part.learns else "frozen",
            f"{part.bytes_held / _GIB:.2f}",
        )
    total = sum(part.parameters for part in rows)
    held = sum(part.bytes_held for part in rows)
    table.add_row("all", "", f"{total:,}", "", f"{held / _GIB:.2f}", style="bold")
    console.print(table)
    for line in _rates(model):
        console.print(line)
    counts = parameter_counts(model.encoder.width, embedding_table(model.causal_lm).shape[1])
    listed = ", ".join(f"{kind} {count:,}" for kind, count in counts.items())
    console.print(f"projectors at their default sizes for this pair: {listed}")
    console.print(
        "frozen weights are bfloat16 on CUDA and float32 elsewhere, unless model.dtype says"
    )


def _rates(model: SpeechModel) -> list[str]:
    """How a second of audio shrinks on its way."""
    ten = 10 * _SECOND
    if isinstance(model.encoder, PlainEncoder):
        lines = [f"encoder frames a second: {model.encoder.out_len(ten) / 10:g}"]
    else:
        mel = model.features.out_len(ten)
        lines = [
            f"log-mel: {model.features.n_mels} bands, {mel / 10:g} frames a second",
            f"encoder: {model.encoder.out_len(mel) / 10:g} frames a second, "
            f"{model.encoder.width} wide, padding {model.encoder.padding}",
        ]
    lines.append(
        f"audio tokens: {model.audio_tokens(ten) / 10:g} a second; a 30 s clip fills "
        f"{model.audio_tokens(3 * ten) + model.prompt.fixed_length} of the decoder's "
        f"{getattr(model.causal_lm.config, 'max_position_embeddings', '?')} positions"
    )
    return lines


def _kind(module: nn.Module) -> str:
    inner = getattr(module, "tower", module)
    return type(inner).__name__
