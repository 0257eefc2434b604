"""Training labels: a corpus's transcript becomes the text that the model is to write.

What is known not to have been said is removed or rejected; what may have been said stays. A rule
matches a bracket with all that it encloses, or a whole word, never letters inside a word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tiny_audio.errors import ConfigError, LabelRejected

# Words for a stretch that was left out of the transcript (NIST STM files, TED-LIUM among them): the
# audio holds speech that the label does not.
SEGMENT_MARKERS = frozenset({"ignore_time_segment_in_scoring", "inter_segment_gap"})

# GigaSpeech: labels of what is no transcribed speech, and punctuation.
GARBAGE_TAGS = frozenset({"<noise>", "<music>", "<sil>", "<other>"})
PUNCTUATION_TAGS = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}

# Notes on sounds, each removed in any kind of bracket: <noise> [noise] (noise) {noise}.
SOUNDS = frozenset(
    """
    applause background background_noise background_speech barking beep blank_audio breath
    breathing breathes cheering chuckle chuckles chuckling clapping clears_throat click clicks
    coughing cough coughs cross_talk crosstalk crying exhale exhales foreign foreign_language
    gasp gasps giggles groans hesitation human_noise inaudible indiscernible inhale inhales
    laugh laughing laughs laughter lip_smack lipsmack mouth_noise music no_speech noise noises
    overlap overlapping_speech pause phone_ringing ring ringing sigh sighing sighs sil silence
    singing smack sneeze sneezes sniff sniffs snort spoken_noise static throat_clearing
    tongue_click unclear unintelligible unk unknown vocal_noise vocalized_noise whispering
    whistling
    """.split()
)

# Hesitations in brackets ({um}) are notes; as plain words they are words of the transcript.
HESITATIONS = frozenset("ah eh er erm hm hmm huh mhm mm uh uhm um".split())

_NOTES = SOUNDS | HESITATIONS
_BRACKETED = re.compile(r"<([^<>]*)>|\[([^\[\]]*)\]|\(([^()]*)\)|\{([^{}]*)\}")
_FREE_STANDING = re.compile(r"(?<!\w)(?:</?[^\W\d_][^<>\s]{0,29}>|\[[^\[\]]{0,40}\])(?!\w)")
_SAID_LAUGHING = re.compile(r"\[laugh(?:ter|ing)-([^\W\d_][\w'-]*)\]", re.IGNORECASE)
_PUNCTUATION_TAG = re.compile(rf"\s*<({'|'.join(PUNCTUATION_TAGS)})>", re.IGNORECASE)
_PERCENT = re.compile(r"\s*%+(\w?)")
_SPACE_BEFORE_STOP = re.compile(r"\s+([,.?!;:]+)(?=\s|$)")
_DETACHED = re.compile(  # it 's, we 'll, don 't
    r"(?<=\w)\s+(?='(?:s|m|d|re|ve|ll)(?![\w']))|(?<=n)\s+(?='t(?![\w']))", re.IGNORECASE
)
_MARK = re.compile(r"[^\w\s]")
_CASES = ("keep", "lower", "lower_capitals", "auto")
_ALL, _SOME = 0.9, 0.1  # share of labels in capitals: `auto` lowers a set, or those labels of it
_SPOKEN_SYMBOLS = frozenset("&@#+=°")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("‘’‛ʼ′＇", "'"),
        **dict.fromkeys("“”„‟″＂", '"'),
        **dict.fromkeys("％﹪٪", "%"),
        **dict.fromkeys("♩♪♫♬", " "),  # subtitles' sign for singing
        **dict.fromkeys("\u00ad\u200b\u2060\ufeff"),  # soft hyphen and zero-width spaces: gone
    }
)


@dataclass(frozen=True)
class LabelRules:
    """How one corpus's transcripts become labels.

    Always: Unicode NFC, straight quotes, single spaces, `5%` as `5 percent`, GigaSpeech's
    `<COMMA>` as a comma, detached endings joined (TED-LIUM's `it 's`), `[laughter-yes]` as the
    word that was said, notes removed. A bracket with all it encloses is a note if it encloses
    nothing but a name on our list, or if it is square or angular, stands alone and is short:
    `[door slams]`, `<spk1>`. These two are the transcriber's own hand; parentheses and braces
    also hold what was said (an aside, Switchboard's `{F uh }`).

    Args:
        case: `keep`; `lower`; `lower_capitals`: only labels that are all capitals; or `auto`:
            what `case_of` says, else `keep`.
        punctuation: `keep`, or `strip`: marks that have no sound become spaces. Apostrophes inside
            a word, numbers (3.5, 1,000, 10:30) and symbols that are read out (&, @, $) stay.
        allow_empty: let a label without words through as "": a source of noise says so.
        case_of: case of single sets, by their names.
    """

    case: str = "keep"
    punctuation: str = "keep"
    allow_empty: bool = False
    case_of: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checks = [("case", self.case, _CASES), ("punctuation", self.punctuation, ("keep", "strip"))]
        checks += [(f"case_of.{name}", case, _CASES[:-1]) for name, case in self.case_of.items()]
        for name, value, allowed in checks:
            if value not in allowed:
                choices = ", ".join(allowed)
                raise ConfigError(f"labels.{name} is {value!r}: set it to one of {choices}.")

    def clean(self, text: str, source: str = "") -> str:
        """The label for a transcript of a set; cleaning a label again changes nothing.

        Raises LabelRejected, reason `marker_label` where the whole transcript says that this is
        no transcribed speech, `empty_label` where no letter or digit is left.
        """
        text = _plain_characters(text)
        case = self.case_of.get(source, self.case)
        if case == "lower":
            text = _lowered(text)
        _reject_markers(text)
        text = _PUNCTUATION_TAG.sub(lambda tag: PUNCTUATION_TAGS[tag[1].upper()] + " ", text)
        text = _remove_notes(text)
        percent = " PERCENT" if text.isupper() else " percent"
        text = _PERCENT.sub(lambda sign: f"{percent} {sign[1]}" if sign[1] else percent, text)
        text = _DETACHED.sub("", text)
        if self.punctuation == "strip":
            text = _MARK.sub(_strip_mark, text)
        text = _SPACE_BEFORE_STOP.sub(r"\1", " ".join(text.split()))
        if case == "lower_capitals" and in_capitals(text):
            text = _lowered(text)
        if any(character.isalnum() for character in text):
            return text
        if self.allow_empty:
            return ""
        raise LabelRejected("The transcript has no words: nothing to learn.", reason="empty_label")


def in_capitals(label: str) -> bool | None:
    """Whether a label is all capitals; None where it is too short to tell, like "OK" or "USA".

    Long enough are two words with letters, or four letters.
    """
    letters = [c for c in label if c.lower() != c.upper()]
    words = sum(any(c.isalpha() for c in word) for word in label.split())
    if not letters or (len(letters) < 4 and words < 2):
        return None
    return all(c.isupper() for c in letters)


def case_for(labels: Sequence[str]) -> tuple[str, float]:
    """What `auto` makes of a set with such labels, and the share of them that is in capitals."""
    known = [capitals for label in labels if (capitals := in_capitals(label)) is not None]
    share = sum(known) / max(len(known), 1)
    return "lower" if share >= _ALL else "lower_capitals" if share >= _SOME else "keep", share


def _lowered(text: str) -> str:
    return unicodedata.normalize("NFC", text.lower())


def _plain_characters(text: str) -> str:
    """Canonical composition, straight quotes, no control characters, no broken surrogates."""
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    return unicodedata.normalize("NFC", text.translate(_CHARACTERS))


def _reject_markers(text: str) -> None:
    words = text.casefold().split()
    marks = [word for word in words if word.strip("<>[](){}.,") in SEGMENT_MARKERS]
    if not marks and all(word in GARBAGE_TAGS for word in words):
        marks = words
    if marks:
        message = f"The transcript is the marker {marks[0]}: its audio is not transcribed."
        raise LabelRejected(message, reason="marker_label")


def _remove_notes(text: str) -> str:
    """Remove notes from the inside out, until none is left; every round makes the text shorter."""
    before = None
    while text != before:
        before = text
        text = _BRACKETED.sub(_drop_listed, _SAID_LAUGHING.sub(r"\1", text))
        text = _FREE_STANDING.sub(" ", text)
    return text


def _drop_listed(bracket: re.Match[str]) -> str:
    content = bracket[0][1:-1].strip(" \t.,!?:;*/").casefold()
    return " " if re.sub(r"[\s_-]+", "_", content) in _NOTES else bracket[0]


def _strip_mark(mark: re.Match[str]) -> str:
    """A space for a silent mark, the mark itself where it is part of a word or a number."""
    character = mark[0]
    category = unicodedata.category(character)
    if category[0] not in "PS" or category == "Sc" or character in _SPOKEN_SYMBOLS:
        return character
    before = mark.string[: mark.start()][-1:] or " "
    after = mark.string[mark.end() :][:1] or " "
    accented = unicodedata.category(before)[0] == "M"  # a mark apart from its letter
    in_word = character == "'" and (before.isalnum() or accented) and after.isalnum()
    in_number = character in ".,:" and before.isdigit() and after.isdigit()
    decimal = character == "." and before.isspace() and after.isdigit()  # .5
    return character if in_word or in_number or decimal else " "
