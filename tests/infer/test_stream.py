"""Pieces of text put together equal whole texts put together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tiny_audio.infer.recognise import join_texts
from tiny_audio.infer.stream import join_pieces

PIECES = st.lists(st.lists(st.text(alphabet="ab \n", max_size=4), max_size=5), max_size=5)


@given(PIECES)
def test_joined_pieces_are_the_joined_texts(spans: list[list[str]]) -> None:
    whole = join_texts("".join(pieces) for pieces in spans)
    assert "".join(join_pieces(spans)) == whole
