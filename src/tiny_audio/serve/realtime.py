"""Live audio over a WebSocket, with OpenAI's realtime transcription events."""

from typing import TYPE_CHECKING

from tiny_audio.serve.gate import Service

if TYPE_CHECKING:
    from fastapi import FastAPI


def add_realtime(app: "FastAPI", service: Service) -> None:
    """The endpoint for live audio."""
