"""Small blocks, so that few tokens make several, with runs of several lengths."""

import pytest

from lodos.nn.attention import blockwise


@pytest.fixture(autouse=True)
def block(monkeypatch: pytest.MonkeyPatch) -> int:
    """How many queries a block has in these tests."""
    monkeypatch.setattr(blockwise, "BLOCK", 16)
    return blockwise.BLOCK
