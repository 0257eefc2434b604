"""Text of the recipe: phrases from the books and the everyday grammar, and the BPE tokenizer."""

import json
import lzma
import random
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tiny_audio.data.grammar import is_test_text, sentences

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_pad|>")
THINK = ("<think>", "</think>")
TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint", "messrs": "messieurs"}
# Qwen's own split: contractions, words with their leading space, single digits, punctuation.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen3's template for plain chats (no tools): the same bytes for what a recogniser renders.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}"
    "{%- endif %}{%- endif %}"
)


def clean(text: str) -> str:
    """Lower case words with apostrophes; "" where a digit or a foreign letter makes it unsafe."""
    text = text.lower().replace("’", "'").replace("‘", "'")
    if re.search(r"[0-9à-ÿ&@/]", text):
        return ""
    words = [word.strip("'") for word in re.sub(r"[^a-z']", " ", text).split()]
    return " ".join(TITLES.get(word, word) for word in words if word)


def book_phrases(archive: Path, seed: int = 0, longest: int = 34) -> Iterator[str]:
    """Runs of 2 to `longest` words from the books, cut mostly where a sentence or clause ends."""
    rng = random.Random(seed)
    with lzma.open(archive, "rt", errors="ignore") as lines:
        paragraphs = re.split(r"\n\s*\n", lines.read())
    for paragraph in paragraphs:
        if paragraph.startswith("#"):
            continue
        words: list[str] = []
        target = rng.choice((4, 6, 8, 10, 12, 16, 20, 26))
        for clause in re.split(r"(?<=[.,;:!?])\s|--+|—", paragraph):
            words += clean(clause).split()
            while len(words) >= target:
                cut = len(words) if len(words) <= min(longest, target + 6) else target
                if cut >= 2 and all(len(word) < 16 for word in words[:cut]):
                    yield " ".join(words[:cut])
                words = words[cut:]
                target = rng.choice((2, 4, 6, 8, 10, 12, 16, 20, 26))


def cut_books(archive: Path, work: Path) -> None:
    """Write the books' phrases to work/phrases-train.txt and, held out, work/phrases-test.txt."""
    phrases = list(book_phrases(archive))
    random.Random(0).shuffle(phrases)
    for split in ("train", "test"):
        some = [p for p in phrases if is_test_text(p) == (split == "test")]
        (work / f"phrases-{split}.txt").write_text("\n".join(some))


def corpus(work: Path, split: str, everyday: int) -> list[str]:
    """Shuffled phrases of one split: the books' and `everyday` sentences of the grammar."""
    phrases = (work / f"phrases-{split}.txt").read_text().splitlines()
    phrases += islice(sentences(1000, split), everyday)
    random.Random(1).shuffle(phrases)
    return phrases


def train_tokenizer(phrases: list[str], size: int, folder: Path) -> None:
    """Train a byte-level BPE of `size` ids in Qwen's format and write it with its chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False, use_regex=False)
    prompt_words = ["Transcribe:", "user", "assistant"] * (len(phrases) // 20 + 50)
    tokenizer.train_from_iterator(
        phrases + prompt_words,
        trainers.BpeTrainer(
            vocab_size=size - len(SPECIALS) - len(THINK),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIALS])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in THINK])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "errors": "replace",
        "model_max_length": 1024,
        "split_special_tokens": False,
        "additional_special_tokens": list(SPECIALS[1:]),
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


class Vocabulary:
    """The ids the recipe needs: text to ids, the prompt around the audio, the CTC blank."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.size: int = self.tokenizer.get_vocab_size()
        self.end = self.ids("<|im_end|>")[0]
        self.blank = self.ids("<|audio_pad|>")[0]  # also the prompt's placeholder
        self.prefix = self.ids("<|im_start|>user\nTranscribe: ")
        self.suffix = self.ids("<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n")

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, special tokens parsed."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def text(self, ids: list[int]) -> str:
        """The words of token ids, special tokens left out."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
