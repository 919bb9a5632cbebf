"""What several hosts make sure of before they train together: nothing of it concerns one alone."""

from collections.abc import Mapping
from typing import Any

from lodos import hosts
from lodos.config import FineTuneArgs
from lodos.config_parsing import encode_config
from lodos.places.place import Place
from lodos.train.staged import refuse_together
from lodos.version import __version__

_OF_EACH_HOST = ("trainer.distributed.process_id", "trainer.distributed.local_device_ids")


def agree_on_settings(config: FineTuneArgs, written: Mapping[str, Place]) -> None:
    """Compares the settings and the version on all hosts, and sees that they share the folders that they write.

    Args:
        written: the folders, by their settings.

    Raises:
        UserError: for what differs, for a folder that is one host's own, and for checkpoints on a store to which hosts
            cannot write together.
    """
    if hosts.count() == 1:
        return
    settings = {name: repr(value) for name, value in _flat(encode_config(config)) if name not in _OF_EACH_HOST}
    hosts.same("settings", {"lodos": __version__, "the run's name": config.trainer.run_id, **settings})
    refuse_together(config.trainer.checkpoint_folder)
    for setting, folder in written.items():
        hosts.refuse_unshared(setting, folder)


def agree_on_data(fingerprint: Mapping[str, Any]) -> None:
    """Compares on all hosts what decides the numbers of the run: the digests of its data and of its base model.

    Raises:
        UserError: for what differs.
    """
    hosts.same("data and model", {name: str(value) for name, value in fingerprint.items()})


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix.removesuffix("."), value)]
    return [found for name, item in value.items() for found in _flat(item, f"{prefix}{name}.")]
