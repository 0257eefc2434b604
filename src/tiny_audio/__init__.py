"""Tiny Audio: speech recognition by teaching one small projector.

``load("nano").transcribe("speech.wav")`` recognises speech with the bundled pair. Importing the
package is cheap: torch is loaded with the first recogniser.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tiny_audio.infer.transcribe import load, transcribe

    __version__: str

__all__ = ["__version__", "load", "transcribe"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tiny-audio")
        except PackageNotFoundError:  # run from a source folder that is not installed
            return "0+source"
    if name in ("load", "transcribe"):
        from tiny_audio.infer import transcribe

        return getattr(transcribe, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
