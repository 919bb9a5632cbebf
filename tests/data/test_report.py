"""A report is the sum of those of its parts, and nothing in it is lost on the way to the disk."""

import json

from hypothesis import given
from hypothesis import strategies as st

from lodos.data.report import SHOWN_ROWS, FileReport, PreparationReport, RowTally, add_reports, from_json, to_json

EVENTS = ("kept", "too long", "malformed", "end untrained", "truncated", "special")


def report_of(events: list[str], first_number: int = 1, file: str = "a.json") -> FileReport:
    report = FileReport(file, "text: text")
    for number, event in enumerate(events, first_number):
        report.read += 1
        if event in ("too long", "malformed"):
            report.drop(event, number, f"row {number}")
            continue
        report.kept += 1
        report.tokens += number
        report.trained_tokens += 1
        report.longest = max(report.longest, number)
        if event == "end untrained":
            report.end_untrained.add(number)
        if event == "truncated":
            report.truncated.add(number)
        if event == "special":
            report.note_special_token("</s>", number)
    return report


@given(parts=st.lists(st.lists(st.sampled_from(EVENTS), max_size=30), max_size=5))
def test_the_parts_add_up_to_the_whole(parts: list[list[str]]) -> None:
    whole: list[str] = []
    by_file = {"a.json": FileReport("a.json", "text: text")}
    for part in parts:
        add_reports(by_file, [report_of(part, first_number=len(whole) + 1)])
        whole += part
    assert by_file["a.json"] == report_of(whole)
    assert report_of(whole).read == report_of(whole).kept + report_of(whole).dropped_count


@given(events=st.lists(st.sampled_from(EVENTS), max_size=60))
def test_what_is_written_is_what_is_read(events: list[str]) -> None:
    reports = [report_of(events), report_of(events[:3], file="b.json")]
    assert from_json(json.loads(json.dumps(to_json(reports)))) == reports


def test_a_tally_counts_all_and_names_the_first() -> None:
    tally = RowTally()
    assert str(tally) == "0"
    tally.add(7)
    assert str(tally) == "1 (row 7)"
    for number in range(8, 18):
        tally.add(number)
    assert (tally.count, len(tally.first)) == (11, SHOWN_ROWS)
    assert str(tally) == "11 (rows 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, ...)"


def test_files_stay_in_the_order_in_which_they_are_met() -> None:
    by_file: dict[str, FileReport] = {}
    for file in ("b", "a", "b"):
        add_reports(by_file, [report_of(["kept"], file=file)])
    assert [(report.file, report.read) for report in by_file.values()] == [("b", 2), ("a", 1)]


def test_the_lines_say_what_happened_and_nothing_else() -> None:
    (line,) = report_of(["kept"] * 4).lines()
    assert line == (
        "a.json: 4 of 4 rows kept, 10 tokens, 4 of them trained (40%); longest row 4 tokens. Read as text: text."
    )
    report = PreparationReport([report_of(["too long", "special", "too long", "truncated"])], held_out_in_training=2)
    assert report.lines()[1:] == [
        "  left out, too long: 2 (rows 1, 3); row 1",
        "  cut to the longest length: 1 (row 4)",
        "  the text holds the special token </s>: 1 (row 2)",
        "held-out examples that are also trained on: 2",
    ]
    assert (report.read, report.kept, report.dropped, report.tokens) == (4, 2, 2, 6)
