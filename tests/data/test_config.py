"""What the data's settings refuse, and that they survive a YAML file."""

import re
from pathlib import Path
from typing import Any

import pytest

from lodos.config_help import field_docs
from lodos.config_parsing import dump_config, known_names, parse_config
from lodos.data.config import DataArgs
from lodos.errors import UserError


@pytest.mark.parametrize(
    "yaml",
    [
        "data: a.json",
        "data: [a.json, b/*.jsonl]",
        "data: {path: org/set, split: train, weight: 0.5}",
        "data: [a.json, {path: b.json, weight: 2}]\nvalidation: 0.1",
        "data: a.json\nvalidation: 100",
        "data: a.json\nvalidation: split:test",
        "data: a.json\nvalidation: [b.json, {path: c.json}]",
        "data: a.json\nvalidation: {path: c.json}\nprompts: {prompt_input: a}\ncolumns: {output: answer}",
        "data: a.json\nchat_template_kwargs: {enable_thinking: false, level: 2, words: [a, null]}",
        "data: a.json\nprompts: prompts.yaml\npacking: true\nseq_len: 4096",
    ],
)
def test_a_config_file_is_read_as_it_is_written(tmp_path: Path, yaml: str) -> None:
    from lodos.config_parsing import read_yaml

    path = tmp_path / "config.yaml"
    path.write_text(yaml)
    given = read_yaml(path)
    args = parse_config(DataArgs, ["--config_path", str(path)], prog="prog")
    assert {name: getattr(args, name) for name in given} == given
    assert {name: type(getattr(args, name)) for name in given} == {name: type(value) for name, value in given.items()}
    path.write_text(dump_config(args))
    assert parse_config(DataArgs, ["--config_path", str(path)], prog="prog") == args


def test_flags_take_lists_and_mappings() -> None:
    def parse(*argv: str) -> DataArgs:
        return parse_config(DataArgs, ["--data", *argv], prog="prog")

    assert parse("a.json").data == "a.json"
    assert parse("[a.json, {path: b.json, weight: 3}]").data == ["a.json", {"path": "b.json", "weight": 3}]
    assert parse("a.json", "--validation", "0.2").validation == 0.2
    assert parse("a.json", "--validation", "v.json").validation == "v.json"
    for given in ("{a: false, b: low}", '{"a": false, "b": "low"}'):
        assert parse("a.json", "--chat_template_kwargs", given).chat_template_kwargs == {"a": False, "b": "low"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0}, "validation: 0 must be above 0"),
        ({"validation": -0.1}, "validation: -0.1 must be above 0"),
        ({"validation": 1.0}, "validation: 1.0 must be above 0: a count of rows (1, 2, ...) or a share below 1."),
        ({"validation": float("nan")}, "validation: nan must be"),
        ({"validation": True}, "validation: True must be"),
        (
            {"chat_template_kwargs": {"messages": []}},
            "chat_template_kwargs: messages is no variable of a template's own",
        ),
        ({"chat_template_kwargs": {"a-b": 1}}, "chat_template_kwargs: 'a-b' is no name of a variable."),
        ({"max_tune_length": 1}, "max_tune_length: 1 must be at least 2."),
        ({"shuffle_buffer": 0}, "shuffle_buffer: 0 must be at least 1."),
        ({"max_dropped": 1.5}, "max_dropped: 1.5 must be a share from 0 to 1."),
        ({"max_dropped": float("nan")}, "max_dropped: nan must be"),
        (
            {"packing": True, "seq_len": 2046, "max_tune_length": 2048},
            "seq_len: 2046 does not hold a row of max_tune_length 2048 tokens, which takes 2047 positions. Lower",
        ),
        ({"seq_len": 8, "max_tune_length": 10}, "seq_len: 8 does not hold a row of max_tune_length 10 tokens"),
        ({"seq_len": 1}, "seq_len: 1 must be at least 2."),
        ({"streaming": True, "validation": 5}, "cannot be taken from data that is streamed"),
    ],
    ids=str,
)
def test_values_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        DataArgs(data="a.json", **options)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(UserError) as error:
        DataArgs(data="a.json", max_tune_length=0, shuffle_buffer=-1, max_dropped=2)
    assert len(str(error.value).splitlines()) == 3


def test_a_row_of_the_longest_length_fits_a_packed_row() -> None:
    assert DataArgs(data="a", packing=True, max_tune_length=1025, seq_len=1024).positions == 1024
    assert DataArgs(data="a", packing=True, max_tune_length=512).positions == 512


def test_seq_len_bounds_rows_that_nothing_else_bounds() -> None:
    assert DataArgs(data="a").longest_row == DataArgs(data="a", seq_len=4096).longest_row == 2048
    for packing in (True, False):
        assert DataArgs(data="a", packing=packing, seq_len=512).longest_row == 512
        assert DataArgs(data="a", packing=packing, seq_len=512, max_tune_length=513).longest_row == 513


def test_every_option_has_its_sentence() -> None:
    assert set(field_docs(DataArgs)) == {name for name, _ in known_names(DataArgs)}
