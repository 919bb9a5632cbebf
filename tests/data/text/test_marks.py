"""A marked text is known again in whichever form it is written, and no other text is taken for it."""

import json

import pytest

from lodos.data.text.marks import MarkedRendering, find_word, is_marked, mark, says


@pytest.mark.parametrize("number", [0, 7, 16, 4095])
def test_a_mark_is_read_wherever_it_stands_and_however_it_is_spelled(number: int) -> None:
    text = f"y{mark(number)}es"
    for written in (text, json.dumps(text), json.dumps(json.dumps(text)), repr(text), text.upper()):
        rendering = MarkedRendering(f"yes, {written}!")
        assert list(rendering.places) == [number]
        assert rendering.plain.casefold().replace("\\", "").replace("'", "").replace('"', "") == "yes, yes!"
        (place,) = rendering.places[number]
        assert rendering.plain[place:].casefold().startswith("es")
        assert rendering.says(text)
        assert not rendering.says(f"y{mark(number + 1)}es")


def test_a_text_is_there_whole_or_not_at_all() -> None:
    text = f"one {mark(1)}two three"
    assert MarkedRendering(f"One\n  {mark(1)}two\n  three").says(text)
    assert not MarkedRendering(f"one {mark(1)}two thre").says(text)
    assert not MarkedRendering(f"{mark(1)}two three").says(text)


def test_two_marks_of_a_text_have_their_places() -> None:
    rendering = MarkedRendering(f"a{mark(1)}b{mark(2)}c{mark(1)}")
    assert (rendering.plain, rendering.places) == ("abc", {1: [1, 3], 2: [2]})


def test_marks_are_told_from_texts() -> None:
    assert is_marked(f"a{mark(3)}")
    assert not is_marked("a \ufdd0 b \ufffe")
    assert says("He said &lt;b&gt;", "<B>")
    assert not says("He said b", "<b>")


@pytest.mark.parametrize(
    ("word", "text", "stands"),
    [
        ("n", "find", False),
        ("n", "n1", False),
        ("n", "find_n", False),
        ("n", '{"n": 1}', True),
        ("1", "12", False),
        ("1", "21", False),
        ("1", "1.5", False),
        ("5", "1.5", False),
        ("1", "-1", False),
        ("-1", "-1", True),
        ("1", "1-2", True),
        ("2", "1-2", True),
        ("1", "x=1.", True),
        ("1.5", "(1.5)", True),
        ("1", "n1 1", True),
        ("True", "Trueish", False),
        ("(a)", "x(a)y", True),
        ("ä", "är", False),
    ],
)
def test_a_word_stands_alone(word: str, text: str, stands: bool) -> None:
    found = find_word(text, word)
    assert (found is not None) == stands
    assert found is None or text[slice(*found)] == word
    padded = find_word(f"{word} {text}", word, len(word) + 1)
    assert padded == (None if found is None else (found[0] + len(word) + 1, found[1] + len(word) + 1))
