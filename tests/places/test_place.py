"""A path that a user names keeps its scheme, and is a plain local path without one."""

import ast
from pathlib import Path

import fsspec
import pytest

from lodos.errors import UserError
from lodos.places.place import is_remote, is_url, place_of, shown_path

SOURCE = Path(__file__).resolve().parents[2] / "src" / "lodos"


def test_a_local_path_is_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert place_of("~/runs") == tmp_path / "runs"
    assert place_of(tmp_path) == tmp_path
    assert place_of(f"file://{tmp_path}") == tmp_path
    assert type(place_of("C:/runs")) is type(Path())
    assert not is_url("a/b:/c")


@pytest.mark.parametrize("url", ["s3://bucket/run", "gs://bucket/run", "memory://bucket/run"])
def test_a_scheme_stays(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = place_of(url)
    assert is_remote(place)
    assert is_url(url)
    assert str(place_of(place)) == str(place)
    assert str(place / "a" / "b").endswith("bucket/run/a/b")
    assert str(place).startswith(url.partition(":")[0] + "://")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:pass@h.org/a/b.json?X-Sig=abc&t=1", "https://h.org/a/b.json"),
        ("https://token@h.org/a", "https://h.org/a"),
        ("404, url='https://h.org/a?sig=abc', sorry", "404, url='https://h.org/a', sorry"),
        ("sftp://me:pass@h.org/a: refused", "sftp://me@h.org/a: refused"),
        *((plain, plain) for plain in ("s3://bucket/a?.json", "/tmp/a@b?.json", "https://h.org/a", "abfs://c@h/a")),
    ],
)
def test_secrets_of_urls_are_not_shown(text: str, shown: str) -> None:
    assert shown_path(text) == shown


def test_a_url_that_was_taken_for_a_local_path_is_refused() -> None:
    with pytest.raises(UserError, match="two slashes"):
        place_of(Path("gs://bucket/run"))


def test_a_scheme_that_nobody_knows_is_refused() -> None:
    with pytest.raises(UserError, match=r"g3://b/x: nothing is known that reads g3://"):
        place_of("g3://b/x")


@pytest.mark.parametrize(("url", "extra"), [("s3://b/x", "s3"), ("gs://b/x", "gcs")])
def test_a_missing_package_is_named_by_its_extra(url: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(scheme: str) -> None:
        raise ImportError("No module of that name")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UserError, match=rf"pip install 'lodos\[{extra}\]'"):
        place_of(url)


# Each makes a path of something that is no user's path, or asks for a word of one without going there.
ALLOWED = {
    "places": "owns them",
    "files.py": "this machine's disk",
    "git_lfs.py": "is given paths",
    "hosts.py": "looks into a folder that it was given",
    "runtime.py": "/proc",
    "prompting/template_process.py": "/proc",
    "prompting/template_text.py": "a program of its own",
    "processes.py": "/proc",
    "train/memory.py": "/proc",
    "demo": "its own files",
    "coming_from": "the suffix of a name, and a folder of another tool's config",
    "config_argv.py": "the suffix of a name",
    "commands/run_facts.py": "the last word of a name",
    "commands/base_model.py": "where we stand",
    "formats/model_card.py": "the last word of a name",
    "commands/data.py": "a temporary folder",
    "commands/verify.py": "a temporary folder",
    "commands/drill_witness.py": "a file of its own",
    "tracking/wandb.py": "wandb's own folder",
    "signals.py": "/dev/null",
    "commands/loaders.py": "a temporary folder",
    "commands/merged_agreement.py": "a temporary folder",
    "formats/tokenizer_files.py": "a temporary folder",
    "data/tokens/cache.py": "a temporary folder",
    "train/staged.py": "a temporary folder",
    "formats/factors.py": "a temporary folder",
    "formats/hub.py": "the hub's cache",
    "formats/safetensors.py": "whether a name is more than a name",
    "train/checkpoint.py": "etils' path, for Orbax",
    "cli.py": "/dev/null",
    "data/reading/locations.py": "resolves what a config calls its data, folders and globs, here and on stores",
    "data/reading/open_file.py": "opens what it resolved",
    "data/reading/sources.py": "the suffix of a name",
}


def test_nobody_else_makes_a_path_of_what_a_user_wrote() -> None:
    found = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            named = (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id) or ""
            of_os = isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.path", "os.open", "os.listdir")
            if named in ("Path", "PurePath", "open") or of_os:
                found.add(file.relative_to(SOURCE).as_posix())
    allowed = {name for name in found if name in ALLOWED or name.partition("/")[0] in ALLOWED}
    assert found - allowed == set()
