"""Tokenizers for prompt tests: a small one made here, and the real Qwen3 one where it is."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    template: str | None = CHATML,
    special: tuple[str, ...] = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio_pad|>"),
    **names: str,
) -> PreTrainedTokenizerFast:
    """One token a byte, plus `special`, with any chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(name, special=True) for name in special])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture
def tokenizer_factory() -> Callable[..., PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture(scope="session")
def qwen3(shared_data: Path) -> PreTrainedTokenizerBase:
    folder = shared_data / "qwen3_tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no Qwen3 tokenizer in {folder}")
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(params=["qwen3", "tiny"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerBase:
    if request.param == "qwen3":
        return request.getfixturevalue("qwen3")
    return make_tokenizer(eos_token="<|im_end|>", pad_token="<|endoftext|>")
