"""Errors meant for people: one line that says what was wrong, where, and what to do.

The command line prints the message of any ``TinyAudioError`` and exits with status 2, without a
traceback. Anything else that escapes is a bug in Tiny Audio and keeps its traceback.
"""

from __future__ import annotations


class TinyAudioError(Exception):
    """Base of every error that the user, not the program, can mend."""


class ConfigError(TinyAudioError):
    """A setting is unknown, missing or contradicts another."""


class HubError(TinyAudioError):
    """Files of the Hugging Face Hub cannot be had: not there, not allowed, no network, no space."""


class ModelError(TinyAudioError):
    """An encoder, decoder, tokenizer or projector is not what the model needs."""


class CheckpointError(TinyAudioError):
    """A checkpoint is damaged, incomplete or belongs to another pair."""


class DataError(TinyAudioError):
    """A data source cannot be opened or has not the columns it should have."""


class SourceError(DataError):
    """What a data source's `setting` names is wrong; whoever opens it adds what to do."""

    def __init__(self, message: str, *, setting: str) -> None:
        super().__init__(message)
        self.setting = setting


class MissingExtraError(TinyAudioError):
    """An optional dependency is not installed; the message names the extra that brings it."""


class SampleRejected(TinyAudioError):
    """One sample cannot be used; data loading counts it under ``reason``, in snake_case, and goes
    on."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[object, ...]:  # worker processes raise it
        return type(self), (str(self), self.reason)


class AudioError(SampleRejected):
    """Audio that cannot be read or used.

    Reasons: ``empty``, ``not_audio``, ``truncated``, ``not_finite``, ``too_long``, ``too_short``,
    ``unreadable``.
    """


class LabelRejected(SampleRejected):
    """A transcript that teaches nothing. Reasons: ``empty_label``, ``marker_label``."""


def missing_extra(what: str, extra: str) -> MissingExtraError:
    """The error for something that needs an extra. Not by the bare name: on the package index it
    may be another project's."""
    return MissingExtraError(f"{what}: pip install '.[{extra}]' in the folder of Tiny Audio")


def first_line(error: BaseException) -> str:
    """The first line of another library's message; its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
