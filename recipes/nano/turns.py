"""Noisy turns for the decoder: misspelt, stretched and mixed renderings of clean words.

B rows, N tokens of a text, A audio places, W decoder width.
"""

import random

import numpy as np
import torch
from torch import Tensor

from recipes.nano.text import Vocabulary

# Letters and endings that recognisers take for each other.
CONFUSED = (
    "a e o u|e i a|i e y|o u a|u o a|b p v|p b|d t|t d|g k|k g c|c k s|s z c|z s|m n|n m|f v th|"
    "v f b|th f d|l r|r l w|w r|sh s ch|ch sh j|j ch|ee ea i|ea ee e|ou o oo|oo u ou|er a or|"
    "or er o|ed t d|ing in|ck k|ll l|ss s|tt t|igh ie i|ough o uff|tion shun sion|wh w|ph f"
)


def misspell(word: str, rng: random.Random) -> str:
    """One to three letter errors, most of them between sounds that are alike."""
    table = {entry.split()[0]: entry.split()[1:] for entry in CONFUSED.split("|")}
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(word))
        for size in (4, 3, 2, 1):
            piece = word[at : at + size]
            if piece in table and rng.random() < 0.85:
                word = word[:at] + rng.choice(table[piece]) + word[at + size :]
                break
        else:
            letter = rng.choice("etaoinshrdlu")
            kind = rng.random()
            kept = word[at + 1 :] if kind < 0.6 else word[at:]
            word = word[:at] + ("" if kind < 0.3 and len(word) > 1 else letter) + kept
    return word


def _compact(values: Tensor, valid: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Move the valid entries of each row [B, N] to its front: [B, width] and their counts [B]."""
    place = torch.where(valid, valid.cumsum(1) - 1, width).clamp(max=width)
    table = values.new_zeros(len(values), width + 1).scatter(1, place, values)
    return table[:, :width], valid.sum(1).clamp(max=width)


class Turns:
    """Batches of noisy turns over phrases, made on the device."""

    VERSIONS = 8  # of each word: 0 is right, 1 is right but cut into small pieces
    KEPT = 8  # ids of a word at most

    def __init__(
        self, phrases: list[str], vocabulary: Vocabulary, seed: int, device: torch.device
    ) -> None:
        self.vocabulary, self.device = vocabulary, device
        self.rng = np.random.default_rng(seed)
        numbers: dict[str, int] = {}
        words, counts = [], []
        for phrase in phrases:
            first, *others = phrase.split()
            keys = [first, *(f" {word}" for word in others)]
            words += [numbers.setdefault(key, len(numbers)) for key in keys]
            counts.append(len(keys))
        rng = random.Random(0)
        versions: list[list[str]] = []
        for key in numbers:
            space, word = key[: len(key) - len(key.lstrip())], key.lstrip()
            cut = rng.randrange(1, len(word)) if len(word) > 1 else 1
            versions += [[key], [space + word[:cut], word[cut:]]]
            versions += [[space + misspell(word, rng)] for _ in range(self.VERSIONS - 2)]
        pieces = [piece for version in versions for piece in version]
        encoded = iter(vocabulary.tokenizer.encode_batch(pieces))
        ids = [[i for _ in version for i in next(encoded).ids][: self.KEPT] for version in versions]
        padded = np.zeros((len(ids), self.KEPT), dtype=np.int64)
        for row, kept in zip(padded, ids, strict=True):
            row[: len(kept)] = kept
        self.table = torch.from_numpy(padded).to(device)  # [words * versions, KEPT]
        self.sizes = torch.tensor([len(kept) for kept in ids], device=device)
        self.words = torch.tensor(words, device=device)
        self.counts = torch.tensor(counts, device=device)
        self.begins = self.counts.cumsum(0) - self.counts
        self.by_length = self.counts.argsort(stable=True)

    def _ids(
        self, words: Tensor, version: Tensor, keep: Tensor, width: int
    ) -> tuple[Tensor, Tensor]:
        at = words * self.VERSIONS + version
        tokens = self.table[at]  # [B, words, 8]
        valid = torch.arange(tokens.shape[2], device=self.device) < self.sizes[at][..., None]
        valid = valid & keep[..., None]
        return _compact(tokens.flatten(1).long(), valid.flatten(1), width)

    def batch(
        self, size: int, hard: float, wrong: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """ids and weights [B, A, 3] to mix, lengths [B], clean ids [B, T] and their counts [B].

        `wrong` is the largest share of misspelt words a phrase may have.
        """
        rng, device = self.rng, self.device
        total = len(self.by_length)
        at = int(rng.integers(0, total))
        low = max(0, min(at - size, total - 3 * size))
        pick = torch.randint(low, min(low + 3 * size, total), (size,), device=device)
        pick = self.by_length[pick]
        longest = int(self.counts[self.by_length[min(low + 3 * size, total) - 1]])
        longest = -(-longest // 4) * 4
        place = torch.arange(longest, device=device)[None]
        inside = place < self.counts[pick][:, None]
        empty = torch.arange(size, device=device)[:, None] % 40 == 0
        inside = inside & ~empty
        index = (self.begins[pick][:, None] + place).clamp(max=len(self.words) - 1)
        words = self.words[index].long()
        share = torch.rand(size, 1, device=device) * wrong
        share = share * (torch.rand(size, 1, device=device) < 0.85)
        version = torch.randint(1, self.VERSIONS, words.shape, device=device)
        version = version * (torch.rand(words.shape, device=device) < share)
        width = 3 * longest + 8
        clean, counts = self._ids(words, torch.zeros_like(version), inside, width)
        heard, spoken = self._ids(words, version, inside, width)
        kept = torch.rand(heard.shape, device=device) > 0.06 * share
        kept = kept & (torch.arange(width, device=device) < spoken[:, None])
        heard, spoken = _compact(heard, kept, width)
        ids, weights, lengths = self._stretch(heard, spoken, hard)
        return ids, weights, lengths, clean, counts

    def _stretch(
        self, tokens: Tensor, counts: Tensor, hard: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Spread tokens [B, N] over audio places with blanks between: ids, weights, lengths."""
        blank, device = self.vocabulary.blank, self.device
        size, most = tokens.shape
        valid = torch.arange(most, device=device) < counts[:, None]
        pace = torch.rand(size, 1, device=device) * 2.2 + 0.2  # mean blanks before a token
        gaps = (torch.rand(size, most, device=device) * 2 * pace + 0.3).floor()
        pause = (torch.rand(size, most, device=device) < 0.04) * torch.randint(
            1, 20, (size, most), device=device
        )
        gaps = (gaps + pause).long() * valid
        repeats = (1 + (torch.rand(size, most, device=device) < 0.2 * hard).long()) * valid
        ends = (gaps + repeats).cumsum(1)
        tail = torch.randint(0, 6, (size,), device=device)
        tail = torch.where(counts == 0, torch.randint(2, 120, (size,), device=device), tail)
        lengths = (ends[:, -1] + tail).clamp(min=1)
        width = -(-int(lengths.max()) // 16) * 16
        main = torch.full((size, width + 1), blank, device=device)
        for back in (1, 2):
            spot = torch.where(valid & (repeats >= back), ends - back, width)
            main = main.scatter(1, spot, torch.where(valid, tokens, blank))
        main = main[:, :width]
        spoken = main != blank
        # The second id: a neighbour's token, or a stranger; the third is the blank.
        chance = torch.rand(3, size, width, device=device)
        neighbour = torch.where(chance[0] < 0.5, main.roll(1, 1), main.roll(-1, 1))
        stranger = torch.randint(0, blank - 2, main.shape, device=device)
        second = torch.where(chance[1] < 0.5, neighbour, stranger)
        ids = torch.stack([main, second, torch.full_like(main, blank)], dim=2)
        sure = chance[2] > 0.35 * hard
        draw = torch.rand(3, size, width, device=device)
        other = torch.where(sure, 0.1, 0.6 * draw[0]) * hard * draw[1]
        other = torch.where(spoken, other, other * (torch.rand(main.shape, device=device) < 0.15))
        hush = torch.where(spoken & ~sure, 0.5 * draw[2], 0.0) * hard
        weights = torch.stack([1 - other - hush * (1 - other), other, hush * (1 - other)], dim=2)
        return ids, weights, lengths


def soft_audio(table: torch.nn.Embedding, ids: Tensor, weights: Tensor, noise: float) -> Tensor:
    """Mix embedding rows [B, A, 3] to audio tokens [B, A, W], with noise, most at one loudness."""
    mixed = (table(ids) * weights[..., None]).sum(2)
    rms = table.weight.detach().square().mean().sqrt()
    amount = noise * torch.rand(len(ids), 1, 1, device=ids.device)
    mixed = mixed + torch.randn_like(mixed) * amount * rms
    level = (mixed.square().mean(-1, keepdim=True) + 1e-8).sqrt()
    even = torch.rand(len(ids), 1, 1, device=ids.device) < 0.7
    return torch.where(even, mixed / level * rms, mixed)
