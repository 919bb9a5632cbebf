"""What the batches of an Arrow file unpack to, before they are unpacked.

A compressed buffer begins with the size that it unpacks to, and Arrow sets aside so much and unpacks no more. So these
sizes, added up, bound what a batch takes. Which buffers there are stands in FlatBuffers beside them, of which a few
fields are read here: https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc

Knows nothing of rows and columns.
"""

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_FOOTER_END = 10
"""A file ends with the length of its footer, in 4 bytes, and ARROW1."""
_BLOCK = struct.Struct("<qi4xq")
_BUFFER = struct.Struct("<qq")


def unpacked_size(message: "pa.ipc.Message") -> int:
    """The bytes that the buffers of a batch unpack to; 0 where none is compressed.

    Raises:
        ValueError: when the message is damaged.
    """
    body = message.body
    if body is None or message.type not in ("record batch", "dictionary"):
        return 0
    data = memoryview(message.metadata)
    try:
        batch = _Table(data, *struct.unpack_from("<I", data)).table(2)
        if message.type == "dictionary" and batch is not None:
            batch = batch.table(1)
        if batch is None or batch.table(3) is None:
            return 0
        content = memoryview(body)
        total = 0
        for offset, length in batch.structs(2, _BUFFER):
            if length >= 8:
                total += max(0, struct.unpack_from("<q", content, offset)[0])  # -1 is of one that is as it is
        return total
    except struct.error as error:
        raise ValueError(f"its messages are damaged: {error}") from None


def blocks_of_file(source: "pa.NativeFile") -> "Iterator[tuple[str, int]]":
    """Of an Arrow file, not a stream: the kind of each batch, dictionary or record batch, and where it begins.

    Raises:
        ValueError: when the footer is damaged.
    """
    try:
        source.seek(source.size() - _FOOTER_END)
        (length,) = struct.unpack_from("<i", source.read(4))
        if not 0 < length <= source.size() - _FOOTER_END:
            raise ValueError("its footer is damaged")
        source.seek(source.size() - _FOOTER_END - length)
        data = memoryview(source.read(length))
        footer = _Table(data, *struct.unpack_from("<I", data))
        for kind, field in (("dictionary", 2), ("record batch", 3)):
            for offset, _, _ in footer.structs(field, _BLOCK):
                yield kind, offset
    except struct.error as error:
        raise ValueError(f"its footer is damaged: {error}") from None


class _Table:
    """A table of FlatBuffers: where its fields are stands in a table of offsets before it."""

    def __init__(self, data: memoryview, place: int):
        self._data, self._place = data, place
        self._fields = place - _number("<i", data, place)

    def table(self, field: int) -> "_Table | None":
        place = self._of(field)
        return None if place is None else _Table(self._data, place + _number("<I", self._data, place))

    def structs(self, field: int, kind: struct.Struct) -> Iterator[tuple[Any, ...]]:
        place = self._of(field)
        if place is None:
            return
        place += _number("<I", self._data, place)
        for i in range(_number("<I", self._data, place)):
            yield kind.unpack_from(self._data, place + 4 + i * kind.size)

    def _of(self, field: int) -> int | None:
        at = 4 + 2 * field
        if at >= _number("<H", self._data, self._fields):
            return None
        offset = _number("<H", self._data, self._fields + at)
        return self._place + offset if offset else None


def _number(kind: str, data: memoryview, place: int) -> int:
    if place < 0:
        raise struct.error("a place before the beginning")
    return struct.unpack_from(kind, data, place)[0]
