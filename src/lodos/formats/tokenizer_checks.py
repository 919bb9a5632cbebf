"""A tokenizer's files before a library makes something of them, and the tokenizer before anybody uses it.

The library is in Rust: what it cannot do may be a panic, or an allocation that ends the process. So sizes that it would
allocate are looked at first. What it has made is asked to read and write a text, because much is found only then.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lodos.errors import UserError, refusals_of
from lodos.json_files import (
    FLAG,
    NAMES,
    OBJECT,
    TEXT,
    Kind,
    field_problems,
    is_number,
    is_whole,
    list_of,
    read_object,
)

WHOLE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
MOST_IDS = 2**24
LONGEST_TEMPLATE = 2**20
"""Characters of a chat template."""

_PROBE = "Hello  World! 123\n\tGrüße, 日本 🙂 <s> \u0301"
_MOST_GROWTH = 64
"""Characters that steps before and after the vocabulary may make of one."""
_ID = Kind(f"a token id below {MOST_IDS:,}", lambda value: is_whole(value, 0, MOST_IDS - 1))
_TOKEN = TEXT | OBJECT
_NAMED_TEMPLATES = Kind(
    "a list of named templates",
    lambda value: isinstance(value, list) and all(isinstance(one, dict) for one in value),
)
_SETTINGS: Mapping[str, Kind] = {
    "added_tokens_decoder": OBJECT,
    "additional_special_tokens": list_of(_TOKEN),
    "auto_map": OBJECT,
    "bos_token": _TOKEN,
    "chat_template": TEXT | _NAMED_TEMPLATES | OBJECT,
    "eos_token": _TOKEN,
    "extra_special_tokens": OBJECT | list_of(_TOKEN),
    "model_max_length": Kind("a number", is_number) | Kind("a number", lambda value: isinstance(value, int)),
    "pad_token": _TOKEN,
    "padding_side": TEXT,
    "tokenizer_class": TEXT,
    "unk_token": _TOKEN,
    "clean_up_tokenization_spaces": FLAG,
}
_PARTS: Mapping[str, Kind] = {
    "version": TEXT,
    "truncation": OBJECT,
    "padding": OBJECT,
    "added_tokens": list_of(OBJECT),
    "normalizer": OBJECT,
    "pre_tokenizer": OBJECT,
    "post_processor": OBJECT,
    "decoder": OBJECT,
    "model": OBJECT,
}
_PIECE = Kind("a piece and its score", lambda value: isinstance(value, list))
_MODEL: Mapping[str, Kind] = {
    "type": TEXT,
    "vocab": OBJECT | list_of(_PIECE),
    "merges": NAMES | list_of(NAMES),
}


def check_tokenizer_files(folder: Path) -> None:
    """Looks at the JSON files of a folder's tokenizer.

    Raises:
        UserError: by file and field, for what is no JSON, of a wrong kind, or larger than any tokenizer is.
    """
    problems: list[str] = []
    for name, kinds in ((CONFIG, _SETTINGS), ("special_tokens_map.json", _SETTINGS), ("added_tokens.json", {})):
        if (path := folder / name).exists():
            problems += [f"{path}: {problem}" for problem in _settings_problems(read_object(path, kinds), name)]
    if (path := folder / "vocab.json").exists():
        problems += [f"{path}: {problem}" for problem in _vocabulary_problems(read_object(path))]
    if (path := folder / WHOLE).exists():
        problems += [f"{path}: {problem}" for problem in _whole_problems(read_object(path, _PARTS))]
    for path in (*folder.glob("*.jinja"), *folder.glob("additional_chat_templates/*.jinja")):
        if path.stat().st_size > 4 * LONGEST_TEMPLATE:
            problems.append(f"{path}: a chat template of {path.stat().st_size:,} bytes.")
    if problems:
        raise UserError("\n".join(problems))


def check_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Has a tokenizer read and write a text.

    Raises:
        UserError: when it cannot.
    """
    if not getattr(tokenizer, "is_fast", False):
        return  # who needs offsets says so
    with refusals_of("the tokenizers library", folder):
        ids = tokenizer(_PROBE, return_offsets_mapping=True)["input_ids"]
        tokenizer.decode(ids)
        vocabulary = len(tokenizer)
        template: Any = tokenizer.chat_template
    if len(ids) > 100 * len(_PROBE.encode()):
        raise UserError(f"{folder}: the tokenizer makes {len(ids):,} tokens of {len(_PROBE)} characters.")
    if not vocabulary:
        raise UserError(f"{folder}: the tokenizer has no tokens.")
    templates = template.values() if isinstance(template, dict) else [template]
    if not all(one is None or (isinstance(one, str) and len(one) <= LONGEST_TEMPLATE) for one in templates):
        raise UserError(f"{folder}: chat_template: must be text of at most {LONGEST_TEMPLATE:,} characters.")


def _settings_problems(fields: Mapping[str, Any], name: str) -> Iterator[str]:
    if name == "added_tokens.json":
        yield from _vocabulary_problems(fields)
    for token in fields.get("added_tokens_decoder") or {}:
        if not (token.isascii() and token.isdigit() and len(token) < 10 and int(token) < MOST_IDS):
            yield f"added_tokens_decoder: {token[:40]!r} is no token id below {MOST_IDS:,}."


def _vocabulary_problems(vocabulary: Mapping[str, Any]) -> list[str]:
    wrong = next((text for text, token in vocabulary.items() if not _ID.fits(token)), None)
    return [] if wrong is None else [f"{wrong[:40]!r}: must be {_ID.what}, found {str(vocabulary[wrong])[:40]}."]


def _whole_problems(fields: Mapping[str, Any]) -> Iterator[str]:
    if "model" not in fields:
        yield "model: missing."
        return
    model = fields["model"] or {}
    yield from (f"model: {problem}" for problem in field_problems(model, _MODEL))
    if isinstance(model.get("vocab"), dict):
        yield from (f"model.vocab: {problem}" for problem in _vocabulary_problems(model["vocab"]))
    for token in fields.get("added_tokens") or []:
        if problems := field_problems(token, {"id": _ID, "content": TEXT}):
            yield f"added_tokens: {problems[0]}"
            break
    for part in ("truncation", "padding"):
        for path, number in _numbers(fields.get(part), part):
            if not is_whole(number, 0, MOST_IDS):
                yield f"{path}: must be a whole number up to {MOST_IDS:,}, found {str(number)[:40]}."
    for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor"):
        if (growth := _growth(fields.get(part))) > _MOST_GROWTH:
            yield f"{part}: makes up to {growth:,.0f} characters of one, more than {_MOST_GROWTH}."


def _numbers(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _numbers(item, f"{path}.{name}")
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value


def _growth(step: Any) -> float:
    """How many characters a step may make of one: of steps in a row the product."""
    if not isinstance(step, dict):
        return 1.0
    growth = 1.0
    for name in ("normalizers", "pretokenizers", "decoders", "processors"):
        steps = step.get(name)
        for inner in steps if isinstance(steps, list) else ():
            growth = min(growth * _growth(inner), 1e30)
    content = step.get("content")
    if step.get("type") == "Replace" and isinstance(content, str):
        pattern = step.get("pattern")
        text = pattern.get("String") if isinstance(pattern, dict) else None
        growth *= max(1.0, len(content) / len(text) if isinstance(text, str) and text else len(content) + 1.0)
    return growth
