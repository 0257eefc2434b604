"""Fixtures of the tests of evaluation."""

from tests.infer.conftest import checkpoint, recogniser

__all__ = ["checkpoint", "recogniser"]
