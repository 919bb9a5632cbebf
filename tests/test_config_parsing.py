"""From YAML and flags to a dataclass: what is read, what is refused, and what is said about it."""

import dataclasses
import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.commands.data import DataReportArgs
from lodos.commands.merge import MergeArgs
from lodos.config import TrainArgs
from lodos.config_help import format_help
from lodos.config_parsing import HIDDEN, dump_config, parse_config, read_yaml
from lodos.errors import UserError


@dataclasses.dataclass(frozen=True)
class Inner:
    """The innermost section."""

    keep: int = 2
    """How many are kept."""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UserError(f"keep: {self.keep} must be at least 1.")


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of its own."""

    id: str | None = None
    """A name."""
    rate: float = 3e-4
    """A number, in units of something."""
    targets: list[str] | str | None = None
    """Several names, or one."""
    axes: tuple[str, ...] = ("mlp", "heads")
    """Names that are always several."""
    kind: Literal["plain", "fancy"] = "plain"
    """One of two."""
    inner: Inner = Inner()


@dataclasses.dataclass
class Config:
    """What is configured here."""

    name: str
    """A name that must be given."""
    steps: int = 10
    """How many steps."""
    share: int | float | str | None = None
    """A count, a share or a file."""
    templates: dict[str, str] | str | None = None
    """Templates, or a file of them."""
    on: bool = True
    """Whether it is on."""
    section: Section = Section()


def parse(*argv: object, prog: str = "prog") -> Config:
    return parse_config(Config, ["--name", "n", *map(str, argv)], prog=prog)


def refusal(*argv: object) -> str:
    with pytest.raises(UserError) as error:
        parse(*argv)
    return str(error.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3e-4", 3e-4),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2e+3", -2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", float("inf")),
        ("+7", 7),
        ("-0", 0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("y", "y"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("0x1F", 31),
        ("0o17", 15),
        ("0x", "0x"),
        ("2026-11-24", "2026-11-24"),
        ("=", "="),
        ("'3e-4'", "3e-4"),
        ("e5", "e5"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object, yaml_file: Any) -> None:
    read = read_yaml(yaml_file(f"x: {text}"))["x"]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize("text", ["true.json", "falsework", "True story"])
def test_text_that_begins_like_a_boolean_is_text(text: str, yaml_file: Any) -> None:
    assert read_yaml(yaml_file(f"x: {text}")) == {"x": text}


def test_a_leading_zero_is_not_octal(yaml_file: Any) -> None:
    assert read_yaml(yaml_file("x: 0123")) == {"x": 123}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3", "{a: 1, b: 2, a: 3}"])
def test_a_key_given_twice_is_refused_with_its_lines(text: str, yaml_file: Any) -> None:
    with pytest.raises(UserError, match=r"config\.yaml.*line \d: 'a' is given twice; the first is in line 1"):
        read_yaml(yaml_file(text))


def test_a_key_given_twice_in_a_section_is_refused(yaml_file: Any) -> None:
    path = yaml_file("section:\n  rate: 1\n  id: x\n  rate: 2\n")
    assert "line 4: 'rate' is given twice; the first is in line 2" in refusal("--config_path", path)


def test_the_same_key_in_two_sections_is_fine(yaml_file: Any) -> None:
    assert read_yaml(yaml_file("a: {x: 1}\nb: {x: 2}")) == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_key_that_is_a_list_is_refused(yaml_file: Any) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_yaml(yaml_file("[a]: 1"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- a\n- b", "holds a list"),
        ("just text", "holds a str"),
        ("a: [1, 2", "not valid YAML"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML"),
        (b"a: \xff", "not UTF-8 text"),
    ],
)
def test_a_file_that_is_no_config_is_named(content: str | bytes, message: str, yaml_file: Any) -> None:
    assert re.search(rf"config\.yaml: {message}", refusal("--config_path", yaml_file(content)))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("steps: 3", encoding="utf-8")
    path = tmp_path / "zzzzzzzzzzzz.yml"
    assert refusal(path) == f"{path}: there is no such file. Give the path of your config file."
    path = tmp_path / "mine.yml"
    assert refusal("-c", path) == f"{path}: there is no such file. Did you mean {tmp_path / 'mine.yaml'}?"


def test_a_folder_is_no_config_file(tmp_path: Path) -> None:
    assert refusal("-c", tmp_path) == f"{tmp_path}: a folder, where a config file is wanted. Give a file in it."
    (tmp_path / "config.yaml").touch()
    assert refusal("-c", tmp_path).endswith(f"Write {tmp_path / 'config.yaml'}.")


@pytest.mark.parametrize("content", ["", "# nothing yet\n"])
def test_an_empty_file_changes_nothing(content: str, yaml_file: Any) -> None:
    assert parse("--config_path", yaml_file(content)) == Config(name="n")


def test_a_byte_order_mark_is_no_part_of_the_first_key(yaml_file: Any) -> None:
    assert parse("--config_path", yaml_file("\ufeffsteps: 3")).steps == 3


def test_every_unknown_key_is_listed_with_the_nearest_known_one(yaml_file: Any) -> None:
    path = yaml_file("stesp: 1\nsection:\n  rat: 2\n  inner: {keeep: 3}\nkind: plain\nzzz: 1\n")
    assert refusal("--config_path", path, "--section.targts", "x").splitlines() == [
        f"{path}: stesp: unknown. Did you mean steps?",
        f"{path}: section.rat: unknown. Did you mean section.rate?",
        f"{path}: section.inner.keeep: unknown. Did you mean section.inner.keep?",
        f"{path}: kind: unknown. Did you mean section.kind?",
        f"{path}: zzz: unknown.",
        "--section.targts: unknown. Did you mean --section.targets?",
        "Known: name, on, section, share, steps, templates.",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("section.inner.keep: 3", "section.inner.keep: unknown. In a file, write section: {inner: {keep: ...}}."),
        ("STEPS: 3", "STEPS: unknown. Did you mean steps?"),
        ("section-rate: 3", "section-rate: unknown. Did you mean section.rate?"),
        ("name:", "name: not given. Write name: TEXT in"),
    ],
)
def test_what_is_meant_is_said(text: str, said: str, yaml_file: Any) -> None:
    with pytest.raises(UserError) as error:
        parse_config(Config, [str(yaml_file(text))], prog="prog")
    assert said in str(error.value)


@pytest.mark.parametrize(("name", "meant"), [("lr", "optimizer.learning_rate"), ("lora.rank", "lora.r")])
def test_initials_are_understood(name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"--{name}: unknown\. Did you mean --{meant}\?"):
        parse_config(TrainArgs, [f"--{name}", "8"], prog="prog")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_the_help_is_no_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = format_help(TrainArgs, prog="prog", description="What it does, in more words than fit. " * 9).splitlines()
    # What has to be typed is never broken.
    assert [
        line for line in lines if len(line) > min(columns, 100) and "--" not in line and "such as" not in line
    ] == []
    assert max(map(len, lines)) > min(columns, 100) - 10


def test_known_names_are_listed_once_for_each_place(yaml_file: Any) -> None:
    path = yaml_file("zzz: 1\nqqq: 2\nsection: {zzzz: 1, xxxx: 2}\n")
    lines = refusal("--config_path", path, "--wwww", "1").splitlines()
    assert [line for line in lines if line.startswith("Known")] == [
        "Known: name, on, section, share, steps, templates.",
        "Known in section: section.axes, section.id, section.inner, section.kind, section.rate, section.targets.",
    ]
    assert len(lines) == 7


def test_all_that_is_wrong_is_one_error(yaml_file: Any) -> None:
    """A wrong key, wrong types, what a section refuses and what is missing, each once."""
    path = yaml_file("stesp: 1\non: maybe\nsection: {rate: fast, zzz: 1, inner: {keep: 0}}\n")
    with pytest.raises(UserError) as error:
        parse_config(Config, [str(path), "--steps", "many"], prog="lodos do")
    lines = str(error.value).splitlines()
    assert [re.sub(rf"^{path}: ", "", line).split(":")[0] for line in lines] == [
        "stesp",
        "section.zzz",
        "Known in section",
        "steps",
        "on",
        "section.rate",
        "section.inner.keep",
        "name",
    ]


def test_what_a_class_refuses_is_said_beside_unknown_names(yaml_file: Any) -> None:
    path = yaml_file("model_name_or_path: m\ndata: d\nz_loss: -1\nmax_dropped: 2\nmax_tune_lenght: 3\n")
    with pytest.raises(UserError) as error:
        parse_config(TrainArgs, [str(path)], prog="lodos train")
    assert [line.split(": ")[-2] for line in str(error.value).splitlines()] == [
        "max_tune_lenght",
        "max_dropped",
        "z_loss",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", "many"),
        ("steps", "2.5"),
        ("on", "off"),
        ("on", "yes"),
        ("section.rate", "fast"),
        ("section.kind", "odd"),
        ("section.inner.keep", "some"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_by_its_dotted_name(name: str, value: str) -> None:
    message = refusal(f"--{name}", value)
    assert message.startswith(f"{name}: ")
    assert value in message


@pytest.mark.parametrize(
    ("name", "value"), [("section.inner.keep", "null"), ("section.rate", "null"), ("section", "3")]
)
def test_no_exception_of_a_library_is_shown(name: str, value: str) -> None:
    message = refusal(f"--{name}", value)
    assert message.startswith(f"{name}: ")
    assert "instantiate" not in message
    assert "Error" not in message


def test_what_a_section_refuses_has_its_dotted_name() -> None:
    assert refusal("--section.inner.keep", 0) == "section.inner.keep: 0 must be at least 1."


def test_wrong_values_of_several_sections_are_listed_at_once() -> None:
    argv = ["--model_name_or_path", "m", "--data", "d"]
    argv += ["--lora.r", "0", "--trainer.checkpointer.keep", "0", "--optimizer.warmup", "-1"]
    with pytest.raises(UserError) as error:
        parse_config(TrainArgs, argv, prog="lodos train")
    prefixes = [line.split(".")[0] for line in str(error.value).splitlines()]
    assert sorted(prefixes) == ["lora", "optimizer", "trainer"]


@dataclasses.dataclass
class Person:
    """Who it is."""

    name: str = dataclasses.field(metadata={"example": "Ada Lovelace"})
    age: int | None = None


@dataclasses.dataclass
class Required:
    """What must be given."""

    data: str = dataclasses.field(metadata={"example": "rows.jsonl"})
    count: int
    kind: Literal["plain", "fancy"]
    person: Person


def test_all_that_is_missing_is_named_as_the_user_writes_it(yaml_file: Any) -> None:
    with pytest.raises(UserError) as error:
        parse_config(Required, [], prog="lodos do")
    assert str(error.value).splitlines() == [
        "data: not given. Write --data rows.jsonl",
        "count: not given. Write --count 1",
        "kind: not given. Write --kind plain",
        "person.name: not given. Write --person.name 'Ada Lovelace'",
        "Options can stand in a file too, as name: value. Give it as lodos do my.yaml",
    ]
    path = yaml_file("count: 2\nperson: {age: 3}\n")
    with pytest.raises(UserError) as error:
        parse_config(Required, [str(path), "--kind", "fancy"], prog="lodos do")
    assert str(error.value).splitlines() == [
        f"data: not given. Write data: rows.jsonl in {path} or --data rows.jsonl",
        f"person.name: not given. Write person: {{name: Ada Lovelace}} in {path} or --person.name 'Ada Lovelace'",
    ]


@pytest.mark.parametrize("verb", ["train", "data", "merge"])
def test_the_examples_of_what_is_missing_are_taken(verb: str) -> None:
    """Writing what the error says is enough for the next try."""
    args = {"train": TrainArgs, "data": DataReportArgs, "merge": MergeArgs}[verb]
    with pytest.raises(UserError) as error:
        parse_config(args, [], prog=f"lodos {verb}")
    assert "Args" not in str(error.value)
    flags = [shlex.split(line.split("Write ")[1]) for line in str(error.value).splitlines() if "Write" in line]
    parse_config(args, [word for pair in flags for word in pair], prog="prog")


def test_a_required_section_may_be_left_out_if_nothing_in_it_has_to_be_given() -> None:
    @dataclasses.dataclass
    class Outer:
        section: Section

    assert parse_config(Outer, [], prog="prog").section == Section()


@pytest.mark.parametrize("flags", [["{}"], ["-c", "{}"], ["--config", "{}"], ["--config_path", "{}"], ["-c={}"]])
@pytest.mark.parametrize("first", [True, False])
def test_the_config_file_may_be_given_in_several_ways(flags: list[str], first: bool, yaml_file: Any) -> None:
    path = yaml_file("name: file\nsteps: 3\n")
    words, more = [word.format(path) for word in flags], ["--section.id", "x"]
    config = parse_config(Config, words + more if first else more + words, prog="prog")
    assert (config.name, config.steps, config.section.id) == ("file", 3, "x")


def test_a_config_may_be_json(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{\n\t"name": "a\\/b",\n\t"section": {"rate": 1e-2}\n}', encoding="utf-8")
    assert parse_config(Config, [str(path)], prog="prog") == Config(name="a/b", section=Section(rate=1e-2))
    path.write_text('{"name": "a", "name": "b"}', encoding="utf-8")
    assert "'name' is given twice" in refusal(path)
    path.write_text('{"name": "a"', encoding="utf-8")
    assert f"{path}: not valid JSON: line 1" in refusal(path)


def test_text_that_looks_like_a_number_is_taken_as_written(yaml_file: Any) -> None:
    path = yaml_file("section: {id: 007, targets: [1.10, q], rate: 007}\ntemplates: {a: 1e3, 1: 0x10}\n")
    config = parse("-c", path)
    assert (config.section.id, config.section.targets, config.section.rate) == ("007", ["1.10", "q"], 7)
    assert config.templates == {"a": "1e3", "1": "0x10"}


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("steps: 1_000", "Write 1000."),
        ("steps: '12'", "Write 12."),
        ("steps: 1e3", "Write 1000."),
        ("section: {rate: '3e-4'}", "Write 0.0003."),
        ("section: {rate: '1,000.5'}", "Write 1000.5."),
        ("on: off", "Write false."),
        ("on: 'yes'", "Write true."),
        ("on: 1", "Write true."),
        ("name: true", 'found true. Write "true" with quotes'),
        ("steps: null", "found null. Leave it out for its default."),
        ("section: {rate: null}", "found null. Leave it out for its default."),
        ("section: {axes: mlp}", "Write [mlp]."),
        ("section: {kind: fancyy}", "Did you mean fancy?"),
    ],
)
def test_a_value_of_the_wrong_type_comes_with_what_to_write(text: str, fix: str, yaml_file: Any) -> None:
    path = yaml_file(text)
    with pytest.raises(UserError) as error:
        parse_config(Config, [str(path), *([] if text.startswith("name") else ["--name", "n"])], prog="prog")
    assert fix in str(error.value)


def test_sections_take_what_an_anchor_holds(yaml_file: Any) -> None:
    path = yaml_file("base: &base {rate: 1, id: x}\nsection: {<<: *base, rate: 2}\n")
    assert (parse(path).section.rate, parse(path).section.id) == (2, "x")
    misspelt = yaml_file("sectoin: &base {rate: 1}\nsection: {<<: *base}\n")
    assert "sectoin: unknown. Did you mean section?" in refusal(misspelt)
    assert "other: unknown." in refusal(yaml_file("other: {rate: 1}\n"))


def test_flags_win_over_the_file_field_by_field(yaml_file: Any) -> None:
    path = yaml_file("name: file\nsteps: 3\nsection: {rate: 1e-2, id: file}\n")
    config = parse_config(Config, ["--section.rate", "1e-3", "--config_path", str(path)], prog="prog")
    assert (config.name, config.steps, config.section.rate, config.section.id) == ("file", 3, 1e-3, "file")


@pytest.mark.parametrize(
    "text", ["20261124", "0123", "3e-4", "true", "off", "null", "{a: b}", "[x]", "a: b", "# x", ""]
)
def test_text_is_taken_as_typed(text: str) -> None:
    assert parse_config(Config, ["--name", text], prog="prog").name == text


@pytest.mark.parametrize("text", ["20261124", "{instruction}", "2026-11-24", "- x", "-1"])
def test_text_that_may_be_null_is_taken_as_typed_but_null(text: str) -> None:
    assert parse("--section.id", text).section.id == text
    assert parse("--section.id", "null").section.id is None


def test_a_value_may_follow_an_equals_sign() -> None:
    assert parse("--section.id=--x=y").section.id == "--x=y"


@pytest.mark.parametrize(
    ("text", "value"),
    [("[q, v]", ["q", "v"]), ("q", "q"), (".*(q|v)_proj", ".*(q|v)_proj"), ("null", None), ("[q]", ["q"])],
)
def test_a_flag_takes_a_list_or_text(text: str, value: object) -> None:
    assert parse("--section.targets", text).section.targets == value


def test_a_flag_takes_a_tuple() -> None:
    assert parse("--section.axes", "[mlp, vocab]").section.axes == ("mlp", "vocab")


def test_text_is_not_a_tuple_of_letters(yaml_file: Any) -> None:
    assert refusal("--config_path", yaml_file("section: {axes: mlp}")).startswith("section.axes: ")


def test_a_file_takes_a_list_for_a_tuple(yaml_file: Any) -> None:
    assert parse("--config_path", yaml_file("section: {axes: [mlp, vocab]}")).section.axes == ("mlp", "vocab")


@pytest.mark.parametrize(
    ("text", "value"), [("{a: '{x}', b: y}", {"a": "{x}", "b": "y"}), ("alpaca.yaml", "alpaca.yaml")]
)
def test_a_flag_takes_a_mapping_or_text(text: str, value: object) -> None:
    assert parse("--templates", text).templates == value


@pytest.mark.parametrize(("text", "value"), [("100", 100), ("0.1", 0.1), ("1e-1", 0.1), ("off", "off"), ("null", None)])
def test_a_flag_of_several_types_takes_the_one_it_looks_like(text: str, value: object) -> None:
    share = parse("--share", text).share
    assert (share, type(share)) == (value, type(value))


@pytest.mark.parametrize("argv", [["--strict"], ["--strict", "--name", "n"], ["--strict=true"], ["--strict", "true"]])
def test_a_switch_alone_is_true(argv: list[str]) -> None:
    @dataclasses.dataclass
    class Switch:
        strict: bool = False
        name: str = "n"

    assert parse_config(Switch, argv, prog="lodos x") == Switch(strict=True)


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["rows.jsonl"], "--data rows.jsonl"),
        (["What is it?"], "--count 'What is it?'"),
        (["--count", "2", "--kind", "plain", "--data", "d", "--person.name", "n", "x"], "--name value"),
    ],
)
def test_a_word_that_no_option_takes_comes_with_what_to_write(argv: list[str], hint: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(Required, argv, prog="lodos do")
    assert str(error.value).endswith(f"Options are given by name: {hint}")


def test_a_switch_leaves_the_config_file_alone(yaml_file: Any) -> None:
    path = yaml_file("name: n\non: false\n")
    assert parse_config(Config, ["--on", str(path)], prog="prog") == Config(name="n")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["steps"], "'steps': neither an option nor a config file"),
        (["-steps", "1"], "'-steps': not an option"),
        (["-c"], "-c: needs a file"),
        (["--config", "--on", "true"], "--config: needs a file"),
        (["a.yaml", "-c", "b.yml"], "a.yaml, b.yml: 2 config files. Give one"),
        (["--steps"], "--steps: needs a value"),
        (["--steps", "--on", "true"], "--steps: needs a value"),
        (["--steps", "1", "--steps=2"], "--steps: given twice"),
        (["--steps", "[1, "], "--steps: '[1, ' is not valid YAML"),
        (["--section", "{rate: 1}", "--section.rate.x", "2"], "rate"),
    ],
)
def test_flags_that_make_no_sense_are_refused(argv: list[str], message: str) -> None:
    assert message in refusal(*argv)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12)
LIKE_OTHER_TYPES = st.sampled_from(["3e-4", "12", "0123", "off", "yes", "true", "null", "~", "", "1:30", "2026-11-24"])


@settings(deadline=None)  # the first example imports draccus
@given(
    name=TEXT | LIKE_OTHER_TYPES,
    steps=st.integers(-(2**64), 2**64),
    on=st.booleans(),
    templates=st.none() | st.dictionaries(st.sampled_from(["prompt_input", "x y", "3"]), TEXT | LIKE_OTHER_TYPES),
    rate=st.floats(allow_nan=False),
    run_id=st.none() | TEXT | LIKE_OTHER_TYPES,
    targets=st.none() | st.lists(TEXT | LIKE_OTHER_TYPES),
    kind=st.sampled_from(["plain", "fancy"]),
    keep=st.integers(min_value=1, max_value=2**64),
)
def test_what_is_dumped_is_read_back_equal(
    name: str,
    steps: int,
    on: bool,
    templates: Any,
    rate: float,
    run_id: str | None,
    targets: Any,
    kind: Any,
    keep: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    section = Section(id=run_id, rate=rate, targets=targets, kind=kind, inner=Inner(keep))
    config = Config(name=name, steps=steps, on=on, templates=templates, section=section)
    path = tmp_path_factory.getbasetemp() / "dumped.yaml"
    path.write_text(dump_config(config), encoding="utf-8")
    assert parse_config(Config, ["--config_path", str(path)], prog="prog") == config


def test_the_training_config_is_read_back_equal(yaml_file: Any) -> None:
    config = parse_config(TrainArgs, ["--model_name_or_path", "m", "--data", "d", "--validation", "0.1"], prog="p")
    assert parse_config(TrainArgs, ["--config_path", str(yaml_file(dump_config(config)))], prog="p") == config


@dataclasses.dataclass
class Account:
    """Who is asked for it."""

    hf_token: str | None = None
    api_key: str | None = None
    password: str | None = None
    tokens_per_step: int = 7
    monkey: str = "m"


@pytest.mark.parametrize(
    "text",
    [
        "account: {hf_token: [canary]}",
        "account: {api_key: {a: canary}}",
        "account: {password: true, tokens_per_step: {WANDB_API_KEY: canary}}",
        "account: {monkey: [{apiKey: canary}], hfToken: canary}",
        "account:\n  hf_token: canary: x\n",
        "account: {tokens_per_step: hf_canarycanarycanary}",
        "account: {hf_token: canary",
    ],
)
def test_secrets_are_not_shown_in_errors(text: str, yaml_file: Any) -> None:
    with pytest.raises(UserError) as error:
        parse_config(WithSecrets, [str(yaml_file(text))], prog="prog")
    assert "canary" not in str(error.value)


def test_a_secret_flag_is_not_shown_in_errors() -> None:
    with pytest.raises(UserError) as error:
        parse_config(WithSecrets, ["--account.secret", "[canary", "--account.hf_tokn", "canary"], prog="prog")
    assert "canary" not in str(error.value)
    assert "Did you mean --account.hf_token?" in str(error.value)


@dataclasses.dataclass
class WithSecrets:
    """A config that holds secrets."""

    account: Account


def test_secrets_are_not_dumped(yaml_file: Any) -> None:
    text = dump_config(WithSecrets(Account(hf_token="hf_abc", api_key="sk-1", monkey="see")))
    assert "hf_abc" not in text
    assert "sk-1" not in text
    expected = dict(hf_token=HIDDEN, api_key=HIDDEN, password=None, tokens_per_step=7, monkey="see")
    assert read_yaml(yaml_file(text)) == {"account": expected}


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_each_option_with_its_default_and_its_sentence(
    flag: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as leaving:
        parse_config(Config, ["--whatever", flag], prog="lodos do", description="Does it.")
    assert leaving.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        "usage: lodos do [FILE.yaml] [--option value ...]",
        "",
        "Does it.",
        "",
        "Options are read from the YAML file (also -c, --config or --config_path FILE.yaml), then from the",
        "command line, which wins.",
        "",
        "  --name TEXT   (required)",
        "      A name that must be given.",
        "  --steps INT   (default: 10)",
        "      How many steps.",
        "  --share INT|NUMBER|TEXT|null",
        "      A count, a share or a file.",
        "  --templates {name: value}|TEXT|null",
        "      Templates, or a file of them.",
        "  --on true|false   (default: true)",
        "      Whether it is on.",
        "",
        "section: A section of its own.",
        "",
        "  --section.id TEXT|null",
        "      A name.",
        "  --section.rate NUMBER   (default: 0.0003)",
        "      A number, in units of something.",
        "  --section.targets [TEXT,...]|TEXT|null",
        "      Several names, or one.",
        "  --section.axes [TEXT,...]   (default: [mlp, heads])",
        "      Names that are always several.",
        "  --section.kind {plain,fancy}   (default: plain)",
        "      One of two.",
        "",
        "section.inner: The innermost section.",
        "",
        "  --section.inner.keep INT   (default: 2)",
        "      How many are kept.",
    ]
