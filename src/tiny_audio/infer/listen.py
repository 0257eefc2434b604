"""`tiny-audio listen` and `transcribe --live -`: from a microphone or raw PCM to lines of text."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from typing import Any, BinaryIO

import numpy as np
import soxr
from rich.cells import cell_len

from tiny_audio.audio import SAMPLE_RATE
from tiny_audio.errors import AudioError, ConfigError, MissingExtraError, TinyAudioError, first_line
from tiny_audio.infer.live import LiveTranscriber, LiveUpdate
from tiny_audio.infer.transcribe import load
from tiny_audio.infer.transcript import timestamp

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
        raise ConfigError("--live: no audio on standard input; see tiny-audio transcribe --help.")
    _transcribe(raw_pcm(sys.stdin.buffer), **options)


def _transcribe(blocks: Iterator[np.ndarray], *, model: str, as_json: bool, **options: Any) -> None:
    """Write what is said in blocks [S] until they or Ctrl-C end it; the last line is finished."""
    if sys.stdout is None:
        raise TinyAudioError("standard output is closed: there is nowhere to write the text.")
    screen, stop = Screen(as_json), Stop()
    before = signal.signal(signal.SIGINT, stop)
    try:
        first = stop.waited(blocks)  # says what is wrong before a model is loaded
        live = LiveTranscriber(load(model, **options).model)
        while first is not None:
            for update in live.feed(first):
                screen.show(update)
            first = stop.waited(blocks)
        for update in live.finish():
            screen.show(update)
    finally:
        signal.signal(signal.SIGINT, before)
        screen.clear()
        with suppress(ValueError):  # interrupted while it runs
            blocks.close()  # type: ignore[attr-defined]


class Stop:
    """Ctrl-C ends the stream, not what is being recognised; a second one ends that, too."""

    def __init__(self) -> None:
        self.asked = self.waiting = False

    def __call__(self, *_: object) -> None:
        if self.asked or self.waiting:
            self.asked = True
            raise KeyboardInterrupt
        self.asked = True

    def waited(self, blocks: Iterator[np.ndarray]) -> np.ndarray | None:
        """The next block, None at the end."""
        if self.asked:
            return None
        try:
            self.waiting = True
            return next(blocks, None)
        except KeyboardInterrupt:
            return None
        finally:
            self.waiting = False


class Screen:
    """Complete lines with their times; on a terminal below them the one that is being spoken."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json, self.redraws = as_json, not as_json and sys.stdout.isatty()

    def show(self, update: LiveUpdate) -> None:
        """Show an update, or pass it over where nothing is redrawn and the line not complete."""
        if self.as_json:
            print(json.dumps(asdict(update), ensure_ascii=False), flush=True)
            return
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


def raw_pcm(pipe: BinaryIO) -> Iterator[np.ndarray]:
    """Blocks [S] of a pipe of 16-bit little-endian mono PCM at 16 kHz, each what has arrived."""
    odd = b""  # half of a sample
    try:
        while data := pipe.read1(_BYTES):  # type: ignore[attr-defined]
            data = odd + data
            whole = len(data) // 2 * 2
            odd = data[whole:]
            yield np.frombuffer(data[:whole], "<i2").astype(np.float32) / 32768
    except OSError as error:
        message = f"standard input cannot be read: {error.strerror}."
        raise AudioError(message, "unreadable") from None


def microphone(name: str | None = None) -> Iterator[np.ndarray]:
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
        rate = SAMPLE_RATE
        try:
            sounddevice.check_input_settings(device, 1, "float32", samplerate=rate)
        except sounddevice.PortAudioError:  # not every sound card takes 16 kHz
            rate = round(sounddevice.query_devices(device, "input")["default_samplerate"])
        stream = sounddevice.InputStream(rate, device=device, channels=1, callback=callback)
    except (sounddevice.PortAudioError, ValueError) as error:
        which = "No microphone" if name is None else f"--input {name}: no such microphone"
        remedy = "tiny-audio listen --list-devices shows what there is."
        raise TinyAudioError(f"{which} ({first_line(error)}): {remedy}") from None
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, dtype="float32")
    try:
        with stream:
            while True:
                blocks = [heard.get()]
                while not heard.empty():
                    blocks.append(heard.get())
                block = np.concatenate(blocks)
                yield block if rate == SAMPLE_RATE else resampler.resample_chunk(block)
    finally:
        if overruns:
            print(f"The sound card lost audio {overruns} times.", file=sys.stderr)


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        remedy = "pip install 'tiny-audio[live]'"
        raise MissingExtraError(f"a microphone needs sounddevice: {remedy}") from None
    except OSError:
        remedy = "apt install libportaudio2, or brew install portaudio"
        raise MissingExtraError(f"a microphone needs the library PortAudio: {remedy}") from None
    return sounddevice
