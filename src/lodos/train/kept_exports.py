"""Which of the adapters and merged models that a run saves stay.

They are counted as checkpoints are (`lodos.train.save_schedule`): the newest few, and every so many steps. Whatever is
counted, the one that was just written stays, and the one of the step with the lowest held-out loss.
"""

import re
from collections.abc import Callable

from lodos.places.objects import objects_below
from lodos.places.place import Place, is_remote
from lodos.places.saving import remove_whole
from lodos.places.store import NothingThereError
from lodos.train.save_schedule import Keep, newest_kept, stays

_NAME = re.compile(r"step-(\d+)")


def remove_old_exports(
    folder: Place, keep: Keep, *, step: int, best: int | None, is_needed: Callable[[Place], bool] = lambda _: False
) -> list[Place]:
    """Removes `step-<k>` folders that do not stay; returns which.

    Args:
        step: the step that was saved last; folders of later ones are of a run that is done anew, and are left alone.
        best: the step with the lowest held-out loss.
        is_needed: whether a folder must stay yet, since it is being sent.
    """
    steps = sorted(k for k in _steps_in(folder) if k <= step)
    staying = {step, best, *steps[-newest_kept(keep) :]}
    going = [folder / f"step-{k}" for k in steps if k not in staying and not stays(keep, k)]
    removed = [place for place in going if not is_needed(place)]
    for place in removed:
        remove_whole(place)
    return removed


def _steps_in(folder: Place) -> set[int]:
    if is_remote(folder):
        try:
            names = {name.partition("/")[0] for name in objects_below(folder)}
        except NothingThereError:
            names = set()
    else:
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {int(match[1]) for name in names if (match := _NAME.fullmatch(name))}
