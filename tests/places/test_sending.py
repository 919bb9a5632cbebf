"""A folder that was sent to a store is read whole or not at all, also after its sender was killed."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from lodos.errors import UserError
from lodos.formats.hub import model_folder
from lodos.places.fetching import fetched_folder, is_whole_there
from lodos.places.manifest import MANIFEST, SENDING
from lodos.places.objects import objects_below
from lodos.places.place import Place, is_remote, place_of
from lodos.places.sending import send_folder
from stores import BUCKET, FaultProxy, s3_store

SEND = """
import sys
from pathlib import Path
from lodos.places.place import place_of
from lodos.places.sending import send_folder
send_folder(Path(sys.argv[1]), place_of(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[FaultProxy]:
    with s3_store() as proxy:
        yield proxy


def made(folder: Path, text: str, *names: str) -> Path:
    for name in ("config.json", "deep/rows.txt", *names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{text} {name}", encoding="utf-8")
    return folder


def texts(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def below(place: Place) -> set[str]:
    assert is_remote(place)
    return set(objects_below(place))


def kill_at(s3: FaultProxy, folder: Path, url: str, *, request: int) -> bool:
    """Sends in a process that is killed when it makes its `request`-th change; whether it came so far."""
    reached, changes = threading.Event(), []
    s3.stall_seconds = 1.0

    def spoil(method: str, path: str) -> str | None:
        if method in ("PUT", "DELETE", "POST"):
            changes.append(path)
        if len(changes) >= request:
            reached.set()
            return "stall"
        return None

    s3.spoil = spoil
    process = subprocess.Popen([sys.executable, "-c", SEND, str(folder), url])
    try:
        while not reached.wait(0.05) and process.poll() is None:
            pass
    finally:
        process.kill()
        process.wait()
        s3.spoil = lambda method, path: None
    return reached.is_set()


@pytest.mark.parametrize(
    "request_", [2, 4, pytest.param(1, marks=pytest.mark.long)]
    + [pytest.param(n, marks=pytest.mark.long) for n in (3, 5, 6, 7, 8, 9)],
)  # fmt: skip
def test_a_killed_sender_leaves_nothing_whole_and_the_next_clears_it_away(
    s3: FaultProxy, tmp_path: Path, request_: int
) -> None:
    place = place_of(f"s3://{BUCKET}/killed-{request_}")
    assert is_remote(place)
    before = made(tmp_path / "before", "old", "old.txt")
    after = made(tmp_path / "after", "new", "new.txt")
    send_folder(before, place)
    changes = 9  # the mark, what is old and decides, three files, the manifest, the mark again
    reached = kill_at(s3, after, str(place), request=request_)
    assert reached == (request_ <= changes)
    if request_ == 1:  # nothing has changed
        assert texts(fetched_folder(place)) == texts(before)
    elif request_ < changes:
        assert not is_whole_there(place)
        for read in (fetched_folder, lambda place: model_folder(str(place))):
            with pytest.raises(UserError, match=r"not whole: (an|another) upload to it began and did not end"):
                read(place)
    else:  # all of it was there but for the last word
        assert texts(fetched_folder(place)) == texts(after)
    send_folder(after, place)
    assert below(place) == {MANIFEST, *texts(after)}
    assert SENDING not in below(place)
    assert texts(fetched_folder(place, strictly=True)) == texts(after)


def test_parts_of_a_large_file_that_were_left_are_dropped(s3: FaultProxy, tmp_path: Path) -> None:
    client = boto3.client("s3")
    keys = ("parts/weights", "parts-of-others/weights")
    for key in keys:
        upload = client.create_multipart_upload(Bucket=BUCKET, Key=key)
        client.upload_part(Bucket=BUCKET, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"half")
    send_folder(made(tmp_path, "text"), place_of(f"s3://{BUCKET}/parts"))  # pyright: ignore[reportArgumentType]
    left = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    assert [one["Key"] for one in left] == ["parts-of-others/weights"]


def test_a_folder_that_another_tool_put_there_is_read_as_it_is(s3: FaultProxy) -> None:
    boto3.client("s3").put_object(Bucket=BUCKET, Key="theirs/config.json", Body=b"{}")
    place = place_of(f"s3://{BUCKET}/theirs")
    assert is_remote(place)
    assert texts(fetched_folder(place)) == {"config.json": "{}"}
    with pytest.raises(UserError, match="not whole"):
        fetched_folder(place, strictly=True)
    assert not is_whole_there(place)


@pytest.mark.parametrize("damage", ["gone", "longer", "other"])
def test_what_is_not_as_its_manifest_says_is_refused(s3: FaultProxy, tmp_path: Path, damage: str) -> None:
    place = place_of(f"s3://{BUCKET}/damaged-{damage}")
    assert is_remote(place)
    send_folder(made(tmp_path, "text"), place)
    client, key = boto3.client("s3"), f"damaged-{damage}/deep/rows.txt"
    if damage == "gone":
        client.delete_object(Bucket=BUCKET, Key=key)
    else:
        body = {"longer": b"text deep/rows.txt and more", "other": b"next deep/rows.txt"}[damage]
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
    with pytest.raises(UserError, match=r"rows\.txt"):
        fetched_folder(place)
