"""A transcript, and its files by the conventions of Whisper's command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field

from tiny_audio.infer.align import Word
from tiny_audio.infer.recognise import Segment

LINE_WIDTH, LINE_COUNT = 42, 2  # of one cue, as is usual for subtitles
PAUSE = 0.8  # seconds without a word that end a cue


@dataclass(frozen=True)
class Layout:
    """How subtitles are set: characters of a line, lines of a cue, the spoken word underlined."""

    max_line_width: int = LINE_WIDTH
    max_line_count: int = LINE_COUNT
    highlight_words: bool = False


@dataclass(frozen=True)
class Transcript:
    """What was said in one recording, or why it could not be read."""

    text: str
    seconds: float  # length of the recording
    path: str | None = None  # as it was given, None for arrays and bytes
    logprob: float | None = None  # mean over tokens, None where it is not known
    segments: list[Segment] = field(default_factory=list)
    error: str | None = None  # one line, None when all went well

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False)

    def to_srt(self, layout: Layout | None = None) -> str:
        """SubRip subtitles, of a transcript with word times."""
        return to_srt(self, layout or Layout())

    def to_vtt(self, layout: Layout | None = None) -> str:
        """WebVTT subtitles, of a transcript with word times."""
        return to_vtt(self, layout or Layout())


@dataclass(frozen=True)
class Cue:
    """What is shown at once, line by line; times in seconds."""

    lines: list[list[Word]]

    @property
    def words(self) -> list[Word]:
        return [word for line in self.lines for word in line]

    @property
    def start(self) -> float:
        return self.lines[0][0].start

    @property
    def end(self) -> float:
        return self.lines[-1][-1].end

    def text(self, underlined: Word | None = None) -> str:
        """The lines, joined by line breaks."""
        return "\n".join(
            " ".join(f"<u>{w.text}</u>" if w is underlined else w.text for w in line)
            for line in self.lines
        )


def cues(words: Iterable[Word], layout: Layout) -> Iterator[Cue]:
    """Words set in lines and cues; a new cue where it is full, after a pause, after a sentence."""
    lines: list[list[Word]] = []
    for word in words:
        last = lines[-1][-1] if lines else None
        if last and (word.start - last.end >= PAUSE or last.text.endswith((".", "?", "!"))):
            yield Cue(lines)
            lines = []
        if lines and len(" ".join(w.text for w in [*lines[-1], word])) <= layout.max_line_width:
            lines[-1].append(word)
        elif len(lines) < layout.max_line_count:
            lines.append([word])
        else:
            yield Cue(lines)
            lines = [[word]]
    if lines:
        yield Cue(lines)


def to_txt(transcript: Transcript, _: Layout = Layout()) -> str:
    """The text of each segment on a line of its own."""
    return "".join(f"{segment.text.strip()}\n" for segment in transcript.segments)


def to_srt(transcript: Transcript, layout: Layout = Layout()) -> str:
    """SubRip: numbered cues."""
    blocks = _blocks(transcript, layout, ",")
    return "".join(f"{n}\n{block}\n" for n, block in enumerate(blocks, 1))


def to_vtt(transcript: Transcript, layout: Layout = Layout()) -> str:
    """WebVTT."""
    return "WEBVTT\n\n" + "".join(f"{block}\n" for block in _blocks(transcript, layout, "."))


def to_tsv(transcript: Transcript, layout: Layout = Layout()) -> str:
    """Start and end in milliseconds and the text, for each cue."""
    rows = (
        f"{round(1000 * cue.start)}\t{round(1000 * cue.end)}\t{cue.text().replace(chr(10), ' ')}\n"
        for cue in cues(_words(transcript), layout)
    )
    return "start\tend\ttext\n" + "".join(rows)


def to_json(transcript: Transcript, _: Layout = Layout()) -> str:
    """Everything that is known, in Whisper's names where it has them."""
    segments = [
        {
            "id": n,
            "start": segment.start,
            "end": segment.end,
            "text": segment.text,
            "avg_logprob": segment.logprob,
            "words": [
                {"word": w.text, "start": w.start, "end": w.end, "probability": w.probability}
                for w in segment.words
            ],
        }
        for n, segment in enumerate(transcript.segments)
    ]
    whole = {"text": transcript.text, "duration": transcript.seconds, "segments": segments}
    return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"


FORMATS: dict[str, Callable[[Transcript, Layout], str]] = {
    "txt": to_txt,
    "srt": to_srt,
    "vtt": to_vtt,
    "tsv": to_tsv,
    "json": to_json,
}


def _words(transcript: Transcript) -> Iterator[Word]:
    """All words; a segment without word times counts as one."""
    for segment in transcript.segments:
        if segment.words:
            yield from segment.words
        elif segment.text.strip():
            yield Word(segment.text.strip(), segment.start, segment.end, 1.0)


def _blocks(transcript: Transcript, layout: Layout, mark: str) -> Iterator[str]:
    """Each cue with its times; with highlighted words, once for each word."""
    for cue in cues(_words(transcript), layout):
        if not layout.highlight_words:
            yield _block(cue.start, cue.end, cue.text(), mark)
            continue
        shown = cue.start
        for word in cue.words:
            if word.start > shown:
                yield _block(shown, word.start, cue.text(), mark)
            yield _block(word.start, word.end, cue.text(word), mark)
            shown = word.end


def _block(start: float, end: float, text: str, mark: str) -> str:
    return f"{timestamp(start, mark)} --> {timestamp(end, mark)}\n{text.replace('-->', '->')}\n"


def timestamp(seconds: float, mark: str = ".") -> str:
    """Hours, minutes, seconds and milliseconds: ``01:02:03.004``."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{mark}{rest % 1000:03d}"
