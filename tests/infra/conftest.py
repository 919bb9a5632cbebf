"""A stand-in for Google's cloud."""

from pathlib import Path

import pytest

from cloud_stand_in import Cloud


@pytest.fixture
def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    return Cloud(tmp_path, monkeypatch)
