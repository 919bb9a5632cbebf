"""A report on data as one page that needs nothing else: no script, no font, no picture from anywhere.

What rows hold is escaped by Jinja, and the page forbids itself to load anything, whatever they hold.
"""

import importlib.resources

from lodos.commands.data_summary import DataSummary
from lodos.errors import UserError
from lodos.places.looking import is_folder
from lodos.places.place import Place, place_of
from lodos.places.saving import save_text
from lodos.places.store import refusals

TEMPLATE = "data.html.jinja"

MOST_TOKENS = 8192
"""Of a row; of a longer one both ends are shown."""


def page_path(text: str) -> Place:
    """Where a page can be written.

    Raises:
        UserError: for a name that is no page's, so that a report never replaces someone's data.
    """
    path = place_of(text)
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"html: {text} must end in .html.")
    with refusals("html", path):
        if is_folder(path):
            raise UserError(f"html: {text} is a folder. Give the name of a file.")
    return path


def render_page(summary: DataSummary) -> str:
    """The page as HTML."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    source = importlib.resources.files("lodos.commands").joinpath(TEMPLATE).read_text(encoding="utf-8")
    longest = max((bar.count for bar in summary.histogram), default=1)
    return environment.from_string(source).render(summary=summary, longest=longest, most_tokens=MOST_TOKENS)


def write_page(path: Place, page: str) -> None:
    """Writes the page whole: until it is, what was at `path` stays.

    Raises:
        UserError: when it cannot be written.
    """
    try:
        save_text(path, page)
    except OSError as error:
        raise UserError(f"html: {path} cannot be written: {error.strerror or error}.") from None
