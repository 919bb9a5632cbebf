"""Config files made at random of what harms: each is refused with an error for the user, in time, or read right."""

import dataclasses
import json
import random
import resource
import time
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lodos.config import TrainArgs
from lodos.config_help import known_names
from lodos.config_parsing import dump_config, parse_config, read_yaml
from lodos.errors import UserError

SECONDS = 5.0
"""Of processor time, since a machine may be busy with other things."""
GIBIBYTE = 2**20  # in KiB, as getrusage counts
LONGEST_ERROR = 50_000
SOUND = {"model_name_or_path": "somewhere", "data": "rows.jsonl"}
NAMES = [name for name, _ in known_names(TrainArgs)]
SECTIONS = [name for name, hint in typing.get_type_hints(TrainArgs).items() if dataclasses.is_dataclass(hint)]


def scalar(choice: random.Random) -> str:
    digits = "9" * choice.choice([3, 30, 300, 399, 5000, 100_000])
    return choice.choice(
        [
            digits, f"-{digits}", f"0x{digits}", f"0o{'7' * 500}", f"1.{digits}", f"1e{digits}", f"-.{digits}e-9",
            ".inf", "-.inf", ".nan", "null", "~", "true", "off", "1_000", "1:30:30", "2026-01-01", "''", "=", "<<",
            '"\\0"', '"\\ud800"', '"\\U0010ffff"', '"\\x1b[2J"', "'a\n\n\nb'", "x" * 5000, '"' + "\\n" * 5000 + '"',
            "../../etc/passwd", "'%s'", "{{ x }}", "~root", "'\u202e'", "é" * 400, "!!int x", "!!float ''", "!!bool x",
            "!!binary YQ==", "!!python/name:os.system", "!!python/object/apply:os.system [exit]", "!x y", "!!null 1",
            "!!timestamp x", "!!set {a}", "!!str [a]", "!<tag:yaml.org,2002:int> 7", "*a", "*none", "&a 1", "&b &c 1",
            "a\x07b", "a\x7fb", "\ufeff", "a\u2028b", "\x85", "a: b: c", "- a - b", "? a", "'", '"', "|", ">9", "%",
        ]
    )  # fmt: skip


def key(choice: random.Random) -> str:
    known = choice.choice([*NAMES, *SECTIONS, "model_name_or_path", "data", "trainer", "lora"])
    odd = [
        "? [a, b]\n",
        "null",
        "true",
        "1",
        "1.0",
        ".nan",
        "~",
        "''",
        "<<",
        "!!int 3",
        "[a]",
        "{a: 1}",
        "a.b.c",
        "=",
        "*a",
    ]
    odd += ["x" * 5000, "é", '"\\0"', "&a k", "__class__", "__init__", "!!merge m", known.upper(), known + "s", "'a b'"]
    return choice.choice([known.rsplit(".", 1)[-1], known, *(choice.choice(odd) for _ in range(2))])


def flow(choice: random.Random, depth: int) -> str:
    if not depth or choice.random() < 0.4:
        return scalar(choice)
    anchor = choice.choice(["", "", "&a ", "&b ", "!!map ", "!!seq "])
    size = choice.randrange(5)
    if choice.random() < 0.5:
        return anchor + "[" + ", ".join(flow(choice, depth - 1) for _ in range(size)) + "]"
    return anchor + "{" + ", ".join(f"{key(choice)}: {flow(choice, depth - 1)}" for _ in range(size)) + "}"


def bomb(choice: random.Random) -> str:
    n = choice.choice([10, 60, 2000])
    count = choice.choice([2, 10, 100])
    text = "x" * choice.choice([10, 1000, 100_000])
    return choice.choice(
        [
            choice.choice(["[", "{a: ", "- ", "? ", "[? ", "a: &a [", "{? "]) * 50 * n,
            "\n".join(" " * i + "a:" for i in range(n)),
            f"a0: &a0 [{text}]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * count}]\n" for i in range(1, n)),
            "a0: &a0 {k: 1}\n"
            + "".join(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * count}], k{i}: 1}}\n" for i in range(1, n)),
            f"a: &a {text}\nb: [{'*a, ' * n}]",
            "a: &a {" + ", ".join(f"k{i}: 1" for i in range(n)) + "}\nb: {<<: [" + "*a, " * n + "]}",
            choice.choice(["a: &a {b: *a}", "a: &a [*a]", "a: &a {<<: *a}", "&a a: *a", "a: &a {<<: [&b {<<: *a}]}"]),
            f"{text}: 1\n" * n,
            "".join(f"{text[:1000]}{i}: 1\n" for i in range(n)),
            "".join(f"trainer_num_train_steps_{i}: 1\n" for i in range(n)),
            choice.choice(["#", " ", "\n", "# a\n", "--- a\n", "...\n", "a ", "%A b\n", "\t"]) * 1000 * n,
            choice.choice([":", "?", "!", "&", "*", "|", ">", "%", "@", "`", "'", '"', "]", "}", ","]) * 1000 * n,
            f"%YAML {'9' * n}.1\n---\na: 1",
            "%TAG ! tag:yaml.org,2002:python/\n---\na: !object/apply:os.system [exit]",
        ]
    )


def document(choice: random.Random) -> bytes:
    match choice.randrange(8):
        case 0:
            text = bomb(choice)
        case 1:
            text = flow(choice, 4)
        case 2 | 3:  # one value of a config that is sound otherwise
            *sections, last = choice.choice(NAMES).split(".")
            value = flow(choice, 2)
            text = json.dumps(SOUND)[1:-1] + ", " + "".join(f"{name}: {{" for name in sections)
            text = "{" + text + f"{last}: {value}" + "}" * (len(sections) + 1)
        case _:
            text = "\n".join(f"{key(choice)}: {flow(choice, 2)}" for _ in range(choice.randrange(1, 6)))
    data = bytearray(text.encode("utf-8", "surrogatepass"))
    if choice.random() < 0.1 and data:
        data[choice.randrange(len(data))] = choice.randrange(256)
    if choice.random() < 0.05:
        data = bytearray(text.encode(choice.choice(["utf-16", "utf-32", "utf-8-sig"]), "replace"))
    return bytes(data)


def attack(folder: Path, seed: int) -> None:
    choice = random.Random(seed)
    file = folder / choice.choice(["a.yaml", "a.yaml", "a.json"])
    file.write_bytes(document(choice))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    said = ""
    try:
        dump_config(parse_config(TrainArgs, [str(file)], prog="lodos train")).encode()
    except UserError as error:
        said = str(error)
    assert len(said) < LONGEST_ERROR
    said.encode()
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIBIBYTE


_SETTINGS: dict[str, Any] = dict(deadline=None, database=None, suppress_health_check=list(HealthCheck))


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, derandomize=True, **_SETTINGS)
def test_a_config_made_at_random_is_refused_or_read(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    attack(tmp_path_factory.getbasetemp(), seed)


@pytest.mark.long
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5_000, **_SETTINGS)
def test_5_000_configs_made_at_random(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    attack(tmp_path_factory.getbasetemp(), seed)


LARGE = (10**30, -(10**398), float("inf"), float("nan"))


@pytest.mark.parametrize("name", NAMES)
def test_a_number_beyond_all_measure_is_refused_or_kept(name: str, tmp_path: Path) -> None:
    for number in LARGE:
        *sections, last = name.split(".")
        values: dict[str, Any] = dict(SOUND)
        inner = values
        for section in sections:
            inner = inner.setdefault(section, {})
        inner[last] = number
        file = tmp_path / "a.json"
        file.write_text(json.dumps(values))
        try:
            parse_config(TrainArgs, [str(file)], prog="lodos train")
        except UserError as error:
            assert last in str(error)  # noqa: PT017 (some are read)


def test_a_config_without_end_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(6 * 10**9)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"a\.yaml: cannot be read: longer than"):
        read_yaml(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GIBIBYTE // 8


def test_an_error_of_many_names_is_short(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("".join(f"trainer_num_train_step_{i}: 1\n" for i in range(5000)))
    with pytest.raises(UserError, match=r"And 4,950 more are unknown") as caught:
        parse_config(TrainArgs, [str(file)], prog="lodos train")
    assert len(str(caught.value)) < LONGEST_ERROR
