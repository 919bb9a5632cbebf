"""Fills the pages docs/coming-from-*.md from the tables of lodos.coming_from: `python -m docs.coming_from`.

What stands between `<!-- made: PART TOOL -->` and `<!-- /made -->` is made: `ours`, the YAML block before it in our
words; `defaults`, what the tool does where its config is silent; `keys`, its table.
"""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from lodos.coming_from.advice import Absent, Entry, Tool
from lodos.coming_from.translate import TOOLS
from lodos.config import TrainArgs
from lodos.config_help import known_names
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.yaml12 import dump_yaml

HERE = Path(__file__).parent
PAGES = ("coming-from-trl.md", "coming-from-axolotl.md", "coming-from-mlx-lm.md")
_MADE = re.compile(r"(<!-- made: (\w+) ([\w-]+) -->\n).*?(<!-- /made -->)", re.DOTALL)
_THEIRS = re.compile(r"^```yml\n(.*?)^```", re.DOTALL | re.MULTILINE)


def filled(page: str) -> str:
    """The page with its made parts made anew."""

    def made(found: re.Match[str]) -> str:
        part, tool = found[2], next(tool for tool in TOOLS if _slug(tool) == found[3])
        if part == "ours":
            theirs = _THEIRS.findall(page[: found.start()])[-1]
            text = f"```yaml\n{in_our_words(theirs)}```\n"
        else:
            text = {"defaults": _defaults, "keys": _keys}[part](tool)
        return f"{found[1]}{text}{found[4]}"

    return _MADE.sub(made, page)


def refusal(theirs: str) -> str:
    """What `lodos train theirs.yaml` says to a config of another tool."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "theirs.yaml")
        path.write_text(theirs, encoding="utf-8")
        try:
            parse_config(TrainArgs, [str(path)], prog="lodos train")
        except UserError as error:
            return str(error).replace(str(path), "theirs.yaml")
    raise AssertionError("the config is one of ours")


def in_our_words(theirs: str) -> str:
    """The YAML that the error ends with."""
    return refusal(theirs).split("where its config is silent:\n\n")[1] + "\n"


def _slug(tool: Tool) -> str:
    return tool.name.split()[0].lower()


def _defaults(tool: Tool) -> str:
    nested: dict[str, object] = {}
    for name, value in tool.defaults.items():
        place: dict[str, object] = nested
        *sections, last = name.split(".")
        for section in sections:
            inner = place.setdefault(section, {})
            assert isinstance(inner, dict)
            place = inner
        place[last] = value
    return f"```yaml\n{dump_yaml(nested)}```\n"


def _keys(tool: Tool) -> str:
    ours = {name for name, _ in known_names(TrainArgs)}
    same = sorted(f"`{name}`" for name in tool.keys if name in ours)
    head = tool.name.removesuffix(" and PEFT")
    lines = [f"| {head} | lodos | |", "| --- | --- | --- |"]
    lines += _rows(tool, lambda entry: bool(entry.ours), lambda entry: f"{_settings(entry)} | {_remark(entry)}")
    lines += ["", f"| to be left out of {head}'s | |", "| --- | --- |"]
    left_out: Callable[[Entry], bool] = lambda entry: not entry.ours and not isinstance(entry, Absent)  # noqa: E731
    lines += _rows(tool, left_out, lambda entry: _remark(entry).removeprefix("Leave it out: "))
    lines += ["", f"| not here of {head}'s | |", "| --- | --- |"]
    lines += _rows(tool, lambda entry: isinstance(entry, Absent), _remark)
    if same:
        lines += [
            "",
            f"{', '.join(same)}: the same name here, with the values that `lodos train --help` shows.",
        ]
    return "\n".join(lines) + "\n"


def _rows(tool: Tool, wanted: Callable[[Entry], bool], columns: Callable[[Entry], str]) -> list[str]:
    """A row for each text, with all the keys of which it is said."""
    rows: dict[str, list[str]] = {}
    for name, entry in tool.keys.items():
        if wanted(entry):
            rows.setdefault(columns(entry), []).append(f"`{name}`")
    return [f"| {', '.join(names)} | {text} |" for text, names in rows.items()]


def _settings(entry: Entry) -> str:
    return ", ".join(f"`{name}`" for name in entry.ours)


def _remark(entry: Entry) -> str:
    return entry.remark.replace("|", "\\|")


if __name__ == "__main__":
    for name in PAGES:
        path = HERE / name
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
