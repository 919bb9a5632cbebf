"""Whether what lies in the folder of an adapter or a model is whole, and is what it says it is.

Nothing of the base model is needed: the manifest tells whether the bytes are those that were written; the tensors,
whether they are numbers that change something and fit the settings beside them; the tokenizer, whether it is the one
that the description of the training speaks of.
"""

import dataclasses
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lodos.errors import UserError
from lodos.formats.folder_contents import ADAPTER_CONFIG
from lodos.formats.generation_config import read_generation_config
from lodos.formats.hf import HFCheckpointConverter
from lodos.formats.peft import WEIGHTS_NAME, read_adapter_config
from lodos.formats.peft_config import AdapterConfig
from lodos.formats.safetensors import SafetensorsReader
from lodos.formats.tokenizer_files import has_tokenizer, load_tokenizer
from lodos.lora.targets import matches
from lodos.places.manifest import MANIFEST, problems
from lodos.prompting.description import FILE, Prompting, read_prompting
from lodos.prompting.encode import end_token_ids
from lodos.row_slices import row_slices

_FACTOR = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.weight)?"
)
_SHOWN = 5


@dataclasses.dataclass
class Findings:
    """What was looked at in a folder, and what is wrong with it."""

    kind: str
    """adapter, model, checkpoint, or exported."""
    seen: list[str] = dataclasses.field(default_factory=list)
    """What was found in order, in a few words each."""
    remarks: list[str] = dataclasses.field(default_factory=list)
    """What could not be looked at."""
    problems: list[str] = dataclasses.field(default_factory=list)

    def line(self, name: object) -> str:
        """All of it on one line."""
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            return f"{name}: NOT as it should be: {self.problems[0]}{more}"
        return f"{name}: verified: {'; '.join([*self.seen, *self.remarks])}."


def verified_export(folder: Path, *, with_files: bool = True, with_weights: bool = True) -> Findings:
    """What the folder of an adapter or a whole model shows of itself.

    Args:
        with_files: compare every file with the manifest, which reads all of them.
        with_weights: look at every number of a model, which reads all of them; those of an adapter are few.
    """
    kind = "adapter" if (folder / ADAPTER_CONFIG).is_file() else "model"
    found = Findings(kind)
    if with_files:
        look_at_files(folder, found)
    weights = _look_at_adapter if kind == "adapter" else functools.partial(_look_at_model, with_weights=with_weights)
    for look in (weights, _look_at_prompting):
        try:
            look(folder, found)
        except UserError as error:
            found.problems += str(error).splitlines()
    return found


def verified_checkpoint(folder: Path) -> Findings:
    """Whether a checkpoint of a training is as its manifest says."""
    found = Findings("checkpoint")
    look_at_files(folder, found)
    return found


def look_at_files(folder: Path, found: Findings) -> None:
    """Whether every file is as the folder's manifest says; a remark where it has none."""
    if not (folder / MANIFEST).is_file():
        found.remarks.append(f"no {MANIFEST}, so the bytes are not compared with those that were written")
        return
    if wrong := problems(folder):
        found.problems += [f"{one}." for one in wrong]
    else:
        found.seen.append("every file as written")


def _look_at_adapter(folder: Path, found: Findings) -> None:
    config = read_adapter_config(folder)
    if not (folder / WEIGHTS_NAME).is_file():
        raise UserError(f"{WEIGHTS_NAME} is not there.")
    reader = SafetensorsReader(folder / WEIGHTS_NAME)
    pairs: dict[str, dict[str, str]] = {}
    for name in reader.shapes:
        if match := _FACTOR.fullmatch(name):
            pairs.setdefault(match["module"], {})[match["factor"]] = name
    if not pairs:
        found.problems.append(f"{WEIGHTS_NAME}: holds no factors of LoRA.")
    found.problems += _not_finite(reader)
    for module, factors in pairs.items():
        found.problems += _pair_problems(reader, config, module, factors)
    found.problems += _target_problems(config, list(pairs))
    ranks = sorted({config.lora.rank_of(module) for module in pairs})
    said = ", ".join(map(str, ranks))
    found.seen.append(f"{len(pairs)} modules of rank {said}, all finite, every B trained")


def _pair_problems(
    reader: SafetensorsReader, config: AdapterConfig, module: str, factors: dict[str, str]
) -> Iterator[str]:
    for factor in "AB":
        if factor not in factors:
            yield f"{module}: has no lora_{factor}."
            return
    a, b = reader.shapes[factors["A"]], reader.shapes[factors["B"]]
    rank = config.lora.rank_of(module)
    if len(a) != 2 or len(b) != 2 or (a[0], b[1]) != (rank, rank):
        yield f"{module}: A {list(a)} and B {list(b)}, where {ADAPTER_CONFIG} says rank {rank}."
    for factor, name in factors.items():
        if not any(reader.read(name, part).any() for part in row_slices(reader.shapes[name], 4)):
            yield f"{module}: every number of {factor} is zero, so it changes nothing."


def _target_problems(config: AdapterConfig, modules: list[str]) -> Iterator[str]:
    targets = config.lora.target_modules
    if targets is None or targets == "all-linear":
        return
    if isinstance(targets, str):
        if outside := [name for name in modules if not matches(targets, name)]:
            yield f"target_modules: {targets!r} does not match {listed(outside)}, which have tensors."
        return
    if outside := [name for name in modules if not matches(targets, name)]:
        yield f"target_modules: {listed(outside)} have tensors, and are no targets of {ADAPTER_CONFIG}."
    if idle := [target for target in targets if not any(matches([target], name) for name in modules)]:
        yield f"target_modules: {listed(idle)} have no tensors."


def _look_at_model(folder: Path, found: Findings, *, with_weights: bool) -> None:
    converter = HFCheckpointConverter.from_hf(str(folder))
    converter.checked_structure()
    reader = converter.reader()
    if with_weights:
        found.problems += _not_finite(reader)
    dtypes = sorted({dtype.name for dtype in reader.dtypes.values()})
    meant = converter.hf_config.get("dtype") or converter.hf_config.get("torch_dtype")
    if meant is not None and len(dtypes) == 1 and str(meant).removeprefix("torch.") != dtypes[0]:
        found.remarks.append(f"config.json says {meant}, the tensors are {dtypes[0]}")
    finite = "all finite, " if with_weights else ""
    found.seen.append(f"{len(reader.shapes)} tensors of {', '.join(dtypes)}, {finite}as config.json has them")


def _not_finite(reader: SafetensorsReader) -> list[str]:
    wrong = [
        name
        for name, shape in reader.shapes.items()
        if not all(
            np.isfinite(reader.read(name, part).astype(np.float32, copy=False)).all()
            for part in row_slices(shape, reader.dtypes[name].itemsize)
        )
    ]
    return [f"{listed(wrong)}: numbers that are not finite (NaN or infinite)."] if wrong else []


def _look_at_prompting(folder: Path, found: Findings) -> None:
    prompting = read_prompting(folder)
    if prompting is None:
        found.remarks.append(f"no {FILE}, so nothing says how it was trained to be asked")
        return
    if not has_tokenizer(folder):
        found.remarks.append("no tokenizer of its own")
        return
    tokenizer = load_tokenizer(folder)
    ends = set(end_token_ids(tokenizer, prompting))
    found.problems += _ending_problems(folder, prompting)
    template = tokenizer.chat_template
    if prompting.is_chat and isinstance(template, str) and prompting.chat_template not in (None, template):
        found.problems.append(f"the tokenizer's chat template is another one than {FILE} was written beside.")
    found.seen.append(f"tokenizer and {len(ends)} end token{'s' * (len(ends) != 1)} of the training")


def _ending_problems(folder: Path, prompting: Prompting) -> Iterator[str]:
    declared = read_generation_config(folder).get("eos_token_id")
    ids = declared if isinstance(declared, list) else [declared]
    for token in prompting.end_tokens:
        if token.id not in ids:
            yield f"generation_config.json: {token.text!r} ({token.id}) ended trained answers, and is no eos_token_id."


def listed(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
