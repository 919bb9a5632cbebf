"""The line fits every width, and what it shows of a number is all of it."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from lodos.tracking.live_line import LiveLine, fitted_lines

NUMBERS = ["smoothed 1.2346", "held-out 1.2500", "lr 3.00e-04", "12,346 tokens/s (2,346 trained)"]


def drawn(line: LiveLine, width: int) -> str:
    output = io.StringIO()
    Console(file=output, width=width, force_terminal=True, color_system="256", _environ={}).print(line)
    return re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())


@given(
    width=st.integers(1, 250),
    total=st.integers(1, 10**12),
    done=st.floats(0, 1),
    loss=st.sampled_from([None, "1.2345", "nan", "1.2345e+30"]),
    left=st.sampled_from(["-:--:--", "0:12:34", "12345:12:34"]),
    count=st.integers(0, 4),
)
def test_at_every_width_it_is_one_line_of_whole_numbers(
    width: int, total: int, done: float, loss: str | None, left: str, count: int
) -> None:
    step = round(done * total)
    line = LiveLine(step, total, left, loss, NUMBERS[:count])
    text = drawn(line, width)
    assert text.count("\n") == 1
    assert len(text.rstrip("\n")) <= width
    words = re.findall(r"[^\s━╸╺]+", text)
    whole = {f"{step}/{total}", loss, left, *" ".join(NUMBERS).split(), "step", "loss", "left"}
    whole |= {"compiling"} if loss is None and step < total else set()
    assert set(words) <= whole


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("total", [7, 12_345, 100_000_000])
def test_step_bar_time_left_and_loss_are_always_there(width: int, total: int) -> None:
    text = drawn(LiveLine(total // 2, total, "123:12:34", "12.3456", NUMBERS), width)
    assert f"{total // 2}/{total}" in text
    assert "123:12:34" in text
    assert "loss 12.3456" in text
    assert text.count("━") + text.count("╸") + text.count("╺") >= 4


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("total", [7, 12_345, 100_000_000])
def test_before_the_first_loss_it_says_what_is_done(width: int, total: int) -> None:
    text = drawn(LiveLine(0, total, "-:--:--"), width)
    assert f"0/{total}" in text
    assert "compiling" in text
    assert text.count("━") + text.count("╸") + text.count("╺") >= 4
    assert "compiling" not in drawn(LiveLine(total, total, "-:--:--"), width)


def test_what_there_is_room_for_comes_in_the_order_given() -> None:
    shown = [drawn(LiveLine(1, 9, "0:00:01", "1.0000", NUMBERS), width) for width in range(40, 200)]
    counts = [sum(number in text for number in NUMBERS) for text in shown]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (0, 4)
    for text, count in zip(shown, counts, strict=True):
        assert all(number in text for number in NUMBERS[:count])


def test_lines_end_between_parts() -> None:
    parts = ["step 12/50", "held-out loss 1.2345", "(best 1.2345 at step 12)"]
    assert fitted_lines(parts, 80) == "  ".join(parts)
    assert fitted_lines(parts, 40) == "step 12/50  held-out loss 1.2345\n  (best 1.2345 at step 12)"
