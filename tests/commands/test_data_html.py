"""The page of `lodos data`: it holds all it needs, takes nothing in rows for markup, and looks as it should."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

import browser
from lodos.commands.data_html import page_path, render_page, write_page
from lodos.commands.data_summary import Check, DataSummary
from lodos.data.histogram import Bar
from lodos.data.preview import ShownRow, ShownToken
from lodos.errors import UserError

HOSTILE = "</span><script>document.title = 'harmed'</script><img src='http://127.0.0.1:9/x.png'>"


def token(text: str, kind: str = "context", **options: bool) -> ShownToken:
    return ShownToken(7, text, kind.startswith("trained"), kind.endswith("special"), options.get("ends_line", False))


def summary(*, problems: tuple[str, ...] = (), text: str = HOSTILE) -> DataSummary:
    tokens = (
        token("<s>", "context special"),
        token(text),
        token("⏎", ends_line=True),
        token("Four", "trained"),
        token(" winds", "trained"),
        token("</s>", "trained special"),
    )
    return DataSummary(
        model=f"model {HOSTILE}",
        part=None,
        facts=(("rows", "1,234 read, 1,230 kept, 4 left out"), ("steps", "56.7 an epoch")),
        files=(f"a.json {HOSTILE}",),
        checks=(Check("cut", 0), Check("too long", 4, (f"a.json: 4 (rows 1, 2); {HOSTILE}",))),
        histogram=(Bar("0-9", 40), Bar("10-19", 10), Bar("20 or more", 0)),
        rows=(ShownRow("a.json, row 1", tokens, cut=3),),
        problems=problems,
    )


class Elements(HTMLParser):
    """The tags and attributes of a page."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs


def test_nothing_is_taken_from_elsewhere() -> None:
    page = render_page(summary(problems=(HOSTILE,)))
    elements = Elements(page)
    assert not elements.tags & {"script", "img", "iframe", "object", "embed", "svg"}
    assert [value for name, value in elements.attributes if name in ("src", "href", "srcset")] == ["data:,"]
    assert not [name for name, _ in elements.attributes if name.startswith("on")]
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style


def test_of_a_long_row_both_ends_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lodos.commands.data_html.MOST_TOKENS", 2)
    page = render_page(summary())
    assert "… 4 tokens more …" in page
    assert "Four" not in page


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "new" / "a.html"
    write_page(place, "first")
    assert place.read_text(encoding="utf-8") == "first"

    def full_disk(path: Path, *_: object, **__: object) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(UserError, match=r"a\.html.*No space left on device"):
        write_page(place, "second")
    assert place.read_text(encoding="utf-8") == "first"
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize(("name", "said"), [("rows.jsonl", "must end in .html"), ("a.html", "is a folder")])
def test_a_page_replaces_nothing_but_pages(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / "a.html").mkdir()
    with pytest.raises(UserError, match=said):
        page_path(str(tmp_path / name))


def style_of(selector: str, *properties: str) -> str:
    wanted = ", ".join(f"style[{json.dumps(name)}]" for name in properties)
    return f"(() => {{ const style = getComputedStyle(document.querySelector({selector!r})); return [{wanted}] }})()"


@pytest.mark.skipif(browser.find_browser() is None, reason="needs Chromium, which .ci/run installs")
def test_in_a_browser(tmp_path: Path) -> None:
    path = tmp_path / "page of data.html"
    write_page(path, render_page(summary()))
    with browser.opened(path, tmp_path / "profile") as page:
        text = page.evaluate("document.body.innerText")
        assert "1,234 read, 1,230 kept, 4 left out" in text
        assert "a.json, row 1: 6 tokens, 3 of them trained, 3 cut off" in text
        assert "Nothing was found that would train wrongly." in text
        assert text.count(HOSTILE) == 4  # heading, file, check and token: as characters

        trained = "[...document.querySelectorAll('.tokens .trained')].map(token => token.innerText)"
        assert page.evaluate(trained) == ["Four", " winds", "</s>"]
        seen = ("background-color", "font-weight", "border-bottom-color")
        of_trained = page.evaluate(style_of(".tokens .trained", *seen))
        of_context = page.evaluate(style_of(".tokens .context:not(.special)", *seen))
        assert all(a != b for a, b in zip(of_trained, of_context, strict=True))
        assert page.evaluate(style_of(".tokens .special", "color")) != page.evaluate(style_of(".tokens", "color"))

        lines = "[...document.querySelectorAll('.tokens .token')].map(token => token.getBoundingClientRect().top)"
        tops = page.evaluate(lines)
        assert tops[3] == tops[4] > tops[2]  # the line breaks where the text does
        widths = page.evaluate("[...document.querySelectorAll('.bar')].map(bar => bar.getBoundingClientRect().width)")
        assert widths[0] == pytest.approx(4 * widths[1], rel=0.01)
        assert widths[0] > 100
        assert widths[2] == 0
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

        assert len(page.screenshot()) > 10_000
        assert page.requested == [path.as_uri()]
        assert page.complaints == []
        assert page.evaluate("document.title") == f"Data for model {HOSTILE}"


@pytest.mark.skipif(browser.find_browser() is None, reason="needs Chromium, which .ci/run installs")
def test_the_browser_would_tell_what_is_loaded(tmp_path: Path) -> None:
    """Without this, the test above could pass by not looking."""
    path = tmp_path / "bad.html"
    path.write_text("<img src='other.png'><script>console.error('oh')</script>", encoding="utf-8")
    with browser.opened(path, tmp_path / "profile") as page:
        assert page.requested == [path.as_uri(), (tmp_path / "other.png").as_uri()]
        assert any(complaint.get("type") == "error" for complaint in page.complaints)
