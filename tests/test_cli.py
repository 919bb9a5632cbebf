import logging
import os
import subprocess
import sys
from typing import Any

import pytest

from lodos.cli import VERBS, main, set_logging
from lodos.version import __version__

BAD_COMMAND = ["merge", "--adapter", "./no/such/folder", "--output", "./never"]


def run_python(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a fresh interpreter, so that nothing is imported yet."""
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **environment})


GROUND = {"lodos.cli", "lodos.config_secrets", "lodos.known_secrets", "lodos.errors", "lodos.signals", "lodos.version"}


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"], ["--version"], ["trian"]])
def test_what_runs_no_verb_imports_no_library(argv: list[str]) -> None:
    script = f"import sys; from lodos.cli import main; main({argv!r}); print(*sys.modules, file=sys.stderr)"
    modules = set(run_python(script).stderr.splitlines()[-1].split())
    assert not modules & {"jax", "numpy", "transformers", "torch", "yaml", "draccus", "rich", "equinox"}
    assert {name for name in modules if name.startswith("lodos.")} == GROUND


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for verb, what in VERBS.items():
        assert f"  {verb:<10}{what}" in lines


def test_no_argument_is_a_call_for_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    expected = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_version(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    assert capsys.readouterr().out == f"lodos {__version__}\n"


@pytest.mark.parametrize(("verb", "said"), [("trian", "Did you mean 'train'?"), ("xyz", f"Verbs: {', '.join(VERBS)}.")])
def test_an_unknown_verb_is_refused_with_the_nearest(verb: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb]) == 1
    captured = capsys.readouterr()
    assert captured.err == f"error: {verb!r} is not a verb. {said}\n"
    assert captured.out == ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main([verb, "--help"])
    assert leaving.value.code == 0
    captured = capsys.readouterr()
    assert captured.out.startswith(f"usage: lodos {verb} ")
    assert "\n  --" in captured.out
    assert captured.err == ""


def test_every_option_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        lines = capsys.readouterr().out.splitlines()
        for option, explanation in zip(lines, [*lines[1:], ""], strict=True):
            assert not option.startswith("  --") or explanation.startswith("      "), option


def test_what_the_user_can_mend_is_said_without_a_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LODOS_DEBUG", raising=False)
    assert main(BAD_COMMAND) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: ./no/such/folder: there is no such folder.\n"
    assert captured.out == ""


def test_a_traceback_is_shown_on_request(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LODOS_DEBUG", "1")
    assert main(BAD_COMMAND) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback (most recent call last)")
    assert "model_folder" in error
    assert error.endswith("\nerror: ./no/such/folder: there is no such folder.\n")


def test_the_exit_status_reaches_the_shell() -> None:
    done: Any = subprocess.run([sys.executable, "-m", "lodos", "nonsense"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: 'nonsense' is not a verb.")
    assert "\x1b" not in done.stderr  # colours are for terminals


def test_what_the_user_has_set_in_the_environment_stays() -> None:
    script = (
        "import os; from lodos.runtime import prepare_runtime; prepare_runtime()\n"
        "print(os.environ['HF_HUB_DISABLE_TELEMETRY'], os.environ['TRANSFORMERS_VERBOSITY'])"
    )
    assert run_python(script, TRANSFORMERS_VERBOSITY="info", HF_HUB_DISABLE_TELEMETRY="0").stdout == "0 info\n"


def test_help_into_a_closed_pipe_is_silent() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "lodos", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert "BrokenPipeError" not in done.stderr


SCRIPT = """
import dataclasses, sys
from lodos import UserError, run_script

@dataclasses.dataclass
class Args:
    \"\"\"What the script does.\"\"\"

    number: int
    \"\"\"A number.\"\"\"

def show(args: Args) -> str:
    if args.number == 0:
        raise UserError("number: 0 is none.")
    if args.number < 0:
        raise FloatingPointError("the loss is nan")
    print(args.number + 1)
    return "ignored"

sys.exit(run_script(show))
"""


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["--number", "4"], 0, "5\n", ""),
        (["--number", "0"], 1, "", "error: number: 0 is none.\n"),
        (["--number", "-1"], 1, "", "error: the loss is nan\n"),
        (["--number", "x"], 1, "", "error: number: must be INT, found 'x'.\n"),
    ],
)
def test_a_script_is_a_program_whose_config_is_the_type_of_its_argument(
    argv: list[str], status: int, out: str, err: str
) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (status, out, err)


def test_a_scripts_help_is_that_of_its_config() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, "--help"], capture_output=True, text=True, check=True)
    assert "What the script does." in done.stdout
    assert "--number INT" in done.stdout


def test_on_a_terminal_what_is_said_ends_between_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    text = "rows.jsonl: 180 of 180 rows kept, 7866 tokens, 1356 trained"
    set_logging()
    for on_terminal in (True, False):
        monkeypatch.setattr(sys.stderr, "isatty", lambda on_terminal=on_terminal: on_terminal)
        logging.getLogger("lodos.anything").warning(text)
    *wrapped, plain = capsys.readouterr().err.splitlines()
    assert plain == f"warning: {text}"
    assert " ".join(wrapped) == plain
    assert len(wrapped) == 3
    assert all(len(line) <= 30 for line in wrapped)
