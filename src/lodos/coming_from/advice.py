"""What is said of a key of another tool, and what it asks for in our words.

A tool's table gives each of its keys one of these:

    Write       it has another name or form here
    LeaveOut    it can be left out, and why
    Absent      it is not there; with a value that asks for nothing it can be left out
    Computed    it takes a rule of its own, since it depends on its value or on other keys

A key that means the same under the same name needs no entry.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from lodos.config_secrets import shown


@dataclasses.dataclass(frozen=True)
class Advice:
    """For one key of a config: settings to write by their dotted names here, and what else there is to say."""

    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    text: str = ""


IDLE = Advice(text="Leave it out: it asks for nothing.")
"""Of null, and of values that say no to what is not there."""


@dataclasses.dataclass(frozen=True)
class Write:
    """A key that has another name or another form here."""

    to: str
    value: Callable[[Any], Any] = lambda value: value
    """From its value to ours; a ValueError says what to write instead."""
    remark: str = ""
    """What else differs."""
    otherwise_meant: bool = False
    """Whether it means something else than ours of the same name, also where its value would be one of ours."""
    null: bool = False
    """Whether null asks for something."""

    def advice(self, value: Any, given: Mapping[str, Any]) -> Advice:
        if value is None and not self.null:
            return IDLE
        if isinstance(value, str) and "${" in value:
            return Advice(text=f"{shown(value)} refers to another key. Write {self.to} with the value itself.")
        try:
            return Advice({self.to: self.value(value)}, self.remark)
        except ValueError as error:
            return Advice(text=str(error))
        except (TypeError, AttributeError):
            return Advice(text=f"Write {self.to}, which {shown(value)} says nothing of.")

    @property
    def ours(self) -> tuple[str, ...]:
        return (self.to,)


@dataclasses.dataclass(frozen=True)
class LeaveOut:
    """A key that has nothing to say here."""

    why: str
    otherwise_meant: bool = False

    def advice(self, value: Any, given: Mapping[str, Any]) -> Advice:
        return IDLE if value is None else Advice(text=self.remark)

    @property
    def remark(self) -> str:
        return f"Leave it out: {self.why}"

    @property
    def ours(self) -> tuple[str, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class Absent:
    """A key for something that is not there."""

    remark: str
    """What is not there, and what to do about it."""
    idle: tuple[Any, ...] = ()
    """Values, beside null, false, 0 and what is empty, that ask for nothing."""
    otherwise_meant: bool = False

    def advice(self, value: Any, given: Mapping[str, Any]) -> Advice:
        idle = not value or value in self.idle
        return IDLE if idle else Advice(text=self.remark)

    @property
    def ours(self) -> tuple[str, ...]:
        return ()


@dataclasses.dataclass(frozen=True)
class Computed:
    """A key with a rule of its own: from its value and all values of the config, by dotted name."""

    rule: Callable[[Any, Mapping[str, Any]], Advice]
    ours: tuple[str, ...]
    """The settings that it may give."""
    remark: str = ""
    """What a table says of it."""
    otherwise_meant: bool = False

    def advice(self, value: Any, given: Mapping[str, Any]) -> Advice:
        try:
            return IDLE if value is None else self.rule(value, given)
        except (TypeError, ValueError, AttributeError):
            return Advice(text=f"{shown(value)} is not understood. {self.remark or f'Write {self.ours[0]}.'}")


Entry = Write | LeaveOut | Absent | Computed


@dataclasses.dataclass(frozen=True)
class Tool:
    """Another tool, and what its keys are here, by their dotted names."""

    name: str
    keys: Mapping[str, Entry]
    defaults: Mapping[str, Any]
    """What it does where its config is silent, by our dotted names, where lodos would do otherwise."""

    def has_section(self, name: str) -> bool:
        """Whether keys of the tool stand in a mapping of this name."""
        return any(key.startswith(f"{name}.") for key in self.keys)

    def settings_of(self, name: str) -> tuple[str, ...]:
        """The settings of ours that a key is about."""
        return self.keys[name].ours if name in self.keys else ()


def leave_out(names: str, why: str) -> dict[str, Entry]:
    """The same for several keys, whose names are separated by blanks."""
    return dict.fromkeys(names.split(), LeaveOut(why))


def absent(names: str, what: str, idle: tuple[Any, ...] = ()) -> dict[str, Entry]:
    """The same for several keys, whose names are separated by blanks."""
    return dict.fromkeys(names.split(), Absent(what, idle))
