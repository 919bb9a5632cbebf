"""The README.md of what a run leaves: what it is, what it was made from, how well it did, how to load it.

Nothing of the user's machine is in it: a folder or file is named by its last part alone.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from lodos.formats.asking_code import asking_code
from lodos.lora.config import ALL_LINEAR, LoraConfig
from lodos.places.place import place_of
from lodos.prompting.description import Prompting
from lodos.version import __version__

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN_EVALUATIONS = 20
"""More than these are thinned out evenly; the best and the last are always shown."""


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What is known of the run that made it."""

    step: int | None = None
    train_loss: float | None = None
    """Of the last batch, in nats a token."""
    evaluations: Sequence[tuple[int, float]] = ()
    """Step and held-out loss, in nats a token, so far."""
    data: Sequence[str] = ()
    """The names of what was trained on."""
    hub_datasets: Sequence[str] = ()
    """Those of them that are data sets of the hub, as owner/name."""
    lora: LoraConfig | None = None
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Of the training, in words, by name."""
    prompting: Prompting | None = None
    """How it has to be asked."""


def adapter_card(
    config: LoraConfig,
    base_model_name_or_path: str,
    target_modules: Sequence[str],
    facts: RunFacts,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    repo: str | None = None,
) -> str:
    """The card of an adapter, as Markdown with the hub's metadata block.

    Args:
        target_modules: those that were adapted in fact.
        tokenizer: that lies beside it.
        repo: the hub repository that it is loaded from; by default the folder itself.
    """
    base = _base_name(base_model_name_or_path)
    body = _ADAPTER.format(
        base=base,
        path=repo or ".",
        asking=asking_code(facts.prompting, tokenizer=tokenizer, ends="path"),
        training=_training(base_model_name_or_path, facts, _lora_rows(config, target_modules)),
    )
    return _card(body, base_model_name_or_path, facts, library_name="peft", tags=["lora", "lodos", "peft"])


def merged_card(
    base_model_name_or_path: str,
    facts: RunFacts,
    *,
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    repo: str | None = None,
) -> str:
    """The card of a merged model; the arguments are those of `adapter_card`."""
    rows = {} if facts.lora is None else _lora_rows(facts.lora, _as_list(facts.lora.target_modules))
    body = _MERGED.format(
        base=_base_name(base_model_name_or_path),
        path=repo or ".",
        asking=asking_code(facts.prompting, tokenizer=tokenizer),
        training=_training(base_model_name_or_path, facts, rows),
    )
    return _card(body, base_model_name_or_path, facts, library_name="transformers", tags=["lora", "lodos"])


def is_hub_name(name: str) -> bool:
    """Whether the hub would accept it as a model's name: a local path would make the card invalid."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not place_of(name).is_dir()


def _card(body: str, base_model: str, facts: RunFacts, *, library_name: str, tags: list[str]) -> str:
    metadata = ModelCardData(
        library_name=library_name,
        base_model=base_model if is_hub_name(base_model) else None,
        datasets=list(facts.hub_datasets) or None,
        pipeline_tag="text-generation",
        tags=tags,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n{body}"))


def _training(base_model: str, facts: RunFacts, lora_rows: Mapping[str, str]) -> str:
    rows = {"base model": f"`{_base_name(base_model)}`" + ("" if is_hub_name(base_model) else ", a local folder")}
    if facts.data:
        rows["data"] = ", ".join(f"`{name}`" for name in facts.data)
    if facts.step is not None:
        rows["step"] = str(facts.step)
    if facts.train_loss is not None:
        rows["training loss of the last batch"] = f"{facts.train_loss:.4f} nats a token"
    text = _table(("", ""), {**rows, **lora_rows, **facts.settings, "made with": f"lodos {__version__}"}.items())
    if facts.evaluations:
        shown = [(str(step), f"{loss:.4f}") for step, loss in _thinned(facts.evaluations)]
        text += "\nLoss on held-out rows, in nats a token:\n\n" + _table(("step", "held-out loss"), shown)
    return text


def _lora_rows(config: LoraConfig, target_modules: Iterable[str]) -> dict[str, str]:
    return {
        "adapted modules": ", ".join(f"`{name}`" for name in target_modules),
        "rank": str(config.r) + _elsewhere(config.rank_pattern),
        "alpha": f"{config.alpha:g}" + _elsewhere(config.alpha_pattern),
        "dropout": f"{config.dropout:g}",
        "rank-stabilised scaling": "yes" if config.use_rslora else "no",
    }


def _elsewhere(pattern: Mapping[str, float]) -> str:
    """`; 4 in `k_proj``: what some modules have instead."""
    return "".join(f"; {value:g} in `{name}`" for name, value in pattern.items())


def _as_list(target_modules: list[str] | str | None) -> list[str]:
    if target_modules is None or isinstance(target_modules, str):
        return [target_modules or ALL_LINEAR]
    return target_modules


def _thinned(evaluations: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    if len(evaluations) <= SHOWN_EVALUATIONS:
        return list(evaluations)
    last = len(evaluations) - 1
    shown = {round(i * last / (SHOWN_EVALUATIONS - 1)) for i in range(SHOWN_EVALUATIONS)}
    # A NaN is below nothing, so it is the best only where there is nothing else.
    best = min(range(len(evaluations)), key=lambda i: (evaluations[i][1] != evaluations[i][1], evaluations[i][1]))
    return [evaluations[i] for i in sorted({*shown, best})]


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "| --- | --- |"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _cell(text: Any) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _base_name(name_or_path: str) -> str:
    return name_or_path if is_hub_name(name_or_path) else PurePath(name_or_path).name or "model"


_ADAPTER = """
# LoRA adapter of {base}

In PEFT:

```python
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

path = "{path}"
config = PeftConfig.from_pretrained(path)
base_model = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(base_model, path)
tokenizer = AutoTokenizer.from_pretrained(path)
{asking}```

In lodos; the second command makes a model that Transformers loads without PEFT:

```
lodos generate --adapter {path} --prompt '...'
lodos merge --adapter {path} --output merged
```

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("merged")
tokenizer = AutoTokenizer.from_pretrained("merged")
```

## Training

{training}"""

_MERGED = """
# {base}, fine-tuned with LoRA

The adapter is merged into the weights. In Transformers:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "{path}"
model = AutoModelForCausalLM.from_pretrained(path)
tokenizer = AutoTokenizer.from_pretrained(path)
{asking}```

In lodos:

```
lodos generate --model {path} --prompt '...'
```

## Training

{training}"""
