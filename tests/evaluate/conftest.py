"""Fixtures of the tests of evaluation."""

from __future__ import annotations

from tests.infer.conftest import checkpoint, recogniser

__all__ = ["checkpoint", "recogniser"]
