"""Imports only fall down the floors of docs/design.md, and the README's map is the tree."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "lodos"
MODULES = sorted(SOURCE.rglob("*.py"))
# Files of floor 1 may use each other in this order only.
GROUND = [
    "errors",
    "signals",
    "config_secrets",
    "known_secrets",
    "lost_hosts",
    "hosts",
    "target",
    "git_lfs",
    "processes",
    "json_files",
    "files",
    "places",
    "runtime",
    "types",
    "tree",
    "sharding",
    "row_slices",
    "gathering",
    "shares",
    "jit",
    "yaml12",
    "config_help",
    "config_argv",
    "config_problems",
    "config_parsing",
    "coming_from",
]


def part(path: Path) -> str:
    """The unit that stands on a floor: a folder, or a file beside them."""
    relative = path.relative_to(SOURCE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def floors() -> dict[str, int]:
    """The floor of each part, from the table of docs/design.md."""
    found: dict[str, int] = {"version": 0}
    for line in (ROOT / "docs" / "design.md").read_text(encoding="utf-8").splitlines():
        if row := re.match(r"\| (\d) \| (.*?) \|", line):
            for name in re.findall(r"`([\w/.]+)`", row[2]):
                found[name.removesuffix("/").removesuffix(".py")] = int(row[1])
    return found


def imports(path: Path) -> set[str]:
    """Every lodos module that a file imports, also inside functions and for type checking."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            module = node.module or ""
            found.add(module)
            found |= {f"{module}.{alias.name}" for alias in node.names}
    return found


def lodos_parts(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imports(path) if name.startswith("lodos.")}


def test_every_part_has_a_floor_and_every_floor_its_parts() -> None:
    assert {part(path) for path in MODULES} == set(floors())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_fall_downhill(path: Path) -> None:
    floor, own = floors(), part(path)
    for other in lodos_parts(path) & set(floor):
        if other == own:
            continue
        if floor[own] == floor[other] == 1:
            assert GROUND.index(other) < GROUND.index(own), f"{own} imports {other}"
        else:
            assert floor[other] < floor[own], f"{own} (floor {floor[own]}) imports {other} (floor {floor[other]})"


def test_no_module_imports_torch_or_peft() -> None:
    for path in MODULES:
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "peft"}, path


def test_the_imports_inside_each_package_have_no_cycle() -> None:
    names = {".".join(("lodos", *path.relative_to(SOURCE).with_suffix("").parts)): path for path in MODULES}
    edges = {name: {other for other in imports(path) if other in names} for name, path in names.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in edges[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in names:
        visit(name, ())


def test_the_readmes_map_is_the_tree() -> None:
    block = re.search(r"```\nsrc/lodos/\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert block is not None
    named = {line.split()[0] for line in block[1].splitlines()}
    folders = {f"{path.name}/" for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    files = {path.name for path in SOURCE.glob("*.py") if not path.name.startswith("__")}
    assert named == folders | files


def test_one_file_knows_the_hosts_of_a_job() -> None:
    """Everybody else asks `lodos.hosts`; a device says itself to which process it belongs."""
    forbidden = r"jax\.process_(index|count)|multihost_utils|jax\.distributed|_src import .*distributed"
    found = {path.name for path in MODULES if re.search(forbidden, path.read_text(encoding="utf-8"))}
    assert found == {"hosts.py"}
