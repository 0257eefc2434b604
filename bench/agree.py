"""Nothing that is faster may be wrong: the plain way and ours must give the same numbers.

All of it in fp32 with TF32 off. A clip padded to 30 s is another input than the clip alone (the
encoder hears the silence), so each is compared with its like: 30 s with ``padding=native``, and
the tight, ragged batch with each clip alone, unpadded, through transformers' own forward.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from bench.infer import transcribe
from bench.load import Collator, Load, spoken_tokens, utterances
from bench.plain import Plain
from bench.train import Step, Variant
from tiny_audio.model.batch import IGNORE
from tiny_audio.model.speech import SpeechModel

SECONDS = [2.0, 3.31, 4.987]


@contextmanager
def exact_fp32() -> Iterator[None]:
    """Products and convolutions in true fp32."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_fp32(model: SpeechModel) -> SpeechModel:
    """A copy with every weight in fp32."""
    return copy.deepcopy(model).float()


def check_training(model: SpeechModel) -> bool:
    """Print how far loss and gradients of the plain way and of ours are apart."""
    with exact_fp32():
        model = in_fp32(model).eval()  # no projector of the benchmark has dropout
        plain, device = Plain(model), model.device
        members = utterances(SECONDS)

        def of_ours() -> Tensor:
            loss = model.loss(Collator(model, None, labels=True)(members).batch.to(device))
            return loss.total / loss.n_tokens

        def of_window() -> Tensor:
            return plain.loss(Collator(model, "max_length", labels=True)(members).to(device))

        def alone() -> Tensor:
            losses, counts = [], []
            for one in members:
                batch = Collator(model, None, labels=True)([one]).batch.to(device)
                assert batch.labels is not None
                mel, _ = model.features(batch.waveform, batch.waveform_lengths)
                counts.append(int((batch.labels != IGNORE).sum()))
                losses.append(plain.loss(Load(batch, mel)) * counts[-1])
            return torch.stack(losses).sum() / sum(counts)

        def unmasked() -> Tensor:
            load = Collator(model, None, labels=True)(members).to(device)
            return Step(model, Variant("", padding_mask=False)).loss(load)

        tight = _apart(model, of_ours, alone)
        maskless = _apart(model, unmasked, alone)
        model.encoder.padding = "native"
        native = _apart(model, of_ours, of_window)
    found = {
        "ours, padded to 30 s, and the plain way": native,
        "ours, tight ragged batch, and each clip alone the plain way": tight,
        "the same, the decoder without padding mask": maskless,
    }
    print("\nSame loss and gradients (fp32, relative difference):")
    for name, (loss, gradient) in found.items():
        print(f"- {name}: loss {loss:.1e}, gradient {gradient:.1e}", flush=True)
    return max(map(max, found.values())) < 1e-4


def _apart(
    model: SpeechModel, a: Callable[[], Tensor], b: Callable[[], Tensor]
) -> tuple[float, float]:
    """Relative difference of two losses and of the projector's gradients."""
    results = []
    for loss_of in (a, b):
        model.projector.zero_grad(set_to_none=True)
        loss = loss_of()
        loss.backward()
        grads = [p.grad.flatten() for p in model.projector.parameters() if p.grad is not None]
        results.append((loss.detach(), torch.cat(grads).clone()))
    (loss_a, grad_a), (loss_b, grad_b) = results
    return float((loss_a - loss_b).abs() / loss_b), float((grad_a - grad_b).norm() / grad_b.norm())


def check_text(model: SpeechModel) -> bool:
    """Print whether a ragged batch, each clip alone, and transformers' ``generate`` write the same
    tokens."""
    with exact_fp32(), torch.no_grad():
        model = in_fp32(model).eval()
        plain = Plain(model)
        members = utterances([1.3, 2.0, 3.31, 4.987, 9.5])
        together = transcribe(model, members)
        alone = [transcribe(model, [one])[0] for one in members]
        by_hand = []
        for one in members:
            batch = Collator(model, None, labels=False)([one]).batch.to(model.device)
            mel, _ = model.features(batch.waveform, batch.waveform_lengths)
            n_audio = model.audio_tokens(len(one.waveform))
            by_hand.append(plain.decode(mel, n_audio, spoken_tokens(one)))
    ids = [h.token_ids for h in together]
    same_alone = sum(a == b.token_ids for a, b in zip(ids, alone, strict=True))
    same_plain = sum(a == b for a, b in zip(ids, by_hand, strict=True))
    scores = zip(together, alone, strict=True)
    apart = max(abs((a.logprob or 0.0) - (b.logprob or 0.0)) for a, b in scores)
    print(f"\nSame tokens (fp32) in a ragged batch of {len(ids)} ({sum(map(len, ids))} tokens):")
    print(f"- as each clip alone: {same_alone}, mean log-probability within {apart:.1e}")
    print(f"- as transformers' generate, clip by clip: {same_plain} of {len(ids)}", flush=True)
    return same_alone == same_plain == len(ids)
