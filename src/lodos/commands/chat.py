"""`lodos chat`: a conversation in the terminal, each word as it comes.

Answers go to standard output, everything else to standard error, so that lines can be piped in and answers out. The
model keeps what it has read: a turn costs what it adds.
"""

import dataclasses
import logging
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

from lodos.commands.asked_model import DEFAULT_NEW_TOKENS, AnswerArgs, find_model
from lodos.commands.conversation import Conversation
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.infer.generate import longest_sequence
from lodos.infer.session import Session
from lodos.infer.text import stream_text

logger = logging.getLogger(__name__)

HELP = """\
  /reset         begin anew: all turns are forgotten
  /undo          take the last turn back
  /system TEXT   another system turn; without TEXT none
  /help          this
  /exit          end, as Ctrl-D does
A line that ends in \\ goes on in the next one; // begins a message with a slash. Ctrl-C stops an answer."""


@dataclasses.dataclass(kw_only=True)
class ChatArgs(AnswerArgs):
    """Talk with a model and, if given, a LoRA adapter in the terminal; it is asked as it was trained. /help lists what
    can be written beside messages."""


def main(argv: list[str]) -> int:
    """Talks until the input ends; 1 if a message that was piped in could not be answered."""
    args = parse_config(ChatArgs, argv, prog="lodos chat", description=ChatArgs.__doc__ or "")
    if problems := args.problems():
        raise UserError("\n".join(problems))
    asked = find_model(args)
    conversation = Conversation(
        asked.tokenizer,
        asked.prompting,
        positions=longest_sequence(asked.converter.config),
        max_new_tokens=args.max_new_tokens or DEFAULT_NEW_TOKENS,
    )
    model = asked.load(args.dtype)
    session = Session(model, eos_token_ids=asked.end_token_ids, sampling=args.sampling, seed=args.seed)
    if not conversation.has_history:
        logger.info("It was trained on single prompts, so each message is asked alone, without those before it.")
    if sys.stdin.isatty():
        logger.info("/help lists what can be written beside messages; Ctrl-D ends.")
    all_answered = Chat(conversation, session, lambda ids: stream_text(asked.tokenizer, ids)).run()
    return 0 if all_answered or sys.stdin.isatty() else 1


class Chat:
    """The turns of a conversation, read and answered.

    Args:
        spell: pieces of text of token ids as they come.
    """

    def __init__(
        self, conversation: Conversation, session: Session, spell: Callable[[Iterable[int]], Iterator[str]]
    ) -> None:
        self._conversation = conversation
        self._session = session
        self._spell = spell
        self._turn = 0

    def run(self) -> bool:
        """Reads messages and answers them until the input ends or /exit; whether all could be answered."""
        all_answered = True
        while True:
            try:
                message = read_message()
            except EOFError:
                return all_answered
            except KeyboardInterrupt:
                _say("\nCtrl-D or /exit ends.")
                continue
            try:
                if message.startswith("/") and not message.startswith("//"):
                    if not self._command(*message[1:].split(maxsplit=1)):
                        return all_answered
                elif message.strip():
                    self._reply(message.removeprefix("/") if message.startswith("//") else message)
            except UserError as error:
                all_answered = False
                _say(f"error: {error}")

    def _command(self, name: str = "", text: str = "") -> bool:
        """Does what a line with a slash asks for; whether to go on."""
        match name:
            case "exit" | "quit":
                return False
            case "help":
                _say(HELP)
            case "reset":
                self._conversation.exchanges.clear()
                _say("All turns are forgotten.")
            case "undo":
                _say("The last turn is taken back." if self._conversation.undo() else "There is no turn to take back.")
            case "system":
                self._conversation.set_system(text)
                _say("The system turn is set." if text else "There is no system turn now.")
            case _:
                raise UserError(f"/{name}: no such command. /help lists them; // begins a message with a slash.")
        return True

    def _reply(self, message: str) -> None:
        prompt = self._conversation.ask(message)
        if prompt.forgotten:
            turns = "turn is" if prompt.forgotten == 1 else f"{prompt.forgotten} turns are"
            _say(f"The conversation has outgrown the model's positions: the oldest {turns} forgotten.")
        pieces, count = [], 0
        with stopped_by_ctrl_c() as stopped:
            ids = self._session.stream(prompt.ids, max_new_tokens=prompt.max_new_tokens, turn=self._turn)

            def until_stopped() -> Iterator[int]:
                nonlocal count
                for token in ids:
                    if stopped():
                        return
                    count += 1
                    yield token

            for piece in self._spell(until_stopped()):
                pieces.append(piece)
                print(piece, end="", flush=True)
            print(flush=True)
        if stopped():
            _say("Stopped.")
        elif count == prompt.max_new_tokens:
            _say(f"Cut after {count} tokens; --max_new_tokens allows more.")
        self._turn += 1
        self._conversation.note(message, "".join(pieces))


def read_message() -> str:
    """A message from standard input: a line, or several joined by a backslash at their ends.

    Raises:
        EOFError: at the end of the input.
    """
    lines = [_read_line("> ")]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        try:
            lines.append(_read_line(". "))
        except EOFError:
            break
    return "\n".join(lines)


def _read_line(prompt: str) -> str:
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):
            import readline  # noqa: F401 (arrows and earlier lines, for `input`)
        return input(prompt)
    if sys.stdin.isatty():
        print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.removesuffix("\n")


@contextmanager
def stopped_by_ctrl_c() -> Iterator[Callable[[], bool]]:
    """Within it a first Ctrl-C only makes what it yields true; a second one interrupts as always."""
    pressed = False

    def press(number: int, frame: object) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
