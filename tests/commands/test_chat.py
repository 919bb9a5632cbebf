"""`lodos chat`: lines in, answers out, through a pipe and in a terminal."""

import contextlib
import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lodos.cli import main
from lodos.formats.hf import HFCheckpointConverter
from lodos.infer.generate import generate
from lodos.infer.session import Session
from lodos.prompting.description import Prompting, write_prompting
from lodos.prompting.encode import CHAT, encode_prompt
from lodos.prompting.prompts import ALPACA_PROMPTS

pytest.importorskip("torch")

NEW = 6


@pytest.fixture(scope="module")
def base(make_model: Callable[..., tuple[Path, Any]]) -> Path:
    return make_model(max_position_embeddings=512, num_hidden_layers=1)[0]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The prompts that a session was asked, as text; the answers are `one`, `two`, ..."""
    prompts: list[str] = []
    words = iter(["one", "two", "three", "four"])

    def stream(self: Session, ids: list[int], **_: Any) -> Any:
        tokenizer = HFCheckpointConverter.from_hf(os.environ["CHAT_MODEL"]).tokenizer
        prompts.append(str(tokenizer.decode(ids)))
        return iter(tokenizer(next(words))["input_ids"])

    monkeypatch.setattr(Session, "stream", stream)
    return prompts


def talk(
    lines: str, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *flags: object
) -> tuple[int, str, str]:
    """The exit status, what was answered and what else was said."""
    monkeypatch.setenv("CHAT_MODEL", str(model))
    monkeypatch.setattr("sys.stdin", io.StringIO(lines))
    status = main(["chat", "--model", str(model), "--max_new_tokens", str(NEW), *map(str, flags)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_turn_is_asked_with_those_before_it_and_answered_as_generate_does(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    converter = HFCheckpointConverter.from_hf(str(base))
    model, tokenizer = converter.load_pretrained(), converter.tokenizer

    def answer(message: str, *earlier: tuple[str, str]) -> str:
        ids = encode_prompt(tokenizer, message, CHAT, earlier=earlier)
        (new,) = generate(model, [ids], max_new_tokens=NEW, eos_token_ids=[1])
        return str(tokenizer.decode(new, skip_special_tokens=True))

    first = answer("Hello")
    second = answer("More?", ("Hello", first))
    status, out, _ = talk("Hello\nMore?\n", base, monkeypatch, capsys)
    assert (status, out) == (0, f"{first}\n{second}\n")


def test_commands_do_what_they_say(
    base: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "Hello\n/undo\n/system Sing.\nfirst \\\nsecond\n\n/reset\n//slash\n/help\n/exit\nnever\n"
    status, out, err = talk(lines, base, monkeypatch, capsys)
    assert (status, out) == (0, "one\ntwo\nthree\n")
    assert len(asked) == 3
    assert "Hello" not in asked[1]
    assert "system\nSing.<|im_end|>" in asked[1]
    assert "user\nfirst \nsecond<|im_end|>" in asked[1]
    assert "first" not in asked[2]
    assert "user\n/slash<|im_end|>" in asked[2]
    assert "/reset         begin anew" in err


def test_what_goes_wrong_with_a_line_is_said_and_the_next_is_answered(
    base: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = talk(f"/nonsense\n{'x ' * 600}\nHello\n", base, monkeypatch, capsys)
    assert (status, out) == (1, "one\n")  # a script sees that something was not answered
    assert "error: /nonsense: no such command. /help lists them" in err
    assert "the model has 512 positions" in err


def test_a_model_trained_on_instructions_is_asked_each_as_one_and_that_is_said(
    base: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    model = Path(shutil.copytree(base, tmp_path / "model"))
    write_prompting(Prompting("alpaca", prompts=ALPACA_PROMPTS), model)
    _, _, err = talk("Hello\nMore?\n", model, monkeypatch, capsys)
    assert asked == [ALPACA_PROMPTS.render("Hello"), ALPACA_PROMPTS.render("More?")]
    assert "each message is asked alone" in err


def test_what_is_wrong_is_said_before_weights_are_loaded(
    base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(HFCheckpointConverter, "load_pretrained", lambda *_, **__: pytest.fail("weights were loaded"))
    for flags, said in (([], "model: missing"), (["--model", str(base), "--top_k", "3"], "without effect")):
        assert main(["chat", *flags]) == 1
        assert said in capsys.readouterr().err


_IN_ITS_SESSION = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *argv: str) -> None:
        self._leader, follower = pty.openpty()
        # Only the terminal of its session sends a program Ctrl-C.
        command = (sys.executable, "-c", _IN_ITS_SESSION, *argv)
        self.process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower)
        os.close(follower)
        self.text = ""

    def expect(self, pattern: str, seconds: float = 240) -> str:
        """Waits until what was shown has the pattern, and takes it up to there."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            ready, _, _ = select.select([self._leader], [], [], max(end - time.monotonic(), 0))
            assert ready, f"no {pattern!r} in {self.text!r}"
            try:
                self.text += os.read(self._leader, 4096).decode(errors="replace").replace("\r", "")
            except OSError:  # how a terminal without a program ends on Linux
                pytest.fail(f"ended without {pattern!r}: {self.text!r}")
        taken, self.text = self.text[: found.end()], self.text[found.end() :]
        return taken

    def type(self, text: str) -> None:
        os.write(self._leader, text.encode())

    def type_until(self, text: str, pattern: str) -> None:
        """Types it again and again: a signal that comes just before readline waits for input is not heard by it."""
        for _ in range(60):
            self.type(text)
            with contextlib.suppress(AssertionError):
                self.expect(pattern, 2)
                return
        pytest.fail(f"no {pattern!r} in {self.text!r}")

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(60)
        os.close(self._leader)


def test_in_a_terminal_ctrl_c_stops_the_answer_and_ctrl_d_ends(base: Path, tmp_path: Path) -> None:
    import shutil

    # A model of many positions and no end, so that an answer goes on until it is stopped.
    endless = Path(shutil.copytree(base, tmp_path / "endless"))
    config = json.loads((endless / "config.json").read_text(encoding="utf-8"))
    config |= {"max_position_embeddings": 16384}
    (endless / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokens = json.loads((endless / "tokenizer_config.json").read_text(encoding="utf-8"))
    (endless / "tokenizer_config.json").write_text(json.dumps({**tokens, "eos_token": "<|im_start|>"}))
    # Drawn, since the likeliest tokens of such a model may be one byte of a character again and again.
    program = (sys.executable, "-m", "lodos", "chat", "--model", str(endless), "--max_new_tokens", "16000")
    terminal = Terminal(*program, "--temperature", "1")
    try:
        terminal.expect(r"Ctrl-D ends")
        terminal.expect(r"> ")
        terminal.type("Hello\n")
        terminal.expect(r"Hello\n[\s\S]{5}")
        terminal.type("\x03")
        terminal.expect(r"Stopped\.")
        terminal.expect(r"> ")
        terminal.type_until("\x03", r"Ctrl-D or /exit ends")
        terminal.type("/reset\n")
        terminal.expect(r"All turns are forgotten")
        terminal.expect(r"> ")
        terminal.type("\x04")
        assert terminal.process.wait(60) == 0
    finally:
        terminal.close()
