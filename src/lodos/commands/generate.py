"""`lodos generate`: answer a prompt, each word as it comes, or all prompts of a file.

Everything that can be wrong with the options, the prompts and the folders is looked at before weights are loaded.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator

from lodos.commands.asked_model import DEFAULT_NEW_TOKENS, AnswerArgs, AskedModel, find_model
from lodos.commands.prompt_file import AskedPrompt, read_prompt_file
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.progress import progress_bar
from lodos.infer.generate import generate, longest_sequence
from lodos.infer.session import generate_stream
from lodos.infer.text import decode, filler_token_id, stream_text
from lodos.places.looking import is_folder
from lodos.places.place import Place, is_remote, place_of
from lodos.places.saving import check_writable, save_text
from lodos.places.store import refusals
from lodos.prompting.encode import encode_prompt

STDIN = "-"
ANSWER = "generated"
"""The field of an answer in the rows that are written."""


@dataclasses.dataclass(kw_only=True)
class GenerateArgs(AnswerArgs):
    """Answer a prompt, or those of a file, with a model and, if given, a LoRA adapter, asked as it was trained."""

    prompt: str | None = None
    """The prompt; - reads it from the standard input."""
    input: str = ""
    """The input that goes with the prompt, where it is an instruction."""
    prompt_file: str | None = None
    """A file of prompts instead: .txt with one a line, or rows (.jsonl, .json, .csv, .parquet) with instruction and
    perhaps input, messages, or prompt, as the model was trained."""
    output: str | None = None
    """Where the answers to a file go, as JSONL: each row with its answer as generated; by default standard output."""
    batch_size: int = 32
    """How many prompts of a file are answered at once."""

    def problems(self) -> list[str]:
        """What is wrong with the options, seen before anything is read."""
        problems = super().problems()
        if (self.prompt is None) == (self.prompt_file is None):
            given = "both given" if self.prompt is not None else "missing"
            problems.append(f"prompt, prompt_file: {given}. Give --prompt 'What is a lodos?' or --prompt_file FILE.")
        if self.prompt_file is None and self.output is not None:
            problems.append("output: the answer to --prompt goes to standard output. Give --prompt_file, or > FILE.")
        if self.prompt_file is not None and self.input:
            problems.append("input: goes with --prompt; in a file each row has its own.")
        if self.batch_size < 1:
            problems.append(f"batch_size: {self.batch_size} is less than 1.")
        return problems


def main(argv: list[str]) -> int:
    """Answers as the arguments say."""
    args = parse_config(GenerateArgs, argv, prog="lodos generate", description=GenerateArgs.__doc__ or "")
    if problems := args.problems():
        raise UserError("\n".join(problems))
    if args.prompt_file is not None:
        answer_file(args, args.prompt_file)
        return 0
    for piece in answer(args):
        print(piece, end="", flush=True)
    print()
    return 0


def answer(args: GenerateArgs) -> Iterator[str]:
    """The answer to `args.prompt` piece by piece.

    Raises:
        UserError: before any weight is loaded, unless it is the weights that do not fit.
    """
    prompt = sys.stdin.read().removesuffix("\n") if args.prompt == STDIN else args.prompt
    if not prompt:
        raise UserError("prompt: it is empty.")
    asked = find_model(args)
    ids = encode_prompt(asked.tokenizer, prompt, asked.prompting, text=args.input)
    max_new_tokens = _new_tokens(args, asked, len(ids))
    asked.check([ids], max_new_tokens)
    new_ids = generate_stream(
        asked.load(args.dtype),
        ids,
        max_new_tokens=max_new_tokens,
        eos_token_ids=asked.end_token_ids,
        sampling=args.sampling,
        seed=args.seed,
    )
    yield from stream_text(asked.tokenizer, new_ids)


def answer_file(args: GenerateArgs, path: str) -> None:
    """Answers every prompt of a file, in its order; the output is there whole or not at all.

    Raises:
        UserError: before any weight is loaded, naming every row that cannot be asked.
    """
    output = None if args.output is None else _output_path(args.output, path)
    asked = find_model(args)
    prompts = read_prompt_file(path, asked.tokenizer, asked.prompting, answer=ANSWER)
    ids = [prompt.ids for prompt in prompts]
    max_new_tokens = _new_tokens(args, asked, max(map(len, ids)))
    asked.check(ids, max_new_tokens, names=[prompt.where for prompt in prompts])
    model = asked.load(args.dtype)
    with progress_bar("Answering", len(ids), enabled=True) as advance:
        answers = generate(
            model,
            ids,
            max_new_tokens=max_new_tokens,
            eos_token_ids=asked.end_token_ids,
            pad_token_id=filler_token_id(asked.tokenizer),
            sampling=args.sampling,
            seed=args.seed,
            batch_size=args.batch_size,
            progress=advance,
        )
    texts = [decode(asked.tokenizer, answer) for answer in answers]
    lines = "".join(_line(prompt, text) for prompt, text in zip(prompts, texts, strict=True))
    if output is None:
        sys.stdout.write(lines)
    else:
        save_text(output, lines)
        print(f"{len(texts)} answer{'s' if len(texts) > 1 else ''}: {output}", file=sys.stderr)


def _line(prompt: AskedPrompt, text: str) -> str:
    return json.dumps({**prompt.fields, ANSWER: text}, ensure_ascii=False, default=str) + "\n"


def _new_tokens(args: GenerateArgs, asked: AskedModel, longest_prompt: int) -> int:
    left = longest_sequence(asked.converter.config) - longest_prompt
    return args.max_new_tokens or max(min(DEFAULT_NEW_TOKENS, left), 1)


def _output_path(text: str, prompt_file: str) -> Place:
    path = place_of(text)
    with refusals("output", path):
        if is_folder(path):
            raise UserError(f"output: {text} is a folder. Give the name of a file.")
    if path.resolve() == place_of(prompt_file).resolve():
        raise UserError(f"output: {text} is the file of the prompts, which would be lost. Give another name.")
    check_writable("output", path if is_remote(path) else path.parent)
    return path
