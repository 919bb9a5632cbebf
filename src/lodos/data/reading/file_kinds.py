"""What a file is that rows cannot be read from, by its first bytes and its name, and what to do about it.

Readers would say of a workbook that it is not UTF-8, of a page that it is not JSON: true, and leading nowhere.

Knows nothing of how files are read.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath

from lodos.data.reading.open_file import COMPRESSED
from lodos.git_lfs import pointer_problem

HEAD_BYTES = 1024
"""So many of the first bytes tell what a file is."""

READ_KINDS = (
    "Rows are read from JSON Lines (.jsonl, .ndjson), JSON arrays (.json), CSV and TSV (.csv, .tsv), these also with "
    ".gz or .zst, from Parquet (.parquet) and from Arrow (.arrow, .feather)"
)

_JSON_LINES = 'Write a file of JSON Lines, one {"prompt": ..., "completion": ...} or {"text": ...} a line'
_UNPACK = "Unpack it, and give the file or folder of data that is in it"
_TABLE = "Write its rows as Parquet or JSON Lines, such as with DataFrame.to_parquet of pandas"
_PICKLE = (
    "It can run any code when it is opened, so it never is. Where it was made, write its rows as JSON Lines or Parquet"
)
_PAGE = (
    "A download gives one where it asks to sign in, or where a link leads to the page about a file (on the hub /blob/ "
    "instead of /resolve/). Give the link to the file itself"
)
_WORKBOOK = "Save the sheet as CSV UTF-8"


def _starts(*beginnings: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(beginnings)


_BY_BYTES: tuple[tuple[Callable[[bytes], bool], str, str], ...] = (
    (_starts(b"%PDF-"), "a PDF document", f"Take the text out of it. {_JSON_LINES}"),
    (_starts(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), "a document of old Microsoft Office", "Save it as CSV UTF-8"),
    (_starts(b"7z\xbc\xaf\x27\x1c"), "a 7-Zip archive", _UNPACK),
    (_starts(b"Rar!\x1a\x07"), "a RAR archive", _UNPACK),
    (_starts(b"\xfd7zXZ\x00"), "compressed with xz", "Unpack it with `unxz`"),
    (lambda head: bool(re.match(rb"BZh[1-9]1AY&SY", head)), "compressed with bzip2", "Unpack it with `bunzip2`"),
    (_starts(b"\x04\x22\x4d\x18"), "compressed with LZ4", "Unpack it with `unlz4`"),
    (lambda head: head[257:262] == b"ustar", "a tar archive", _UNPACK),
    (lambda head: bool(re.match(rb"\x80[\x02-\x05][\x00-\xff]", head)), "a Python pickle", _PICKLE),
    (_starts(b"\x93NUMPY"), "a NumPy array", _TABLE),
    (_starts(b"\x89HDF\r\n\x1a\n"), "an HDF5 file", _TABLE),
    (_starts(b"SQLite format 3\x00"), "an SQLite database", _TABLE),
    (_starts(b"Obj\x01"), "an Avro file", _TABLE),
    (_starts(b"GGUF\x03\x00", b"GGUF\x02\x00"), "a model in GGUF", "Give the data"),
    (
        lambda head: bool(re.match(rb"[\x00-\xff]{8}\{\"__metadata__\"", head)),
        "a file of safetensors, which holds weights",
        "Give the data",
    ),
    (_starts(b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"), "a picture", _JSON_LINES),
    (
        lambda head: bool(re.match(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html)[\s>]", head, re.IGNORECASE)),
        "a web page (HTML)",
        _PAGE,
    ),
    (lambda head: bool(re.match(rb"(?:\xef\xbb\xbf)?\s*<\?xml[\s>]", head)), "an XML document", _JSON_LINES),
    (_starts(b"{\\rtf"), "an RTF document", f"Take the text out of it. {_JSON_LINES}"),
    (_starts(b"\xff\xfe", b"\xfe\xff"), "text in UTF-16", "Save it as UTF-8"),
    # Without its mark: every other byte of ASCII is none.
    (lambda head: bool(re.match(rb"(?:[\t-~]\x00){4}|(?:\x00[\t-~]){4}", head)), "text in UTF-16", "Save it as UTF-8"),
)
"""(whether a file that begins so is one, what it is, what to do). None of these can begin a file of rows."""

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_IN_ZIP: Mapping[str, tuple[str, str]] = {
    ".xlsx": ("an Excel workbook", _WORKBOOK),
    ".xlsm": ("an Excel workbook", _WORKBOOK),
    ".ods": ("an OpenDocument sheet", _WORKBOOK),
    ".docx": ("a Word document", f"Take the text out of it. {_JSON_LINES}"),
    ".odt": ("an OpenDocument text", f"Take the text out of it. {_JSON_LINES}"),
    ".pptx": ("a PowerPoint presentation", f"Take the text out of it. {_JSON_LINES}"),
    ".epub": ("an e-book (EPUB)", f"Take the text out of it. {_JSON_LINES}"),
    ".npz": ("NumPy arrays", _TABLE),
    ".pt": ("a file of torch.save, a Python pickle", _PICKLE),
    ".pth": ("a file of torch.save, a Python pickle", _PICKLE),
    ".bin": ("a file of torch.save, a Python pickle", _PICKLE),
}
_INSIDE_OF_ZIP: tuple[tuple[bytes, str], ...] = (
    (b"xl/", ".xlsx"),
    (b"word/", ".docx"),
    (b"ppt/", ".pptx"),
    (b"mimetypeapplication/epub", ".epub"),
    (b"mimetypeapplication/vnd.oasis.opendocument.spreadsheet", ".ods"),
    (b"mimetypeapplication/vnd.oasis.opendocument.text", ".odt"),
    (b"data.pkl", ".pt"),
)

_BY_NAME: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys((".txt", ".text", ".log"), ("plain text, in which no row can be told from the next", _JSON_LINES)),
    **dict.fromkeys((".md", ".rst", ".tex"), ("a text document", _JSON_LINES)),
    **dict.fromkeys((".html", ".htm", ".xml"), ("a page of markup", _JSON_LINES)),
    **dict.fromkeys((".yaml", ".yml", ".toml", ".ini"), ("a file of settings", _JSON_LINES)),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib"), ("a Python pickle", _PICKLE)),
    **dict.fromkeys((".xls",), ("an old Excel workbook", _WORKBOOK)),
    **dict.fromkeys((".doc", ".pdf"), ("a document", f"Take the text out of it. {_JSON_LINES}")),
    **dict.fromkeys((".orc", ".avro", ".h5", ".hdf5", ".npy", ".db", ".sqlite", ".rds", ".dta", ".sav"),
                    ("a table or array of another program", _TABLE)),
    **dict.fromkeys((".tar", ".tgz", ".zip", ".7z", ".rar"), ("an archive", _UNPACK)),
    **dict.fromkeys((".py", ".ipynb", ".js", ".ts", ".sql", ".sh"), ("a program", _JSON_LINES)),
}  # fmt: skip

_TABLES = ("parquet", "arrow")
_STREAM_OF_ARROW = b"\xff\xff\xff\xff"
_NAMES = {"json": "JSON", "csv": "CSV", "parquet": "Parquet", "arrow": "Arrow"}


def kind_by_bytes(head: bytes) -> str | None:
    """parquet, arrow or json, where the first bytes say so."""
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.startswith((b"ARROW1", _STREAM_OF_ARROW)):
        return "arrow"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return "json" if text[:1] in (b"{", b"[") and b"\0" not in text[:8] else None


def kind_problem(file: str, kind: str | None, head: bytes) -> str | None:
    """What is wrong with a file as one of rows: what it is, what to do, and what is read; None when nothing shows.

    Args:
        file: its name.
        kind: json, csv, parquet or arrow, by its suffix; None when that says nothing.
        head: its first bytes, unpacked where they are compressed.
    """
    if not head:
        return None  # that it is empty is for its reader to say
    if problem := pointer_problem(head):
        return problem
    if kind in _TABLES and head.startswith(COMPRESSED):
        return f"a compressed file, though {_NAMES[kind]} compresses what is in it by itself. Unpack it"
    suffix = _suffix(file)
    if head.startswith(_ZIP):
        inside = next((of for part, of in _INSIDE_OF_ZIP if part in head), "")
        what, advice = _IN_ZIP.get(suffix) or _IN_ZIP.get(inside) or ("a ZIP archive", _UNPACK)
        return f"{what}, from which no rows are read. {advice}. {READ_KINDS}"
    for is_one, what, advice in _BY_BYTES:
        if is_one(head):
            return f"{what}, from which no rows are read. {advice}. {READ_KINDS}"
    found = kind_by_bytes(head)
    if kind is None and found is None:
        what, advice = _BY_NAME.get(suffix) or ("no file whose kind is known", "Give it the suffix of what it holds")
        return f"{what}: it begins with {_beginning(head)}. {advice}. {READ_KINDS}"
    if found in _TABLES and kind not in (found, None):
        return f"a file of {_NAMES[found]}, though its name says {_NAMES[kind or '']}. Rename it to end in .{found}"
    if kind in _TABLES and found == "json":
        return f"JSON text, though its name says {_NAMES[kind]}. Rename it to end in .jsonl or .json"
    return None


def _suffix(file: str) -> str:
    path = PurePosixPath(file.split("?", 1)[0].lower())
    return path.with_suffix("").suffix or path.suffix if path.suffix in (".gz", ".zst") else path.suffix


def _beginning(head: bytes) -> str:
    text = head.split(b"\n", 1)[0][:40].decode("utf-8", "ignore").strip()
    return repr(text) if text and text.isprintable() else f"the bytes {head[:8].hex(' ')}"
