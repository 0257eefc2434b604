"""`tiny-audio listen` and `transcribe --live -`: from a microphone or raw PCM to lines of text."""

from __future__ import annotations

import json
import queue
import shutil
import sys
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import asdict
from itertools import chain
from typing import Any, BinaryIO

import numpy as np
from rich.cells import cell_len

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import (
    ConfigError,
    MissingExtraError,
    TinyAudioError,
    first_line,
    missing_extra,
)
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.transcribe import load
from tiny_audio.infer.transcript import timestamp

Blocks = Generator[np.ndarray, None, None]  # [S] float32 at 16 kHz

_COLUMNS = 80  # at most, of the line that is redrawn
_BYTES = 1 << 16  # read at once, two seconds: what a pipe holds


def listen_command(input_name: str | None, list_devices: bool, **options: Any) -> None:
    """`tiny-audio listen`: the microphone of that name or number, until Ctrl-C."""
    if list_devices:
        print(_sounddevice().query_devices())
    else:
        _transcribe(microphone(input_name), **options)


def pipe_command(files: list[str], **options: Any) -> None:
    """`tiny-audio transcribe --live -`: raw PCM from standard input, until its end or Ctrl-C."""
    if files != ["-"]:
        raise ConfigError("--live reads raw audio from standard input: give - and no file.")
    if sys.stdin is None or sys.stdin.isatty():
        remedy = "feed raw audio in: ffmpeg … -ar 16000 -ac 1 -f s16le - | tiny-audio …"
        raise ConfigError(f"--live: no audio comes on standard input; {remedy}")
    _transcribe(raw_pcm(sys.stdin.buffer), **options)


def _transcribe(blocks: Blocks, *, model: str, as_json: bool, **options: Any) -> None:
    """Write what is said in blocks [S] until they or Ctrl-C end it; the last line is finished."""
    if sys.stdout is None:
        raise TinyAudioError("standard output is closed: there is nowhere to write the text.")
    screen = Screen(as_json)
    with closing(blocks):
        first = next(blocks, None)  # says what is wrong before a model is loaded
        live = LiveTranscriber(load(model, **options).model)
        with suppress(KeyboardInterrupt):
            for block in chain([] if first is None else [first], blocks):
                screen.show(live.feed(block))
        screen.show(live.finish())
        screen.clear()


class Screen:
    """Complete lines with their times; on a terminal below them the one that is being spoken."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json, self.redraws = as_json, not as_json and sys.stdout.isatty()

    def show(self, updates: list[LiveUpdate]) -> None:
        """Show updates; where nothing is redrawn, of complete lines only."""
        for update in updates:
            if self.as_json:
                print(json.dumps(asdict(update), ensure_ascii=False), flush=True)
                continue
            self.clear()
            if update.final and update.words:
                start, end = update.words[0].start, update.words[-1].end
                print(f"[{timestamp(start)} --> {timestamp(end)}] {update.text}", flush=True)
            elif self.redraws and not update.final:
                print(_last_part(f"{update.text} {update.partial}".strip()), end="", flush=True)

    def clear(self) -> None:
        """Take away the line that is redrawn."""
        if self.redraws:
            print("\r\x1b[K", end="", flush=True)


def _last_part(text: str) -> str:
    """The end of a text, as much as fits on one line of the terminal."""
    width = min(shutil.get_terminal_size().columns, _COLUMNS) - 1
    if cell_len(text) > width:
        while cell_len(text) >= width:
            text = text[1:]
        text = f"…{text}"
    return text


def raw_pcm(pipe: BinaryIO) -> Blocks:
    """Blocks [S] of a pipe of 16-bit little-endian mono PCM at 16 kHz, each what has arrived."""
    odd = b""  # half of a sample
    while data := pipe.read1(_BYTES):  # type: ignore[attr-defined]
        data = odd + data
        whole = len(data) // 2 * 2
        odd = data[whole:]
        yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768


def microphone(name: str | None = None) -> Blocks:
    """Blocks [S] from a microphone, by part of its name or its number; each what was heard since
    the one before. At the end tells what the sound card lost.

    Raises:
        MissingExtraError: sounddevice or PortAudio is missing. TinyAudioError: no such microphone.
    """
    sounddevice = _sounddevice()
    heard: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()
    overruns = 0

    def callback(samples: np.ndarray, frames: int, seconds: Any, status: Any) -> None:
        nonlocal overruns
        overruns += bool(status.input_overflow)
        heard.put(samples[:, 0].copy())

    device = int(name) if name and name.isdecimal() else name
    try:
        stream = sounddevice.InputStream(SAMPLE_RATE, device=device, channels=1, callback=callback)
    except (sounddevice.PortAudioError, ValueError) as error:
        which = "No microphone" if name is None else f"--input {name}: no such microphone"
        remedy = "tiny-audio listen --list-devices shows what there is."
        raise TinyAudioError(f"{which} ({first_line(error)}): {remedy}") from None
    try:
        with stream:
            while True:
                blocks = [heard.get()]
                while not heard.empty():
                    blocks.append(heard.get())
                yield np.concatenate(blocks)
    finally:
        if overruns:
            print(f"The sound card lost audio {overruns} times.", file=sys.stderr)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise missing_extra("a microphone needs sounddevice", "live") from None
    except OSError:
        remedy = "apt install libportaudio2, or brew install portaudio"
        raise MissingExtraError(f"a microphone needs the library PortAudio: {remedy}") from None
    return sounddevice
