"""Which layers a LoraConfig means, by PEFT's rules on Hugging Face module names.

A list matches a name that is in it or ends in `.` plus an entry: `["proj"]` does not match `q_proj`. A string is
a regex for the whole name. `None` and "all-linear" are every linear layer but the output head; that and the embedding
have to be named. The rules are
those of `check_target_module_exists` in PEFT's `tuners/tuners_utils.py`; unlike PEFT, an entry of a list that
matches no layer is an error, because a misspelt target would otherwise go untrained without a word.
"""

import difflib
import re
from collections.abc import Iterable, Sequence

from lodos.errors import UserError
from lodos.lora.config import ALL_LINEAR, LoraConfig
from lodos.lora.patterns import check_patterns

OUTPUT_HEAD = "lm_head"

_TIED = (
    "In this model one weight is both the embedding and the output head (tie_word_embeddings: true): an adapter of the "
    "one, once merged, would change the other too, so what is used would not be what was trained. Leave out lm_head "
    "and embed_tokens; or first save the base with tie_word_embeddings: false and the weight once more as "
    "lm_head.weight."
)


def matches(pattern: str | Sequence[str], name: str) -> bool:
    """Whether PEFT's `target_modules=pattern` would match the module called `name`."""
    if isinstance(pattern, str):
        return re.fullmatch(pattern, name) is not None
    return any(name == entry or name.endswith(f".{entry}") for entry in pattern)


def target_names(config: LoraConfig, linear_names: Iterable[str], embedding_names: Iterable[str] = ()) -> list[str]:
    """The names of a model's linear layers, with layer indices, and of its embeddings that `config` adapts.

    Raises:
        UserError: when a target or a pattern matches nothing, or the exclusions leave nothing; it lists what the
            model has. When an embedding is targeted that is the output head too.
    """
    linear, embeddings = list(linear_names), list(embedding_names)
    names = [*linear, *embeddings]
    selected = _selected(config.target_modules, linear, embeddings)
    if not selected:
        raise UserError("target_modules: this model has no linear layer to adapt but its output head.")
    _refuse_idle_exclusions(config.exclude_modules, selected)
    kept = [
        name for name in selected if not (config.exclude_modules and _matches(config.exclude_modules, name, "exclude"))
    ]
    if not kept:
        raise UserError(
            f"exclude_modules: {config.exclude_modules!r} excludes all {len(selected)} modules that target_modules "
            f"selects. {_model_has(names)}"
        )
    if OUTPUT_HEAD not in linear and (tied := [name for name in kept if name in embeddings]):
        raise UserError(f"target_modules: {tied[0]!r} is tied. {_TIED}")
    check_patterns("rank_pattern", config.rank_pattern, kept)
    check_patterns("alpha_pattern", config.alpha_pattern, kept)
    return kept


def suffixes_selecting(adapted: Sequence[str], linear_names: Sequence[str]) -> list[str]:
    """The shortest `target_modules` list for PEFT that selects exactly `adapted` among `linear_names`.

    No list can tell a layer `proj` from another called `a.proj`; models have no such names.

    Last parts of names (`q_proj`) where these select no more than was adapted, whole names elsewhere. Sorted.
    """
    wanted = set(adapted)
    entries: set[str] = set()
    for name in adapted:
        suffix = name.rsplit(".", 1)[-1]
        selected = {other for other in linear_names if matches([suffix], other)}
        entries.add(suffix if selected <= wanted else name)
    return sorted(entries)


def _selected(targets: str | list[str] | None, linear: list[str], embeddings: list[str]) -> list[str]:
    if targets is None or (isinstance(targets, str) and targets.lower() == ALL_LINEAR):
        return [name for name in linear if name != OUTPUT_HEAD]
    names = [*linear, *embeddings]
    entries = [targets] if isinstance(targets, str) else [[entry] for entry in targets]
    unmatched = [entry for entry in entries if not any(_matches(entry, name, "target") for name in names)]
    if unmatched:
        raise UserError("\n".join(_no_match(entry, names) for entry in unmatched))
    return [name for name in names if _matches(targets, name, "target")]


def _refuse_idle_exclusions(exclusions: str | list[str] | None, selected: list[str]) -> None:
    """A misspelt exclusion would otherwise be trained without a word."""
    if not exclusions:
        return
    entries = [exclusions] if isinstance(exclusions, str) else [[entry] for entry in exclusions]
    idle = [
        entry if isinstance(entry, str) else entry[0]
        for entry in entries
        if not any(_matches(entry, name, "exclude") for name in selected)
    ]
    if idle:
        raise UserError(
            f"exclude_modules: {', '.join(map(repr, idle))} excludes none of the modules that target_modules selects: "
            f"{', '.join(_endings(selected))}."
        )


def _matches(pattern: str | list[str], name: str, what: str) -> bool:
    try:
        return matches(pattern, name)
    except re.error as error:
        raise UserError(
            f"{what}_modules: {pattern!r} is not a regex: {error}. A string is a regex for the whole module name; "
            "give a list for plain names."
        ) from None


def _no_match(entry: str | list[str], names: list[str]) -> str:
    shown = entry if isinstance(entry, str) else entry[0]
    hint = ""
    endings = _endings(names)
    if isinstance(entry, str) and shown in endings:
        hint = f" A string is a regex for the whole name; for an ending give a list: [{shown}]."
    elif shown == OUTPUT_HEAD:
        hint = f" The output head of this model is tied to its embeddings. {_TIED}"
    elif close := difflib.get_close_matches(shown, endings, n=1):
        hint = f" Did you mean {close[0]!r}?"
    return f"target_modules: no module matches {shown!r}.{hint} {_model_has(names)}"


def _model_has(names: list[str]) -> str:
    return f"This model has: {', '.join(_endings(names))}."


def _endings(names: list[str]) -> list[str]:
    return list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in names))
