"""The page in Chromium: a file, a microphone, a keyboard, a phone."""

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.serve.helpers import Running
from tiny_audio.data.synthetic import synthetic_utterances
from tiny_audio.infer.transcribe import Recogniser

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = "/usr/bin/chromium"
PICTURES = os.environ.get("TINY_AUDIO_PICTURES")  # a folder for pictures of the page, to look at

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"needs {CHROMIUM}"),
]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pause = np.zeros(20_000, np.float32)
    spoken = islice(synthetic_utterances("test", seed=11), 3)
    path = tmp_path_factory.mktemp("spoken") / "spoken.wav"
    whole = np.concatenate([pause, *(x for u in spoken for x in (u.waveform, pause))])
    soundfile.write(path, whole, 16_000, subtype="PCM_16")  # Chromium plays nothing else
    return path


@pytest.fixture(scope="module")
def chromium(recording: Path) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={recording}",
            ],
        )
        yield browser
        browser.close()


LOOKS = [("desktop", 1200, 800), ("phone", 390, 844)]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "width", "height"), LOOKS)
def test_a_file_becomes_text_with_times(
    chromium: Any, guarded: Running, nano: Recogniser, recording: Path, tmp_path: Path,
    name: str, width: int, height: int, scheme: str,
) -> None:  # fmt: skip
    context = chromium.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
    )
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(guarded.url)
    page.wait_for_selector("#key:focus")  # asked for, and the keyboard is there
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-form", state="hidden")
    picture(page, f"{name}-{scheme}-empty")
    page.set_input_files("#file", str(recording))
    page.wait_for_selector("#lines button", timeout=60_000)
    picture(page, f"{name}-{scheme}-text")
    lines = page.locator("#lines button span").all_inner_texts()
    assert " ".join(lines).split() == nano.transcribe(str(recording)).text.split()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator("#lines button").nth(1).focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('player').currentTime > 1")
    with page.expect_download() as download:
        page.click("#srt")
    download.value.save_as(tmp_path / "a.srt")
    assert (tmp_path / "a.srt").read_text().startswith("1\n00:00:0")
    assert not problems
    context.close()


def test_what_is_spoken_appears(chromium: Any, guarded: Running) -> None:
    page = chromium.new_page(viewport={"width": 390, "height": 844})
    page.goto(guarded.url)
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-form", state="hidden")
    page.click("#speak")
    page.wait_for_selector("#speak[aria-pressed=true]")
    page.wait_for_selector("#lines li:nth-child(2)", timeout=60_000)
    picture(page, "phone-speaking")
    page.click("#speak")
    page.wait_for_selector("#speak[aria-pressed=false]")
    assert page.is_visible("#player")
    page.close()


def test_what_goes_wrong_is_said(chromium: Any, guarded: Running, tmp_path: Path) -> None:
    page = chromium.new_page()
    page.goto(guarded.url)
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#status.failed")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-form", state="hidden")
    (tmp_path / "a.wav").write_bytes(b"nothing that sounds")
    page.set_input_files("#file", str(tmp_path / "a.wav"))
    page.wait_for_selector("#status.failed")
    assert "audio file" in page.inner_text("#status")
    page.close()


def picture(page: Any, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)
