"""The day that a run's chat template writes as today's: fixed when the run begins, and kept with it."""

import dataclasses
from typing import TypeVar

from lodos import hosts
from lodos.config import FineTuneArgs
from lodos.data.tokens.source_store import template_date
from lodos.formats.hf import HFCheckpointConverter
from lodos.places.looking import is_there
from lodos.places.objects import read_text
from lodos.train.trainer import has_begun
from lodos.yaml12 import load_yaml

Args = TypeVar("Args", bound=FineTuneArgs)


def with_template_date(config: Args, converter: HFCheckpointConverter) -> Args:
    """The config with the day that the chat template writes: the one given; that of the run, where it is resumed from a
    checkpoint, by its id alone too; else today. A template that writes no day leaves it open."""
    if config.template_date is not None:
        return config
    today = template_date(config, converter.tokenizer)
    if today is None:
        return config
    day = hosts.from_first("the day that the template writes", lambda: _of_run(config) or today)
    return dataclasses.replace(config, template_date=day)


def _of_run(config: FineTuneArgs) -> str | None:
    saved = config.trainer.run_folder / "config.yaml"
    if config.trainer.id is None or not has_begun(config.trainer) or not is_there(saved):
        return None
    return load_yaml(read_text(saved)).get("template_date")
