"""A report on data for a terminal, with colours; and for a file or a pipe, where brackets must do.

[trained]  context|context  «special»  [«trained special»]
"""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from lodos.commands.data_summary import Check, DataSummary
from lodos.data.histogram import Bar
from lodos.data.preview import ShownRow, ShownToken

MOST_TOKENS = 600
"""Of a row; of a longer one both ends are shown."""

BAR_WIDTH = 40

STYLES = {
    "trained": "bold green",
    "trained special": "bold magenta",
    "context": "",
    "context special": "magenta",
}


def print_summary(summary: DataSummary, console: Console) -> None:
    """Prints the report, the worst last, where it is still on the screen."""
    for line in _lines(summary):
        # A pipe gets long lines whole, so that a row number or a path can be searched for.
        console.print(line, soft_wrap=not console.is_terminal)


def _lines(summary: DataSummary) -> Iterator[Text]:
    yield _heading(f"Data for {summary.model}")
    if summary.part is not None:
        yield Text(summary.part)
    width = max(len(name) for name, _ in summary.facts)
    yield from (Text(f"  {name:<{width}}  {value}") for name, value in summary.facts)
    yield _heading("Files")
    yield from (Text(f"  {line}") for line in summary.files)
    yield _heading("Checks")
    yield from (line for check in summary.checks for line in _check(check))
    yield _heading("Tokens of a row")
    yield from _bars(summary.histogram)
    if summary.rows:
        yield _heading("First rows, as the model will see them")
        yield _legend()
        for row in summary.rows:
            yield from _row(row)
    yield _heading("Problems")
    if not summary.problems:
        yield Text("  none that would train wrongly", style="green")
    for problem in summary.problems:
        first, *others = problem.splitlines()
        yield Text("\n".join([f"  - {first}", *(f"    {line}" for line in others)]), style="bold red")


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _check(check: Check) -> Iterator[Text]:
    style = "yellow" if check.count else "dim"
    yield Text(f"  {check.count or 'none':>8}  {check.what}", style=style)
    yield from (Text(f"            {rows}") for rows in check.rows)


def _bars(bars: tuple[Bar, ...]) -> Iterator[Text]:
    longest = max((bar.count for bar in bars), default=1)
    width = max((len(bar.label) for bar in bars), default=0)
    for bar in bars:
        # A bar that is not empty is never drawn empty.
        drawn = max(round(BAR_WIDTH * bar.count / longest), 1 if bar.count else 0)
        yield Text.assemble(f"  {bar.label:>{width}}  ", ("█" * drawn, "cyan"), f" {bar.count:,}")


def _legend() -> Text:
    return Text.assemble(
        "  ", ("[trained]", STYLES["trained"]), "  ", "context|context", "  ",
        ("«special»", STYLES["context special"]), "  ", ("[«trained special»]", STYLES["trained special"]),
    )  # fmt: skip


def _row(row: ShownRow) -> Iterator[Text]:
    cut = f", {row.cut:,} cut off" if row.cut else ""
    yield Text(f"\n  {row.where}: {len(row.tokens):,} tokens, {row.trained_count:,} of them trained{cut}", style="bold")
    head, passed_over, tail = row.ends(MOST_TOKENS)
    yield _tokens(head)
    if passed_over:
        yield Text(f"  ... {passed_over:,} tokens more ...", style="dim")
        yield _tokens(tail)


def _tokens(tokens: Sequence[ShownToken]) -> Text:
    shown = Text("  ")
    before: ShownToken | None = None
    for token in tokens:
        if before is not None and not (before.ends_line or before.is_trained or token.is_trained):
            shown.append("|", style="dim")
        text = f"«{token.text}»" if token.is_special else token.text
        shown.append(f"[{text}]" if token.is_trained else text, style=STYLES[token.kind])
        if token.ends_line:
            shown.append("\n  ")
        before = token
    shown.rstrip()
    return shown
