"""Content is text, whether it comes as one or in parts; parts of another kind are named."""

from lodos.data.text.content import parts_of
from lodos.prompting.content import text_of


def test_parts_of_text_have_one_form() -> None:
    given = ["a", {"type": "text", "text": "b"}, {"type": "input_text", "text": "c", "image_url": None}, {"text": "d"}]
    parts, problems = parts_of([*given, {"type": "output_text", "text": "e"}])
    assert parts == [{"type": "text", "text": letter} for letter in "abcde"]
    assert problems == []
    assert text_of(parts) == "abcde" == text_of("abcde")
    assert text_of(None) == text_of([]) == ""


def test_other_parts_are_named() -> None:
    _, problems = parts_of([{"type": "image_url"}, "a", {"type": "text"}, {"type": ["text"]}, 3])
    assert [place for place, _ in problems] == ["[0]", "[2]", "[3]", "[4]"]
    assert problems[0][1] == "is of the type 'image_url'; only text can be trained on."
