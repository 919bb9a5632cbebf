"""A progress bar for reading and writing large files."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(description: str, total: int, *, enabled: bool) -> Iterator[Callable[..., None]]:
    """Yields a function that moves the bar, by one or so many. Silent when not enabled or not on a terminal."""
    if not enabled:
        yield lambda count=1: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.table import Column

    console = Console(stderr=True)
    # On a narrow terminal it is the bar that gives way, not the words or the numbers.
    bar = BarColumn(bar_width=None, table_column=Column(max_width=40))
    columns = (TextColumn("{task.description}"), bar, TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_interactive) as progress:
        task = progress.add_task(description, total=total)
        yield lambda count=1: progress.advance(task, count)
