"""The process in which chat templates are run: a program of its own, which knows of no other file of lodos.

A chat template is a program of whoever made the model. Jinja's sandbox keeps it from Python's inner attributes, and
nothing there bounds how long it runs or how much it holds: nested loops, powers, padding, a text doubled forty times,
a list in itself. A list of what is too much would never be whole, so the system's own limits hold here: processor
time by a timer whose signal ends the process, memory by an address space of a fixed size. Besides, this process has an
empty environment, and can open no file, write none and start no other process.

    request    8 bytes, how long it is, and `marshal` of (template, variables, now, spans, seconds, longest)
    answer     8 bytes, how long it is, and JSON: {"text": ..., "spans": [[start, end], ...]} or {"error": ...}

The environment is the one that transformers gives a template (`utils/chat_template_utils.py`).
"""

import contextlib
import datetime
import functools
import json
import marshal
import signal
import sys
from collections.abc import Iterator
from typing import Any

MEMORY = 512 * 2**20
"""Bytes of address space beyond those of the process at its start."""
MEMORY_PER_BYTE = 24
"""Bytes more for each byte of a request: a long conversation is held several times."""
SECONDS_MORE = 0.05
"""Of processor time that a template gains with each conversation, so that many are not held up by as many bounds."""
SECONDS_PER_BYTE = 2e-6
"""And with each byte of a request."""
LONGEST_PER_BYTE = 8
"""Characters of a text for each byte of a request, where those are more than it may have in any case."""
_LONGEST_MESSAGE = 2000


def main() -> None:
    """Answers requests from standard input until it ends."""
    read, write = sys.stdin.buffer, sys.stdout.buffer
    sys.path[:] = marshal.loads(_received(read))
    _import_all()
    beyond = _closed_in()
    _send(write, b"{}")
    while request := _received(read):
        with _limits(beyond, len(request)):
            answer = _answered(request)
        _send(write, answer)


def _answered(request: bytes) -> bytes:
    from jinja2 import TemplateSyntaxError

    template, variables, now, wants_spans, seconds, longest = marshal.loads(request)
    longest = max(longest, LONGEST_PER_BYTE * len(request))
    try:
        with _timer(template, seconds, len(request)):
            text, spans = _rendered(template, variables, now, wants_spans)
            if len(text) > longest:
                return _error("long", "")
            return json.dumps({"text": text, "spans": spans}).encode()
    except TemplateSyntaxError as error:
        return _error("syntax", str(error), line=error.lineno)
    except MemoryError:
        return _error("memory", "")
    except RecursionError:
        return _error("refused", "it calls itself without end")
    except Exception as error:  # a template is a program, and may fail in any way
        return _error("refused", str(error) or type(error).__name__)


@contextlib.contextmanager
def _timer(template: str, seconds: float, size: int) -> Iterator[None]:
    """Ends the process, in whatever it is, when the template has used the processor time that it has.

    It has so many seconds at first, what it leaves of them later, and a little more with each conversation.
    """
    if not hasattr(signal, "setitimer"):
        yield
        return
    left = min(seconds, _LEFT.get(template, seconds) + SECONDS_MORE + SECONDS_PER_BYTE * size)
    signal.setitimer(signal.ITIMER_PROF, left)
    try:
        yield
    finally:
        _LEFT[template], _ = signal.setitimer(signal.ITIMER_PROF, 0)


_LEFT: dict[str, float] = {}


def _error(kind: str, message: str, **more: Any) -> bytes:
    return json.dumps({"error": kind, "message": message[:_LONGEST_MESSAGE], **more}).encode()


def _rendered(template: str, variables: dict[str, Any], now: str, wants_spans: bool) -> tuple[str, list[list[int]]]:
    compiled, tracker = _compiled(template)
    tracker.now = datetime.datetime.fromisoformat(now)
    if not wants_spans:
        return compiled.render(**variables), []
    blocks: list[str] = []
    tracker.blocks, tracker.spans = blocks, []
    try:
        for block in compiled.generate(**variables):
            blocks.append(block)  # noqa: PERF402 (what came before is counted meanwhile)
        return "".join(blocks), tracker.spans
    finally:
        tracker.blocks = None


class _Tracker:
    """What a template's functions know of the rendering that goes on."""

    def __init__(self) -> None:
        self.now = datetime.datetime.min
        self.blocks: list[str] | None = None
        self.spans: list[list[int]] = []


@functools.lru_cache(maxsize=64)
def _compiled(template: str) -> tuple[Any, _Tracker]:
    import jinja2
    import jinja2.exceptions
    import jinja2.ext
    import jinja2.nodes
    import jinja2.sandbox
    import jinja2.utils

    tracker = _Tracker()

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`: what the model says, whose place in the text is noted."""

        tags = frozenset({"generation"})  # pyright: ignore[reportAssignmentType]

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_noted"), [], [], body).set_lineno(line)

        def _noted(self, caller: Any) -> str:
            said = caller()
            if tracker.blocks is not None:
                start = sum(map(len, tracker.blocks))
                tracker.spans.append([start, start + len(said)])
            return said

    def raise_exception(message: Any) -> None:
        raise jinja2.TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        # Jinja's own would escape the characters of HTML.
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Namespace(jinja2.utils.Namespace):
        """One in which no name begins with an underscore, which leads to Python's inner attributes."""

        def __init__(*args: Any, **kwargs: Any) -> None:
            self, given = args[0], dict(*args[1:], **kwargs)
            for name in given:
                _check_name(name)
            jinja2.utils.Namespace.__init__(self, given)

        def __setitem__(self, name: str, value: Any) -> None:
            _check_name(name)
            jinja2.utils.Namespace.__setitem__(self, name, value)

    class Dict:
        """Python's dict as a function, without its attributes."""

        def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
            return dict(*args, **kwargs)

        def fromkeys(self, *args: Any) -> dict[Any, Any]:
            return dict.fromkeys(*args)

    class Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
        """One that refuses a template which reaches for Python's inner attributes, where Jinja's writes nothing."""

        def getattr(self, obj: Any, attribute: str) -> Any:
            self._refuse_inner(obj, attribute)
            return super().getattr(obj, attribute)

        def getitem(self, obj: Any, argument: Any) -> Any:
            self._refuse_inner(obj, argument)
            return super().getitem(obj, argument)

        def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
            self._refuse_inner(obj, attribute)
            return super().unsafe_undefined(obj, attribute)

        def _refuse_inner(self, obj: Any, name: Any) -> None:
            if isinstance(name, str) and name.startswith("__") and not (isinstance(obj, dict) and name in obj):
                raise jinja2.exceptions.SecurityError(f"{name!r} of {type(obj).__name__} is not for templates")

    environment = Environment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: tracker.now.strftime(form),
        "dict": Dict(),
        "namespace": Namespace,
    }
    return environment.from_string(template), tracker


def _check_name(name: Any) -> None:
    from jinja2.exceptions import SecurityError

    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore, such as {name!r}")


def _import_all() -> None:
    """What jinja2 would import when it is first used."""
    import jinja2

    text = "{{ [1]|pprint }}{{ 'a'|urlize }}{{ 'a'|wordwrap }}{{ lipsum(1, min=1, max=2) }}{{ '<b>'|striptags }}"
    _rendered(text, {}, "2000-01-01", True)
    for failing in ("{{ raise_exception('') }}", "{% if %}"):
        with contextlib.suppress(jinja2.TemplateError):
            _rendered(failing, {}, "2000-01-01", False)


def _closed_in() -> int:
    """Lets go of what a template has no need of; returns the bytes of address space that are taken now."""
    with contextlib.suppress(ImportError):  # on Windows
        import resource

        for name in ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_NPROC", "RLIMIT_CORE"):
            with contextlib.suppress(ValueError, OSError, AttributeError):
                resource.setrlimit(getattr(resource, name), (0, 0))
    return _TAKEN


def _taken() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * 4096
    except OSError:
        return 2**30  # a system without it maps much that it never uses


_TAKEN = _taken()


@contextlib.contextmanager
def _limits(beyond: int, size: int) -> Iterator[None]:
    """A bound on the address space, where the system has one."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = beyond + MEMORY + MEMORY_PER_BYTE * size
        resource.setrlimit(resource.RLIMIT_AS, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    except (ImportError, ValueError, OSError):
        pass
    yield


def _received(stream: Any) -> bytes:
    return stream.read(int.from_bytes(stream.read(8), "little"))


def _send(stream: Any, data: bytes) -> None:
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


if __name__ == "__main__":
    main()
