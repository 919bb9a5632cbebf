"""From a command line to a config file and flags by dotted name, as they were typed.

    lodos train my.yaml --lora.r 16
    lodos train -c my.yaml --lora.r=16          --config and --config_path are the same as -c

`--strict` alone is `--strict true`, where it is a flag that is true or false.
"""

import dataclasses
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lodos.config_help import example, known_names, missing_names
from lodos.errors import UserError

CONFIG_FLAGS = ("-c", "--config", "--config_path", "--config-path")
CONFIG_SUFFIXES = (".yaml", ".yml", ".json")


@dataclasses.dataclass(frozen=True)
class Arguments:
    """What a command line holds."""

    config_file: str | None
    flags: dict[str, str]
    """Their texts by their dotted names."""


def split_argv(cls: Any, argv: Sequence[str]) -> Arguments:
    """What `argv` gives for the dataclass `cls`.

    Raises:
        UserError: that lists what is neither an option nor a config file, and options without a value or given twice.
    """
    hints = dict(known_names(cls))
    rest, files, flags, problems = list(argv), [], {}, []
    strays: list[str] = []
    while rest:
        word = rest.pop(0)
        name, equals, value = word.partition("=")
        if name in CONFIG_FLAGS:
            if not equals and (not rest or _is_flag(rest[0])):
                problems.append(f"{name}: needs a file, such as {name} my.yaml.")
                continue
            files.append(value if equals else rest.pop(0))
        elif re.match(r"--[^-]", word):
            name = name[2:]
            if not equals:
                is_alone = not rest or _is_flag(rest[0])
                is_switch = hints.get(name) is bool
                if is_alone and name in hints and not is_switch:
                    problems.append(f"--{name}: needs a value, such as --{name} {example(cls, name)}.")
                    continue
                value = "true" if is_alone or (is_switch and _is_config_file(rest[0])) else rest.pop(0)
            if name in flags:
                problems.append(f"--{name}: given twice.")
            flags[name] = value
        elif word.startswith("-") and len(word) > 1:
            problems.append(f"{word!r}: not an option. Options are given as --name value.")
        elif _is_config_file(word):
            files.append(word)
        else:
            strays.append(word)
    if len(files) > 1:
        problems.append(
            f"{', '.join(files)}: {len(files)} config files. Give one; options of the command line win over it."
        )
    problems += _stray_problems(cls, strays, flags)
    if problems:
        raise UserError("\n".join(problems))
    return Arguments(files[0] if files else None, flags)


def _is_flag(word: str) -> bool:
    return bool(re.match(r"--[A-Za-z]", word)) or word.partition("=")[0] in CONFIG_FLAGS


def _is_config_file(word: str) -> bool:
    return Path(word).suffix.lower() in CONFIG_SUFFIXES


def _stray_problems(cls: Any, strays: list[str], flags: dict[str, str]) -> list[str]:
    """What to write for words that no option takes: they may be meant for options that have to be given."""
    free = [name for name in missing_names(cls, {}) if name not in flags]
    problems = []
    for word in strays:
        alike = [name for name in free if _is_file_name(str(example(cls, name))) == _is_file_name(word)]
        meant = (alike or free or [None])[0]
        if meant is None:
            hint = "--name value"
        else:
            free.remove(meant)
            hint = f"--{meant} {shlex.quote(word)}"
        problems.append(
            f"{word!r}: neither an option nor a config file, whose name ends in {', '.join(CONFIG_SUFFIXES)}. Options "
            f"are given by name: {hint}"
        )
    return problems


def _is_file_name(text: str) -> bool:
    return bool(re.search(r"\.[A-Za-z]\w*$", text))
