"""The report is one whole file: well formed, self-contained, and harmless whatever a text says."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.evaluate.helpers import failure, records, write
from tests.infer.helpers import tones, write_wav
from tiny_audio.cli import run
from tiny_audio.evaluate.report import render
from tiny_audio.evaluate.results import Record, load_systems

VOID = {"meta", "input", "br", "hr", "img", "link"}
LOADING = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href"}
EVIL = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)> & \"quoted\" 'text'",
    "<!-- <script> ]]> \u2028 \u2029 \x7f {{data}} {{script}}",
    "\\u003c/script> javascript:alert(1)",
    "日本 naïve \x1f\t\n",
]


class Page(HTMLParser):
    """Checks that tags are balanced; keeps elements and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: dict[str, str] = {}
        self.shown = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            name = self.tags[-1][1].get("id") or self.tags[-1][0]
            self.scripts[name] = self.scripts.get(name, "") + data
        else:
            self.shown += data


def page(tmp_path: Path, *sets: list[Record]) -> tuple[str, Page]:
    paths = [write(tmp_path / f"system{i}", found) for i, found in enumerate(sets)]
    text, _ = render(load_systems(paths, None), out=tmp_path / "out.html")
    return text, Page(text)


def evil_records() -> list[Record]:
    return [
        Record(
            f"id {text}", f"set {text}", text, f"{text} {text}", 1.0, 0.1, -0.2,
            speaker=text, audio=f"https://example.org/{text}",
        )
        for text in EVIL
    ] + [failure("failed", message=EVIL[0])]  # fmt: skip


@pytest.mark.parametrize("systems", [1, 2])
def test_the_page_is_well_formed_and_loads_nothing(tmp_path: Path, systems: int) -> None:
    text, found = page(tmp_path, *(records(0.1 * (i + 1), seed=i) for i in range(systems)))
    ids = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in found.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img")
        assert not LOADING & attributes.keys()
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert attributes.get("href", "#list") == "#list"
        assert attributes.get("aria-labelledby") in (None, *ids)
    for script in found.scripts.values():
        assert not re.search(r"https?://|@import|url\(", script)
    policy = next(a["content"] for _, a in found.tags if a.get("http-equiv")) or ""
    for kind in ("script", "style"):
        digest = hashlib.sha256(found.scripts[kind].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert not re.search("unsafe|http", policy)
    # A form's element named `reset` or `submit` stands where the form's own method would.
    form = Page(text[text.index("<form") : text.index("</form>") + len("</form>")])
    names = {attrs.get(key) for _, attrs in form.tags[1:] for key in ("id", "name")}
    assert names.isdisjoint({"reset", "submit", "elements", "length", "action", "method"})


@pytest.mark.parametrize("systems", [1, 2])
def test_texts_are_harmless_and_come_back_whole(tmp_path: Path, systems: int) -> None:
    text, found = page(tmp_path, *[evil_records()] * systems)
    tags = [tag for tag, _ in found.tags]
    assert "img" not in tags
    assert tags.count("script") == 2  # the data and the program
    rows = {one["id"]: one for one in json.loads(found.scripts["data"])["utterances"]}
    for one in evil_records()[: len(EVIL)]:
        row = rows[one.id]
        assert (row["raw"], row["speaker"]) == (one.reference, one.speaker)
        assert [found["raw"] for found in row["hypotheses"]] == [one.hypothesis] * systems
        assert row.keys().isdisjoint({"clip", "link"})  # an address is never loaded
    assert "<script>alert" not in text
    assert "<img" not in text


def test_alignments_give_back_both_texts(tmp_path: Path) -> None:
    sets = [records(0.2, seed=1), records(0.4, seed=2)]
    _, found = page(tmp_path, *sets)
    data = json.loads(found.scripts["data"])
    for one, *pair in zip(data["utterances"], *sets, strict=True):
        for hypothesis, record in zip(one["hypotheses"], pair, strict=True):
            reference, written = iter(one["reference"].split()), iter(hypothesis["words"])
            text = []
            for step in hypothesis["steps"]:
                word = None if step == "i" else next(reference)
                text += {"=": [word], "d": []}[step] if step in "=d" else [next(written)]
            assert " ".join(text) == record.hypothesis
            assert next(reference, None) is None


@pytest.fixture
def recorded(tmp_path: Path) -> list[Record]:
    """Three recordings, one of them in a long file, and one that is gone."""
    write_wav(tmp_path / "a.wav", tones([2.0])[0])
    write_wav(tmp_path / "long.wav", tones([9.0])[0])
    some = records(0.5, number=4)
    return [
        replace(some[0], audio=str(tmp_path / "a.wav"), duration=2.0),
        replace(some[1], audio=str(tmp_path / "long.wav"), duration=3.0, offset=4.0),
        replace(some[2], audio=str(tmp_path / "gone.wav")),
        some[3],
    ]


def test_clips_are_embedded_cut_and_small(tmp_path: Path, recorded: list[Record]) -> None:
    _, found = page(tmp_path, recorded)
    rows = json.loads(found.scripts["data"])["utterances"]
    assert [row.get("clip", False) for row in rows] == [True, True, False, False]
    for place, seconds in ((0, 2.0), (1, 3.0)):
        encoded = base64.b64decode(found.scripts[f"clip-{place}"], validate=True)
        samples, rate = soundfile.read(io.BytesIO(encoded))
        assert (samples.ndim, rate) == (1, 16000)
        assert len(samples) / rate == pytest.approx(seconds, abs=0.05)
        assert len(encoded) < 8000 * seconds
        assert np.abs(samples).max() > 0.01
    assert "2 recordings embedded" in found.shown
    assert "1 left out: the file is not there" in found.shown


def test_what_does_not_fit_is_linked(tmp_path: Path, recorded: list[Record]) -> None:
    out = tmp_path / "pages" / "out.html"
    systems = load_systems([write(tmp_path / "one", recorded)], None)
    text, note = render(systems, out=out, audio_mb=0.001)
    assert "2 linked" in note
    rows = json.loads(Page(text).scripts["data"])["utterances"]
    assert [row.get("link") for row in rows] == ["../a.wav", "../long.wav", None, None]
    assert rows[1]["part"] == [4.0, 7.0]


def test_the_commands_write_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [str(write(tmp_path / n, records(0.1 * i, seed=i))) for i, n in enumerate("abc")]
    out = tmp_path / "new" / "report.html"
    assert run(["analysis", "report", *paths[1:], "--out", str(out)]) == 0
    assert "is better" in Page(out.read_text()).shown
    assert str(out) in capsys.readouterr().out
    assert run(["analysis", "report", *paths, "--out", str(out)]) == 2
    assert run(["eval", "--rescore", paths[0], "--report", str(tmp_path / "page.html")]) == 0
    assert "<table" in (tmp_path / "page.html").read_text()
    assert run(["eval", *["nano"] * 3, "--data", paths[0], "--report", str(out)]) == 2
