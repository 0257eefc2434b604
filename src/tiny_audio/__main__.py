"""``python -m tiny_audio`` is ``tiny-audio``."""

from tiny_audio.cli import main

main()
