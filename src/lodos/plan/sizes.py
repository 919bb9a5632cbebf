"""Bytes as they are read."""

_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def size(count: int) -> str:
    """Three digits and a unit, `15.5 GiB`."""
    unit, name = next(((unit, name) for unit, name in _UNITS if count >= unit), _UNITS[-1])
    return f"{count / unit:.{0 if count >= 100 * unit else 1 if count >= 10 * unit else 2}f} {name}"
