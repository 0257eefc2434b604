"""Does everything hold on this device? Short checks of a pair on CUDA; each prints one line.

python -m bench check --pair glm_qwen3 --random
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import asdict
from functools import partial

import torch

from bench.agree import exact_fp32, in_fp32
from bench.load import Collator, utterances
from tiny_audio.audio.features import LogMel
from tiny_audio.config import LoraConfig, ProjectorConfig
from tiny_audio.model.decoder import embedding_rms, embedding_table
from tiny_audio.model.lora import add_lora
from tiny_audio.model.projectors import PROJECTORS, build_projector
from tiny_audio.model.speech import SpeechModel
from tiny_audio.train.stages import apply_learns

LENGTHS = [1.0, 7.3, 2.501, 12.0]
Result = tuple[bool, str]


def run(model: SpeechModel) -> bool:
    """Run every check; a line each. Returns whether all of them held."""
    checks: dict[str, Callable[[], Result]] = {
        "log-mel as on the CPU": partial(log_mel, model),
        "embeddings: alone as in a ragged batch, fp32": lambda: invariance(
            in_fp32(model), most=1e-3
        ),
        "embeddings: alone as in a ragged batch": partial(invariance, model, relative=0.02),
        **{f"a step of {kind} and LoRA": partial(step, model, kind) for kind in PROJECTORS},
        "a step of 300 s in 24 GB": partial(small_card, model),
    }
    print("\n### checks\n")
    held = True
    for name, check in checks.items():
        gc.collect()
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            ok, message = check()
        except (RuntimeError, AssertionError, ValueError) as error:
            ok, message = False, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        held &= ok
        print(f"- {'ok  ' if ok else 'FAIL'} {name}: {message}", flush=True)
    return held


def log_mel(model: SpeechModel) -> Result:
    """The same log-mel on the device as on the CPU."""
    f = model.features
    waveform, lengths = _ragged(model)
    there, frames = f(waveform, lengths)
    here, frames_here = LogMel(f.n_mels, f.n_fft, f.hop)(waveform.cpu(), lengths.cpu())
    apart = float((there.cpu() - here).abs().max())
    return apart < 1e-4 and torch.equal(frames.cpu(), frames_here), f"max difference {apart:.1e}"


@torch.no_grad()
def invariance(
    model: SpeechModel, most: float = float("inf"), relative: float = float("inf")
) -> Result:
    """Encoder frames of clips alone and in a ragged batch."""
    model.eval()
    waveform, lengths = _ragged(model)
    most_apart = squares = 0.0
    with exact_fp32():
        frames, n_frames = model.encode(waveform, lengths)
        for row, n in enumerate(lengths.tolist()):
            alone, _ = model.encode(waveform[row : row + 1, :n], lengths[row : row + 1])
            apart = (frames[row, : alone.shape[1]] - alone[0]).float()
            most_apart = max(most_apart, float(apart.abs().max()))
            squares = max(squares, float(apart.square().mean()))
    ratio = squares**0.5 / float(frames[0, : int(n_frames[0])].float().square().mean().sqrt())
    message = f"within {most_apart:.1e} at most and {ratio:.1e} of their rms"
    return most_apart < most and ratio < relative, message


def step(model: SpeechModel, kind: str) -> Result:
    """One step of a projector of full size and of LoRA: only they get gradients."""
    lm, kept, device = model.causal_lm, model.projector, model.device
    width, wide = kept.d_encoder, embedding_table(lm).shape[1]
    options = asdict(getattr(ProjectorConfig(), kind))
    try:
        model.projector = build_projector(kind, width, wide, embedding_rms(lm), options).to(device)
        model.decoder = add_lora(lm, **asdict(LoraConfig()))
        counts = apply_learns(model, ["projector", "lora"])
        loss, peak = _train_once(model, [12.0] * 8)
        with_grad = {n for n, p in model.named_parameters() if p.grad is not None}
        learns = {n for n, p in model.named_parameters() if p.requires_grad}
        finite = all(
            bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None
        )
    finally:
        model.projector = kept
        if model.decoder is not lm:
            model.decoder = model.decoder.unload()  # type: ignore[operator]
        for parameter in model.parameters():
            parameter.grad = None
        model.causal_lm.requires_grad_(False)
    ok = with_grad == learns and finite and 0 < loss < 100
    sizes = ", ".join(f"{part} {n / 1e6:.1f} M" for part, n in counts.items())
    return ok, (
        f"loss {loss:.3f}, gradients of {len(with_grad)} tensors of {len(learns)} that learn "
        f"({sizes}), {len(with_grad - learns)} of frozen ones, peak {peak / 2**30:.1f} GiB"
    )


def small_card(model: SpeechModel) -> Result:
    """A step on 300 s of audio on a card of 24 GB."""
    if model.device.type != "cuda":
        return True, "only on CUDA"
    total = torch.cuda.get_device_properties(model.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 24e9 / total))
    try:
        loss, peak = _train_once(model, [20.0] * 15)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        model.projector.zero_grad(set_to_none=True)
    return 0 < loss < 100, f"loss {loss:.3f}, peak {peak / 2**30:.1f} GiB"


def _train_once(model: SpeechModel, seconds: list[float]) -> tuple[float, float]:
    """Loss of one step, as training takes it, and the most memory held, in bytes."""
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=1e-6, fused=cuda or None)
    model.train()
    batch = Collator(model, None, labels=True)(utterances(seconds)).batch.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=cuda):
        loss = model.loss(batch)
    mean = loss.total / loss.n_tokens
    mean.backward()
    optimizer.step()
    return float(mean.detach()), torch.cuda.max_memory_allocated() if cuda else float("nan")


def _ragged(model: SpeechModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Waveforms [B, S] and lengths [B] of a ragged batch."""
    load = Collator(model, None, labels=False)(utterances(LENGTHS)).to(model.device)
    return load.batch.waveform, load.batch.waveform_lengths
