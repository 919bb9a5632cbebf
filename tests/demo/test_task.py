"""The demo's rows, checked by other means than those that made them."""

import difflib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from lodos.demo import task

NEAR_COPY = 0.85
"""Above this share of equal words, in order and without the name, two requests are nearly the same (1.0: equal)."""
NUMBERS = dict(two=2, three=3, four=4, five=5, six=6, seven=7, eight=8, nine=9, ten=10)


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def train() -> list[dict[str, str]]:
    return read(task.TRAIN_FILE)


@pytest.fixture(scope="module")
def held_out() -> list[dict[str, str]]:
    return read(task.HELD_OUT_FILE)


def answer(row: dict[str, str]) -> dict[str, Any]:
    return json.loads(row["output"])


def nameless_words(row: dict[str, str]) -> list[str]:
    return row["instruction"].replace(answer(row)["name"], "NAME").lower().split()


def test_the_committed_files_are_what_the_generator_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = [path.read_bytes() for path in (task.TRAIN_FILE, task.HELD_OUT_FILE)]
    monkeypatch.setattr(task, "TRAIN_FILE", tmp_path / "train.jsonl")
    monkeypatch.setattr(task, "HELD_OUT_FILE", tmp_path / "heldout.jsonl")
    task.write()
    assert [(tmp_path / name).read_bytes() for name in ("train.jsonl", "heldout.jsonl")] == committed


def test_there_are_a_thousand_rows_and_150_held_out_all_different(train: Any, held_out: Any) -> None:
    assert (len(train), len(held_out)) == (1000, 150)
    assert len({row["instruction"] for row in [*train, *held_out]}) == 1150


def test_held_out_names_are_in_no_training_request(train: Any, held_out: Any) -> None:
    trained_words = {word for row in train for word in re.findall(r"\w+", row["instruction"].lower())}
    names = {answer(row)["name"].lower() for row in held_out}
    assert len(names) > 10
    assert not names & trained_words


def test_no_held_out_request_is_a_near_copy_of_a_training_request(train: Any, held_out: Any) -> None:
    trained = [nameless_words(row) for row in train]
    for row in held_out:
        matcher = difflib.SequenceMatcher(None, b=nameless_words(row), autojunk=False)
        for words in trained:
            matcher.set_seq1(words)
            if matcher.quick_ratio() > NEAR_COPY:  # an upper bound, and cheap
                assert matcher.ratio() <= NEAR_COPY, f"{row['instruction']!r} is nearly {' '.join(words)!r}"


def test_every_training_request_is_its_own_near_copy(train: Any) -> None:
    """What the test above calls a near copy: the same request under another name."""
    words = nameless_words(train[0])
    renamed = {**train[0], "instruction": train[0]["instruction"].replace(answer(train[0])["name"], "Almeida")}
    renamed["output"] = train[0]["output"].replace(answer(train[0])["name"], "Almeida")
    assert difflib.SequenceMatcher(None, words, nameless_words(renamed)).ratio() > NEAR_COPY


def test_answers_are_strict_json_in_one_form(train: Any, held_out: Any) -> None:
    for row in [*train, *held_out]:
        assert row.keys() == {"instruction", "input", "output"}
        assert row["input"] == ""
        assert list(answer(row)) == ["people", "day", "time", "name"]
        assert row["output"] == json.dumps(answer(row), separators=(",", ":"))


def test_answers_agree_with_their_requests(train: Any, held_out: Any) -> None:
    for row in [*train, *held_out]:
        assert answer(row) == understood(row["instruction"]), row["instruction"]


def understood(request: str) -> dict[str, Any]:
    """What a request says, read by rules of its own: a time, a day, a number that is no time, a name that is a name."""
    (time,) = [t for t in re.finditer(r"\b(\d{1,2})(?::(\d\d))?( ?pm)?\b", request) if t[2] or t[3]]
    hour = int(time[1]) + (12 if time[3] else 0)
    rest = request.replace(time[0], "")
    (day,) = re.findall(r"\b\w+day\b", rest, re.IGNORECASE)
    (people,) = [
        number
        for word in re.findall(r"\w+", rest.lower())
        if (number := int(word) if word.isdigit() else NUMBERS.get(word)) is not None
    ]
    ordinary = {"I", "Hi", "Hello", "Good", "Hey", "My", "Name", "The", "It", "There", "Under", "For", "Please"}
    ordinary |= {"Looking", "A", "Can", "Could", "We", "Dinner", day}
    (name,) = [word for word in re.findall(r"\b[A-Z]\w*", rest) if word not in ordinary]
    return {"people": people, "day": day.lower(), "time": f"{hour}:{time[2] or '00'}", "name": name}
