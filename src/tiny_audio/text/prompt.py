"""The prompt: what the decoder reads around the audio, the same in training and in use.

The user turn is the instruction followed by one placeholder per audio token, in the decoder's
own chat template, thinking off:

    <|im_start|>user\\nTranscribe: [A placeholders]<|im_end|>\\n<|im_start|>assistant\\n...
    '------- prefix_ids --------'                 '------------ suffix_ids -----------'

The template is rendered once, with a single placeholder, and cut there. Every prompt is then
made from the same two lists of ids, so a training prefix cannot differ from an inference prefix.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tiny_audio.config import DecoderConfig
from tiny_audio.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Spare tokens, best first: made for audio, then made for another modality or for infilling
# (a text decoder never sees them), then the numbered reserves that model families ship.
PLACEHOLDER_NAMES = (
    "<|audio_pad|> <|AUDIO|> <|audio|> <audio> <|fim_pad|> <|image_pad|> <|vision_pad|> "
    "<|video_pad|> <image_soft_token> <empty_output> <|fim_middle|>"
).split()
PLACEHOLDER_PATTERN = re.compile(
    r"<\|?(reserved|unused|extra|dummy|placeholder|special)[a-z_]*[\d_]*\|?>|\[unused\d+\]",
    re.IGNORECASE,
)

# Some templates write today's date into the system turn. A prompt must not change overnight, so
# they are given the date that Llama 3's template falls back to.
_DATE = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"


@dataclass(frozen=True)
class Prompt:
    """The two halves of the prompt, the ids that matter, and the tokenizer of the transcript.

    Picklable, so that data-loading workers can carry it.
    """

    prefix_ids: list[int]
    suffix_ids: list[int]
    placeholder_id: int
    end_id: int
    tokenizer: PreTrainedTokenizerBase = field(repr=False, compare=False)

    @classmethod
    def from_tokenizer(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        instruction: str = DecoderConfig.instruction,
        placeholder: str | None = None,
    ) -> Prompt:
        """Read prefix, suffix and end token off the tokenizer's own chat template.

        `placeholder` names the spare token to use instead of the automatic choice. Raises
        ModelError if there is no chat template, no spare token, or the template does not keep
        the user's content in one piece.
        """
        name = _name(tokenizer)
        if not tokenizer.chat_template:
            raise ModelError(
                f"The tokenizer {name} has no chat template, so there is no prompt to build: use "
                "the instruction-tuned version of the model, or set tokenizer.chat_template."
            )
        spare = _choose_placeholder(tokenizer, placeholder)
        placeholder_id = _added_tokens(tokenizer)[spare]
        text = _render(tokenizer, {"user": instruction + spare}, add_generation_prompt=True)
        ids = _tokenize(tokenizer, text)
        if ids.count(placeholder_id) != 1:
            raise ModelError(
                f"The chat template of {name} shows the placeholder {spare} "
                f"{ids.count(placeholder_id)} times where one was put in the user turn: choose "
                "another spare token with `placeholder`, or another chat template."
            )
        cut = ids.index(placeholder_id)
        end_id = _end_of_assistant_turn(tokenizer, spare, placeholder_id)
        prompt = cls(ids[:cut], ids[cut + 1 :], placeholder_id, end_id, tokenizer)
        # A token that swallows its neighbour would make the prompt depend on the audio's length.
        repeated = _tokenize(tokenizer, text.replace(spare, spare * 3)) == prompt.build(3)
        if not repeated or end_id == placeholder_id:
            why = "ends a chat turn" if repeated else "changes the text around it"
            raise ModelError(
                f"The token {spare} of {name} cannot stand for audio, as it {why}: choose another "
                "spare token with `placeholder`."
            )
        return prompt

    @property
    def fixed_length(self) -> int:
        """Tokens of a prompt that are not audio."""
        return len(self.prefix_ids) + len(self.suffix_ids)

    def build(self, n_audio: int) -> list[int]:
        """Ids of a whole prompt [T] with `n_audio` >= 1 placeholders; the answer follows it."""
        if n_audio < 1:
            raise ValueError(f"a prompt needs at least one audio token, not {n_audio}")
        return self.prefix_ids + [self.placeholder_id] * n_audio + self.suffix_ids

    def audio_span(self, n_audio: int) -> tuple[int, int]:
        """First position of the audio in build(n_audio), and the position after its last."""
        return len(self.prefix_ids), len(self.prefix_ids) + n_audio

    def training(self, n_audio: int, transcript: str) -> tuple[list[int], int]:
        """Ids of prompt, transcript and end token [T], and how many of them are the prompt.

        The transcript is tokenised on its own and as plain text: it cannot change the prompt's
        ids, and a control token written out in it stays a string of ordinary characters.
        """
        prompt = self.build(n_audio)
        ids = _tokenize(self.tokenizer, transcript, split_special_tokens=True)
        return prompt + ids + [self.end_id], len(prompt)


def _choose_placeholder(tokenizer: PreTrainedTokenizerBase, wanted: str | None) -> str:
    """Name of an existing token that no conversation uses; the vocabulary never grows.

    Candidates by preference: by name, by pattern, then `<unk>` and the pad token.
    """
    added = _added_tokens(tokenizer).keys() - {tokenizer.bos_token, tokenizer.eos_token}
    reserved = [t for t in _added_tokens(tokenizer) if PLACEHOLDER_PATTERN.fullmatch(t)]
    last = (tokenizer.unk_token, tokenizer.pad_token)
    spare = [str(token) for token in (*PLACEHOLDER_NAMES, *reserved, *last) if token in added]
    if wanted is not None and wanted not in added:
        raise ModelError(
            f"The placeholder {wanted!r} is no spare token of {_name(tokenizer)}: choose a special "
            f"token that nothing else uses, such as {', '.join(spare[:5])}."
        )
    template = tokenizer.get_chat_template()  # what it writes would not be unique in the prompt
    chosen = wanted or next((token for token in spare if token not in template), None)
    if chosen is None:
        raise ModelError(
            f"The tokenizer {_name(tokenizer)} has no spare token to stand for audio: name one of "
            "its special tokens with `placeholder`."
        )
    return chosen


def _end_of_assistant_turn(tokenizer: PreTrainedTokenizerBase, spare: str, spare_id: int) -> int:
    """Id of the token that the template writes right after a finished assistant turn.

    The spare token plays the answer, so that its place is exact; white space between answer and
    end token (as in Llama 2's template) is passed over. Templates that write none: `eos`.
    """
    text = _render(tokenizer, {"user": "?", "assistant": spare}, add_generation_prompt=False)
    ids, control = _tokenize(tokenizer, text), _added_tokens(tokenizer).values()
    after = ids[len(ids) - ids[::-1].index(spare_id) :] if spare_id in ids else []
    written = (
        token for token in after if token in control or str(tokenizer.decode([token])).strip()
    )
    first = next(written, None)
    if first is not None and first in control:
        return first
    if isinstance(tokenizer.eos_token_id, int):
        return tokenizer.eos_token_id
    raise ModelError(
        f"Nothing ends an assistant turn in the chat template of {_name(tokenizer)}, and it has no "
        "eos token: set tokenizer.eos_token."
    )


def _render(
    tokenizer: PreTrainedTokenizerBase, turns: dict[str, str], *, add_generation_prompt: bool
) -> str:
    """The turns (role -> text) as the template's own text; it ignores arguments it has not."""
    from jinja2 import TemplateError  # on first use: importing this module stays cheap

    template = tokenizer.get_chat_template()
    try:
        text: Any = tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in turns.items()],
            chat_template=_DATE + template if "strftime_now" in template else template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,
        )
    except TemplateError as error:
        raise ModelError(
            f"The chat template of {_name(tokenizer)} fails on a plain user turn ({error}): set "
            "tokenizer.chat_template to one that takes text."
        ) from error
    return str(text)


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str, **options: bool) -> list[int]:
    """Token ids of `text` with nothing added before or after."""
    ids: Any = tokenizer.encode(text, add_special_tokens=False, **options)
    return list(ids)


def _added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Tokens that are matched whole, before any other rule of the tokenizer: name -> id."""
    return {token.content: i for i, token in sorted(tokenizer.added_tokens_decoder.items())}


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return tokenizer.name_or_path or type(tokenizer).__name__
