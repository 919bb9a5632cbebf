"""`lodos merge`: put an adapter into its base model, and write a model that transformers loads."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Literal

from lodos.commands.base_model import base_converter, tokens_beyond, with_tokenizer_of_base
from lodos.commands.merged_agreement import compared, prompt_ids
from lodos.commands.output_folder import output_folder, refuse_to_lose
from lodos.config_parsing import parse_config
from lodos.errors import UserError
from lodos.formats.folder_contents import adapter_folder
from lodos.formats.model_card import RunFacts, merged_card
from lodos.formats.peft import load_peft_pretrained
from lodos.formats.safetensors_writer import MAX_SHARD_SIZE
from lodos.prompting.description import read_prompting
from lodos.prompting.encode import end_token_ids


@dataclasses.dataclass
class MergeArgs:
    """Merge a LoRA adapter into its base model."""

    adapter: str = dataclasses.field(metadata={"example": "runs/<id>/peft/best"})
    """The adapter: a PEFT folder or a hub name."""
    output: str = dataclasses.field(metadata={"example": "merged"})
    """Folder to write the merged model to."""
    model: str | None = None
    """The base model: a folder or a hub name; by default the one that the adapter names."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the tensors; by default that of the base model's files. The sum is made in float32 and rounded once."""
    tokenizer: Literal["adapter", "base"] = "adapter"
    """Whose tokenizer is written; the adapter's, where it brings one, has the chat template in any case."""
    max_shard_size: str = MAX_SHARD_SIZE
    """Above this size the weights are split into several files."""
    prompt_file: str | None = None
    """Prompts for which the merged model is compared with the adapter: a file as lodos generate takes."""
    overwrite: bool = False
    """Replace the output folder if it exists."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\d+ ?[KMGT]i?B", self.max_shard_size, flags=re.IGNORECASE):
            raise UserError(f"max_shard_size: {self.max_shard_size!r} is not a size such as 5GB or 500MB.")


def main(argv: list[str]) -> int:
    """Merges as the arguments say."""
    merge(parse_config(MergeArgs, argv, prog="lodos merge", description=MergeArgs.__doc__ or ""))
    return 0


def merge(args: MergeArgs) -> None:
    """Writes the merged model to `args.output`, read back and compared.

    The base is never loaded: one tensor is made at a time, on the host, its sum in float32 beside it.

    Raises:
        UserError: before any weight is loaded if something is missing or in the way.
    """
    output = output_folder(args.output, overwrite=args.overwrite, made_of="config.json")
    adapter = adapter_folder(args.adapter)
    prompting = read_prompting(adapter)
    converter = base_converter(args.adapter, adapter, args.model)
    if args.tokenizer == "base":
        converter = with_tokenizer_of_base(converter)
        end_token_ids(converter.tokenizer, prompting)  # refuses one that does not know what ends an answer
    elif (beyond := tokens_beyond(converter)) is not None:
        raise UserError(
            f"{args.adapter}: {beyond} The adapter has none for them either, so the merged model would fail where it "
            "meets one. If it meets none (a PAD that was added for the training), add --tokenizer base. If rows were "
            "trained for them, give the base whose embedding has them: --model FOLDER."
        )
    refuse_to_lose({"adapter": adapter, "base model": converter.folder}, output)
    # Of the base, shapes alone: its tensors are read one by one as the merged ones are written.
    ids = None if args.prompt_file is None else prompt_ids(args.prompt_file, converter, adapter)
    costs: dict[str, float] = {}
    model, lora = load_peft_pretrained(converter.checked_structure(), args.adapter, base=converter.reader())
    converter.save_pretrained(
        model,
        output,
        dtype=args.dtype,
        max_shard_size=args.max_shard_size,
        prompting=prompting,
        card=merged_card(
            converter.model_name_or_path, RunFacts(lora=lora, prompting=prompting), tokenizer=converter.tokenizer
        ),
        rounding=costs.__setitem__,
        progress=True,
    )
    print(f"Merged model: {output}", file=sys.stderr)
    for line in rounding_lines(costs):
        print(line, file=sys.stderr)
    for line in () if ids is None else compared(converter, adapter, ids, dtype=args.dtype):
        print(line, file=sys.stderr)
    print(f"Next: lodos generate --model {shlex.quote(str(output))} --prompt '...'", file=sys.stderr)


def rounding_lines(costs: Mapping[str, float]) -> list[str]:
    """What merging rounds away of an adapter: the worst kinds of layers, and the worst layer of each.

    Args:
        costs: by the tensor's name, the norm of the error as a part of the norm of what the adapter adds.
    """
    if not costs or not max(costs.values()):
        return ["Rounding takes nothing of the adapter."]
    of_kind: dict[str, dict[str, float]] = {}
    for name, cost in costs.items():
        of_kind.setdefault(name.rsplit(".", 2)[-2], {})[name] = cost
    lines = ["Rounding takes of what the adapter adds, by the kind of layer:"]
    for kind, found in of_kind.items():
        worst = max(found, key=found.__getitem__)
        mean = sum(found.values()) / len(found)
        lines.append(
            f"  {kind:<12} {mean:6.2%} on average, {found[worst]:6.2%} at most ({worst.removesuffix('.weight')})"
        )
    return lines
