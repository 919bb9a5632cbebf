"""What a chat template makes of a conversation, within bounds: the text that `apply_chat_template` gives.

A template comes with a model, from anybody. It runs in a process of its own (`template_process.py`), which may take so
many seconds and so much memory; one that wants more is refused, then and from then on.
"""

import atexit
import contextlib
import datetime
import json
import marshal
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lodos.errors import UserError
from lodos.prompting.template_process import LONGEST_PER_BYTE, SECONDS_MORE

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 2.0
"""Of processor time for one conversation."""
PATIENCE = 4.0
"""Seconds for the same, whatever it waits for."""
STARTING = 60.0
"""Seconds until the process can be asked."""
LONGEST = 16 * 2**20
"""Characters of a text; of a long conversation `LONGEST_PER_BYTE` for each byte."""

_PROGRAM = Path(__file__).with_name("template_process.py")
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT")


class TemplateError(UserError):
    """A template that gives no text: it refuses the conversation, or goes beyond the bounds."""


class TemplateSyntaxError(TemplateError):
    """A template that is not Jinja."""

    def __init__(self, message: str, line: int):
        super().__init__(message)
        self.line = line


class TemplateBoundsError(TemplateError):
    """A template that wants more time, memory or text than it may have."""


def template_text(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    add_generation_prompt: bool = False,
) -> str:
    """The text of a conversation.

    Args:
        tokenizer: whose special tokens the template may write.
        variables: that it is given beside them (`chat_template_kwargs`).

    Raises:
        TemplateError: when the template refuses it, or is refused.
    """
    return _asked(tokenizer, messages, template, tools, variables, add_generation_prompt, spans=False)["text"]


def generation_spans(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    *,
    template: str,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> list[tuple[int, int]]:
    """The characters `[start, end)` that the template's `{% generation %}` tags mark; raises as `template_text`."""
    spans = _asked(tokenizer, messages, template, tools, variables, False, spans=True)["spans"]
    return [(int(start), int(end)) for start, end in spans]


def _asked(
    tokenizer: "PreTrainedTokenizerBase",
    messages: Sequence[Mapping[str, Any]],
    template: str,
    tools: Sequence[Mapping[str, Any]] | None,
    given: Mapping[str, Any] | None,
    add_generation_prompt: bool,
    *,
    spans: bool,
) -> dict[str, Any]:
    if not messages:
        raise TemplateError("the conversation is empty")
    variables = {
        **tokenizer.special_tokens_map,
        **(given or {}),
        "messages": [_message(message) for message in messages],
        "tools": tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
    }
    request = (template, variables, datetime.datetime.now().isoformat(), spans, SECONDS, LONGEST)
    return _process().ask(template, request)


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message as transformers hands it on: without nulls, and thinking under each name that it goes by."""
    given = {key: value for key, value in message.items() if value is not None}
    reasoning = next((given[key] for key in ("reasoning_content", "thinking", "reasoning") if key in given), None)
    return given if reasoning is None else {"thinking": reasoning, **given, "reasoning_content": reasoning}


class _Process:
    """The process that runs templates, started when it is first asked and after each end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._refused: dict[str, str] = {}

    def ask(self, template: str, request: tuple[Any, ...]) -> dict[str, Any]:
        with self._lock:
            if (why := self._refused.get(template)) is not None:
                raise TemplateBoundsError(why)
            data = _marshalled(request)
            longest = max(LONGEST, LONGEST_PER_BYTE * len(data))
            answer = self._answer(data, longest)
            match answer.get("error"):
                case None:
                    return answer
                case "syntax":
                    raise TemplateSyntaxError(answer["message"], answer["line"])
                case "refused":
                    raise TemplateError(answer["message"])
                case kind:
                    self._refused[template] = why = _BEYOND[kind].format(longest=longest)
                    self.end()
                    raise TemplateBoundsError(why)

    def end(self) -> None:
        if self._running is None:
            return
        self._running.kill()
        self._running.wait()
        for stream in (self._running.stdin, self._running.stdout):
            with contextlib.suppress(OSError):
                assert stream is not None
                stream.close()
        self._running = None

    def _answer(self, request: bytes, longest: int) -> dict[str, Any]:
        # One that ended on its own, killed from outside, is started again once.
        for attempt in (1, 2):
            fresh = self._running is None
            if fresh:
                self._start()
            try:
                self._send(request)
                return json.loads(self._receive(PATIENCE, 8 * longest + 2**20))
            except TimeoutError:
                self.end()
                return {"error": "time"}
            except (OSError, ValueError):
                ended = self._running.poll() if self._running is not None else None
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended = self._running.wait(1.0) if self._running is not None else ended
                self.end()
                if ended is not None and (kind := _BY_SIGNAL.get(-ended)) is not None:
                    return {"error": kind}
                if attempt == 2:
                    return {"error": "ended"}
        raise AssertionError("unreachable")

    def _start(self) -> None:
        environment = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._running = subprocess.Popen(
            [sys.executable, "-I", "-B", str(_PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for this process to hear
        )
        try:
            self._send(marshal.dumps(list(sys.path)))
            self._receive(STARTING, 2**20)
        except (OSError, TimeoutError) as error:
            self.end()
            raise UserError(f"chat_template: the process that runs templates did not start: {error}.") from None

    def _send(self, data: bytes) -> None:
        assert self._running is not None
        assert self._running.stdin is not None
        self._running.stdin.write(len(data).to_bytes(8, "little") + data)
        self._running.stdin.flush()

    def _receive(self, seconds: float, most: int) -> bytes:
        assert self._running is not None
        assert self._running.stdout is not None
        stream = self._running.stdout.fileno()
        poll = select.poll()
        poll.register(stream, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise TimeoutError("no answer")
        length = int.from_bytes(_exactly(stream, 8), "little")
        if length > most:
            raise ValueError("an answer that is too long")
        return _exactly(stream, length)


def _exactly(stream: int, count: int) -> bytes:
    parts = []
    while count:
        part = os.read(stream, min(count, 2**20))
        if not part:
            raise OSError("the process has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _marshalled(value: Any) -> bytes:
    try:
        return marshal.dumps(value)
    except ValueError:  # something that is not plain, such as a date of a Parquet file
        return marshal.dumps(_plain(value))


def _plain(value: Any) -> Any:
    """The value of JSON's types alone, as transformers gives it to a template; of others their names."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"


_BY_SIGNAL: dict[int, str] = {
    signal.SIGPROF: "time",
    signal.SIGKILL: "memory",
}  # the latter is what a system sends that is short of it
_BEYOND = {
    "time": f"it takes longer than {SECONDS:g} seconds for one conversation, or {SECONDS_MORE:g} for each of many",
    "memory": "it takes too much memory for one conversation",
    "long": "it writes more than {longest:,} characters for one conversation",
    "ended": "it ends the process that runs it",
}
_of_process: dict[int, _Process] = {}


def _process() -> _Process:
    """That of this process: after a fork the child has its own."""
    return _of_process.setdefault(os.getpid(), _Process())


@atexit.register
def _end() -> None:
    if (process := _of_process.get(os.getpid())) is not None:
        process.end()
