"""A folder is as its manifest says, or what is not is named."""

from pathlib import Path

import pytest

from lodos.places.manifest import MANIFEST, DamagedError, Manifest, problems, read_manifest, seal_folder
from lodos.places.saving import saved_whole


def made(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "numbers").write_bytes(bytes(range(256)))
    (folder / "words.txt").write_text("as they were", encoding="utf-8")
    return folder


def test_a_sealed_folder_is_whole_and_tells_its_facts(tmp_path: Path) -> None:
    seal_folder(made(tmp_path / "one"), {"step": 3})
    assert problems(tmp_path / "one") == []
    manifest = read_manifest(tmp_path / "one")
    assert manifest.facts == {"step": 3}
    assert {name: file.size for name, file in manifest.files.items()} == {"deep/numbers": 256, "words.txt": 12}


@pytest.mark.parametrize("name", ["deep/numbers", "words.txt"])
def test_every_changed_bit_and_every_missing_byte_of_a_file_is_seen(tmp_path: Path, name: str) -> None:
    seal_folder(made(tmp_path / "one"))
    file = tmp_path / "one" / name
    content = file.read_bytes()
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        file.write_bytes(changed)
        assert problems(tmp_path / "one") == [f"{name} holds other bytes than were written"]
        file.write_bytes(content[:place])
        assert problems(tmp_path / "one") == [f"{name} has {place} bytes, {len(content)} were written"]
    file.unlink()
    assert problems(tmp_path / "one") == [f"{name} is missing"]
    file.mkdir()
    assert problems(tmp_path / "one") == [f"{name} cannot be read: Is a directory"]


def test_every_changed_bit_of_the_manifest_is_seen(tmp_path: Path) -> None:
    content = seal_folder(made(tmp_path / "one"), {"words": ["naïve", None, 1.5], "step": 3}).encode()
    assert Manifest.decode(content).encode() == content
    for place in range(len(content)):
        for bit in range(8):
            changed = bytearray(content)
            changed[place] ^= 1 << bit
            with pytest.raises(DamagedError):
                Manifest.decode(bytes(changed))
        with pytest.raises(DamagedError):
            Manifest.decode(content[:place])
    for other in (b"[]", b"null", b"{}", b'{"files": 3}', b"[" * 100_000):
        with pytest.raises(DamagedError):
            Manifest.decode(other)


def test_a_folder_without_a_manifest_is_not_whole(tmp_path: Path) -> None:
    assert problems(made(tmp_path / "one")) == [f"it has no {MANIFEST}"]
    assert problems(tmp_path / "nowhere") == [f"it has no {MANIFEST}"]
    (tmp_path / "one" / MANIFEST).mkdir()
    assert problems(tmp_path / "one") == [f"{MANIFEST} cannot be read: Is a directory"]


def test_what_is_saved_whole_has_one(tmp_path: Path) -> None:
    for text in ("before", "after"):
        with saved_whole(tmp_path / "export") as folder:
            (folder / "config.json").write_text(text, encoding="utf-8")
    assert problems(tmp_path / "export") == []
    assert (tmp_path / "export" / "config.json").read_text(encoding="utf-8") == "after"
