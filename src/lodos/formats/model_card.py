"""The README.md of an adapter folder: what it is, what it was made from, how to load it."""

from collections.abc import Mapping

from huggingface_hub import ModelCard, ModelCardData

from lodos.lora.config import LoraConfig
from lodos.version import __version__


def adapter_card(
    config: LoraConfig, base_model_name_or_path: str, target_modules: list[str], facts: Mapping[str, str]
) -> str:
    """The card as Markdown with the hub's metadata block.

    Args:
        facts: rows for the table, such as the step and the held-out loss.
    """
    rows = {
        "base model": f"`{base_model_name_or_path}`",
        "adapted modules": ", ".join(f"`{name}`" for name in target_modules),
        "rank": str(config.r),
        "alpha": f"{config.alpha:g}",
        "dropout": f"{config.dropout:g}",
        "rank-stabilised scaling": "yes" if config.use_rslora else "no",
        **facts,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    metadata = ModelCardData(
        library_name="peft",
        base_model=base_model_name_or_path if _is_hub_name(base_model_name_or_path) else None,
        pipeline_tag="text-generation",
        tags=["lora", "lodos", "peft"],
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n{_BODY.format(table=table, version=__version__)}"))


def _is_hub_name(name: str) -> bool:
    """Whether the hub would accept it as the base model's name: a local path would make the card invalid."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


_BODY = """
# LoRA adapter

Trained with lodos {version}. PEFT loads it:

```python
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

path = "."  # this folder
config = PeftConfig.from_pretrained(path)
base_model = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(base_model, path)
tokenizer = AutoTokenizer.from_pretrained(path)
```

| | |
| --- | --- |
{table}
"""
