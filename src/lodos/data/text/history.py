"""The earlier turns of an instruction: LLaMA-Factory's `history`, a list of [instruction, answer]."""

import json
from typing import Any, Literal

from lodos.data.reading.rows import EmptyAnswerError, Row, RowError, is_unicode, shown
from lodos.data.text.fields import Columns, column_of


def history_of(row: Row, columns: Columns, *, answers: Literal["answer", "any"]) -> list[tuple[str, str]]:
    """The earlier turns of a row, (instruction, answer); none where it has none.

    Args:
        answers: whether each must say something, since it is trained, or may be empty.

    Raises:
        EmptyAnswerError: when an answer that is trained is empty, and nothing else is wrong.
        RowError: naming all that is wrong with them.
    """
    column = column_of("history", columns)
    given = None if column is None else row.fields.get(column)
    if column is None or given is None or (isinstance(given, str) and given.strip() in ("", "null")):
        return []
    turns = _read(given)
    if not isinstance(turns, list):
        raise RowError(row.where, (column, f"must be a list of [instruction, answer], found {shown(given)}."))
    problems: list[tuple[str, str]] = []
    empty_answers = 0
    for i, turn in enumerate(turns):
        name = f"{column}[{i}]"
        if not (isinstance(turn, list | tuple) and len(turn) == 2 and all(isinstance(text, str) for text in turn)):
            problems.append((name, f"must be [instruction, answer], two texts, found {shown(turn)}."))
        elif not all(map(is_unicode, turn)):
            problems.append((name, "holds half a surrogate pair, which is no character."))
        elif not turn[0].strip():
            problems.append((f"{name}[0]", f"is empty, found {shown(turn[0])}."))
        elif answers == "answer" and not turn[1].strip():
            problems.append((f"{name}[1]", f"is empty, found {shown(turn[1])}."))
            empty_answers += 1
    if problems:
        raise (EmptyAnswerError if len(problems) == empty_answers else RowError)(row.where, *problems)
    return [(asked, answered) for asked, answered in turns]


def _read(value: Any) -> Any:
    """A list, or JSON text of one, since a CSV column cannot hold anything else."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
