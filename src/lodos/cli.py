"""The command line: a verb, then its options; what goes wrong is said without a traceback.

A verb is imported when it is called.
"""

import difflib
import errno
import importlib
import logging
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable
from typing import Any, get_type_hints

from lodos import signals
from lodos.errors import NOT_SAVED, TRY_AGAIN, Stopped, UserError
from lodos.known_secrets import hidden, remember_arguments
from lodos.version import __version__

VERBS = {
    "demo": "see it work: fine-tune a small model on a small data set, before and after",
    "data": "see what would be trained, token by token, and what is wrong with it",
    "plan": "see beforehand whether a training fits, here or on devices that are not there",
    "train": "fine-tune a Hugging Face model with LoRA on instruction data",
    "generate": "answer a prompt, or those of a file, with a model and an adapter",
    "chat": "talk with a model and an adapter in the terminal",
    "merge": "put an adapter into its base model, for transformers",
    "export": "write an adapter, or the merged model, for llama.cpp, Ollama or MLX",
    "import": "read an adapter of MLX or llama.cpp",
    "verify": "see whether an adapter, a merged model, a checkpoint or a run is what it should be",
    "drill": "see whether a run that is killed again and again comes to the same",
    "doctor": "see whether a config trains the same on one device and on the mesh",
}

_MODULES = {"import": "import_adapter"}
"""Of verbs that Python keeps to itself."""

HELP = """usage: lodos <verb> [options]

LoRA fine-tuning of language models in JAX.

verbs:
{verbs}

  lodos <verb> --help    the options of a verb
  lodos --version

examples:
  lodos demo
  lodos data my.yaml
  lodos plan my.yaml --target v3-32
  lodos train my.yaml --lora.r 16 --trainer.num_train_steps 100
  lodos generate --adapter runs/<id>/peft/best --prompt 'What is a lodos?'
  lodos chat --adapter runs/<id>/peft/best
"""


def main(argv: list[str] | None = None) -> int:
    """Runs a verb; the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    remember_arguments(arguments)
    return _reported(lambda: _run(verb, rest))


def run_script(fn: Callable[[Any], Any], argv: list[str] | None = None) -> int:
    """Makes a program of `fn(config)`: reads the config, as `lodos train` does, and calls it; the exit status.

    The config is the dataclass that `fn` names as the type of its argument.

        if __name__ == "__main__":
            sys.exit(run_script(train))
    """
    arguments = sys.argv[1:] if argv is None else argv
    remember_arguments(arguments)
    (hint, *_) = (kind for name, kind in get_type_hints(fn).items() if name != "return")

    def run() -> int:
        set_up_process()
        import jax

        from lodos import hosts
        from lodos.config_parsing import parse_config
        from lodos.train.failed_saves import unsaved
        from lodos.train.failures import explained_failures
        from lodos.train.interrupt import exit_status

        # The script has imported JAX before, which read the environment as it was then.
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        least_seconds = float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least_seconds)
        config = parse_config(hint, arguments, prog=f"python {sys.argv[0]}", description=hint.__doc__ or "")
        trainer = getattr(config, "trainer", None)
        with explained_failures(), signals.listening():
            if trainer is not None:
                hosts.join(trainer.distributed)
            fn(config)
            hosts.finish()
        return NOT_SAVED if unsaved() else exit_status()

    return _reported(run)


def _reported(run: Callable[[], int]) -> int:
    """The exit status of `run`; what the user can mend is said without a traceback."""
    try:
        status = run()
        sys.stdout.flush()
        # Some library's `except:` may have been where the exception of a signal ended.
        return status or (128 + signals.received() if signals.received() else 0)
    except UserError as error:
        if signals.received():
            return _stopped(signals.received())
        if os.environ.get("LODOS_DEBUG"):
            print(hidden(traceback.format_exc()), file=sys.stderr)
        return _left(_fail(str(error)), hidden(str(error)))
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except Stopped as stopped:
        return _stopped(stopped.signum)
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if signals.received():  # what it has become on its way
            return _stopped(signals.received())
        if (refused := _refused(error)) is not None:
            _fail(f"{refused.filename or 'a disk'}: {refused.strerror}. Nothing that was whole is lost by it.")
            return _left(NOT_SAVED, str(refused))
        if (status := _status_of_store(error)) is not None:
            _fail(getattr(error, "strerror", None) or str(error))
            return _left(status, hidden(str(error)))
        if (hosts := sys.modules.get("lodos.hosts")) is None or hosts.count() == 1:
            raise
        print(hidden(traceback.format_exc()), file=sys.stderr)
        said = hidden(f"{type(error).__name__}: {error}")
        return _left(TRY_AGAIN if isinstance(error, hosts.HostsError) else 1, said)


def _stopped(signum: int) -> int:
    signals.say(signum)
    return _left(128 + signum, "it was told to")


def _refused(error: Exception) -> OSError | None:
    """What a full or broken disk has said; None for other errors. A file that is not there may be our mistake."""
    from lodos.files import disk_failure

    refused = disk_failure(error)
    return None if refused is None or refused.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES) else refused


def _status_of_store(error: Exception) -> int | None:
    """The exit code of an error of a store: whether another try is worth it; None for other errors."""
    store = sys.modules.get("lodos.places.store")
    if store is None or not isinstance(error, store.SAID):
        return None
    return TRY_AGAIN if isinstance(error, store.StoreFailingError) else 1


def _left(status: int, message: str) -> int:
    """The status; of several hosts that train together the others are told, and all end with it."""
    if (hosts := sys.modules.get("lodos.hosts")) is not None:
        hosts.leave(status, message)
    return status


def _run(verb: str, rest: list[str]) -> int:
    if verb in ("-h", "--help", "help"):
        print(HELP.format(verbs="\n".join(f"  {name:<10}{what}" for name, what in VERBS.items())), end="")
        return 0
    if verb in ("-V", "--version"):
        print(f"lodos {__version__}")
        return 0
    if verb not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Verbs: {', '.join(VERBS)}."
        raise UserError(f"{verb!r} is not a verb. {hint}")
    set_up_process()
    command = importlib.import_module(f"lodos.commands.{_MODULES.get(verb, verb)}")
    signals.working(interrupts_only=verb == "chat")
    return command.main(rest)


def set_up_process() -> None:
    """What a process that does work wants before it imports a library; help does not wait for it."""
    from lodos.runtime import prepare_runtime

    set_logging()
    prepare_runtime()
    sys.excepthook = _traceback


def _traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    print(hidden("".join(traceback.format_exception(kind, error, trace))), file=sys.stderr, end="")


def set_logging() -> None:
    """What lodos has to say, on standard error."""

    class Plain(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            prefix = "warning: " if record.levelno >= logging.WARNING else ""
            text = prefix + hidden(super().format(record))
            return _wrapped(text, shutil.get_terminal_size().columns) if sys.stderr.isatty() else text

    class ToStandardError(logging.StreamHandler[Any]):
        """Where standard error is now: while a bar is drawn, lines go above it."""

        def emit(self, record: logging.LogRecord) -> None:
            self.stream = sys.stderr
            super().emit(record)

    logger = logging.getLogger("lodos")
    if not logger.handlers:
        handler = ToStandardError()
        handler.setFormatter(Plain("%(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _wrapped(text: str, width: int) -> str:
    """`text` in lines that end between words: a terminal would cut numbers in two."""
    lines = (textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
    return "\n".join("\n".join(part) for part in lines)


def _fail(message: str) -> int:
    red, plain = ("\x1b[31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    print(f"{red}error:{plain} {hidden(message)}", file=sys.stderr)
    return 1
