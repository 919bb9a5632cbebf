"""A config that was written for another tool, in our words.

Levanter's keys are translated and used as they are. Keys of the other tools are problems that say what to write; and a
whole config of theirs comes back as one of ours, to be pasted.

The tool is recognised by its keys, since some mean different things to different tools: what few have counts more. A
key that is ours too, with a value that could be ours, is ours.
"""

import dataclasses
import shlex
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from lodos.coming_from.advice import Advice, Entry, Tool
from lodos.coming_from.axolotl import AXOLOTL
from lodos.coming_from.levanter import ELSEWHERE, RENAMED, from_levanter
from lodos.coming_from.llama_factory import LLAMA_FACTORY
from lodos.coming_from.mlx_lm import MLX_LM
from lodos.coming_from.torchtune import TORCHTUNE
from lodos.coming_from.trl import TRL
from lodos.coming_from.unsloth import UNSLOTH
from lodos.config_help import example, known_names, missing_names, type_name
from lodos.config_parsing import Translation
from lodos.config_problems import fits, known_part
from lodos.config_secrets import shown, without_secrets, without_tokens
from lodos.yaml12 import dump_yaml, flow_yaml

TOOLS = (TRL, AXOLOTL, LLAMA_FACTORY, MLX_LM, TORCHTUNE, UNSLOTH)
"""Of two that are alike to a config, the first is meant."""

_STEPS, _EPOCHS = "trainer.num_train_steps", "trainer.num_epochs"

WHOLE = 3
"""From so many foreign keys on a config is taken for one of another tool, and given back in our words."""


def translated(cls: Any, values: Mapping[str, Any], origin: Literal["file", "flags"]) -> Translation:
    """The values under the names of the dataclass, with what is to be said of keys of other tools."""
    hints = dict(known_names(cls))
    given = dict(_leaves(values))
    tools = _by_likeness(given, hints)
    advised: dict[str, Advice] = {}
    rest = _without_foreign(values, tools, hints, given, advised) if tools else dict(values)
    ours, problems = from_levanter(rest)
    own, added = dict(_leaves(ours)), {}
    said: dict[str, list[str]] = {}
    lines: list[str] = []
    for name, advice in advised.items():
        settings = {key: value for key, value in advice.settings.items() if _has_place(key, value, hints)}
        if wrong := [key for key in advice.settings if key not in settings]:
            lines.append(f"{name}: {_wanted(wrong, given[name], name, hints)}")
            continue
        if settings and settings.keys() <= own.keys():
            said[f"Leave it out: {' and '.join(settings)}, which it is here, is given too."] = [name]
            continue
        added = added | {key: value for key, value in settings.items() if key not in added}
        said.setdefault(_sentence(settings, advice.text, origin), []).append(name)
    for name, value in added.items():
        if name not in own:
            _put(ours, name, value)
    lines = [*(f"{', '.join(names)}: {text}" for text, names in said.items()), *lines]
    lines = [without_tokens(line) for line in lines]
    if origin == "flags" or len(advised) < WHOLE:
        return Translation(ours, [*lines, *problems])
    tool = tools[0]
    lines.insert(0, f"written for {tool.name}, it seems. What its keys are here:")
    decided = {setting for name in advised if given[name] is not None for setting in tool.settings_of(name)}
    silent = {name: value for name, value in tool.defaults.items() if name not in own.keys() | added.keys() | decided}
    # To all of them a number of steps is what counts, where there are epochs too.
    if _STEPS in own.keys() | added.keys():
        silent.pop(_EPOCHS, None)
        if _EPOCHS in added:
            del ours["trainer"]["num_epochs"]
    title = f"In the words of lodos, with {tool.name}'s defaults where its config is silent:"
    return Translation(ours, [*lines, *problems], ["", title, "", *_pasted(cls, ours, silent)])


def _has_place(name: str, value: Any, hints: Mapping[str, Any]) -> bool:
    return name.startswith("trainer.wandb.") or (name in hints and fits(value, hints[name]))


def _wanted(names: list[str], value: Any, theirs: str, hints: Mapping[str, Any]) -> str:
    there = [f"{name}: {type_name(hints[name])}" for name in names if name in hints]
    if not there:
        return f"There is no {' or '.join(names)} in this config. Leave it out."
    return f"Write {' and '.join(there)}, which {shown(value, theirs)} does not say."


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All values by dotted name, mappings too."""
    for key, value in values.items():
        yield f"{prefix}{key}", value
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


def _by_likeness(given: Mapping[str, Any], hints: Mapping[str, Any]) -> list[Tool]:
    """The tools that have foreign keys of the config, the one it was written for first."""
    foreign = [name for name, value in given.items() if not _is_ours(name, value, hints) and name not in _LEVANTERS]
    shares = {name: 1 / count for name in foreign if (count := sum(name in tool.keys for tool in TOOLS))}
    scores = {tool.name: sum(share for name, share in shares.items() if name in tool.keys) for tool in TOOLS}
    if not shares:
        return []
    return sorted(TOOLS, key=lambda tool: -scores[tool.name])


_LEVANTERS = ELSEWHERE.keys() | RENAMED.keys()


def _is_ours(name: str, value: Any, hints: Mapping[str, Any]) -> bool:
    if name not in hints:
        return False
    if dataclasses.is_dataclass(hints[name]):
        return isinstance(value, Mapping) or value is None
    return fits(value, hints[name])


def _unwritten(given: Mapping[str, Any], hints: Mapping[str, Any]) -> set[str]:
    """The names of ours whose values are still to be written."""
    return {name for name in given if given[name] is None and name in hints and not _is_ours(name, None, hints)}


def _without_foreign(
    values: Mapping[str, Any],
    tools: list[Tool],
    hints: Mapping[str, Any],
    given: Mapping[str, Any],
    advised: dict[str, Advice],
    prefix: str = "",
) -> dict[str, Any]:
    """The values that are not foreign; what is said of the others comes into `advised`."""
    kept = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        is_own_section = dataclasses.is_dataclass(hints.get(name))
        is_section = isinstance(value, Mapping) and (is_own_section or any(tool.has_section(name) for tool in tools))
        entry = None if is_section and is_own_section else _entry(name, tools, is_section)
        if name in _unwritten(given, hints):
            entry = None
        if entry is not None and _is_ours(name, value, hints):
            means_ours = not entry.otherwise_meant or name not in tools[0].keys
            entry = None if means_ours or entry.advice(value, given).settings == {name: value} else entry
        if entry is not None:
            advised[name] = entry.advice(value, given)
        elif is_section:
            inner = _without_foreign(value, tools, hints, given, advised, f"{name}.")
            if inner or not value:
                kept[key] = inner
        else:
            kept[key] = value
    return kept


def _entry(name: str, tools: list[Tool], is_section: bool) -> Entry | None:
    """What the likeliest tool has for a key, else the next; what is a section to one of them is not a key to others."""
    if name in tools[0].keys or is_section:
        return tools[0].keys.get(name)
    return next((tool.keys[name] for tool in tools if name in tool.keys), None)


def _sentence(settings: Mapping[str, Any], text: str, origin: str) -> str:
    if not settings:
        return text
    if origin == "flags":
        written = [f"--{name} {shlex.quote(flow_yaml(value))}" for name, value in settings.items()]
        return " ".join(filter(None, (f"Write {' '.join(written)} instead.", text)))
    written = [f"{name}: {flow_yaml(without_secrets(value))}" for name, value in settings.items()]
    return " ".join(filter(None, (f"Write {' and '.join(written)}.", text)))


def _put(values: dict[str, Any], name: str, value: Any) -> None:
    *sections, last = name.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    if isinstance(values.get(last), dict) and isinstance(value, Mapping):
        values[last] |= value
    else:
        values[last] = value


def _pasted(cls: Any, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The YAML of what is known and of the right types; what has to be given besides stands above as a comment."""
    known = _fitting(cls, known_part(cls, values))
    for name, value in defaults.items():
        _put(known, name, value)
    absent = [f"# {name}: {example(cls, name)}" for name in missing_names(cls, known)]
    order = [*_FIRST, *(field.name for field in dataclasses.fields(cls))]
    ordered = {name: known[name] for name in sorted(known, key=order.index)}
    return [*absent, *without_tokens(dump_yaml(without_secrets(ordered))).splitlines()]


_FIRST = ("model_name_or_path", "data", "validation")


def _fitting(cls: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    kept = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            kept[name] = _fitting(hints[name], value)
        elif fits(value, hints[name]):
            kept[name] = value
    return {name: value for name, value in kept.items() if value != {} or name == "wandb"}
