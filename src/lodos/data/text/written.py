"""What a chat template leaves out of what a row says.

A template is a program, and may pass over what it does not know: a system turn, a tool's result, the thinking before
an answer, text beside a call, the second of two calls. Nobody would notice, and the model would be trained on answers
without what they rest on. So each text of a row is looked for in the rendering. To look for the text itself would find
a "yes" or a "41" that stands elsewhere, so the row is rendered once more with a mark in each text (`marks.py`):

    is the rendering with marks, without them, the rendering?    then marks have changed nothing, and tell the truth
    is a text there with its mark, whole, in whichever form?     then it is written, and where is known, too
    else, are its words, with a mark each?                       then the template has laid it out anew

Marks stand within texts, between the tags that the template itself knows (`</think>`), since it may cut there. Where
they change what a template does nonetheless (it counts characters, or compares), half of the texts are marked at a
time, and so on. One that cannot be marked alone is missing if it is all that the rendering with its mark has beyond the
other; else it is looked for as it is, in whole words, between its neighbours. So are numbers, which take no mark.

A text must also be written in its turn: what the assistant says, within it; what it answers, before; and messages one
after the other. Only system turns and tools stand where the template likes.

What was thought before an answer that is not trained may be missing: a template that takes it out of a conversation's
earlier turns takes it out where the model is used, too.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lodos.data.reading.rows import RowError, shown
from lodos.data.text.marks import MarkedRendering, find_word, forms, is_marked, mark, says
from lodos.data.text.row_texts import Messages, RowText, Tools, changed

Span = tuple[int, int]
Render = Callable[[Messages, Tools | None], str]

_WORD = re.compile(r"\S+")
_MOST_SHOWN = 3
"""Missing words of a text that are shown."""


@dataclass(frozen=True)
class LeftOut:
    """A text that a template does not write, or not where it belongs."""

    name: str
    """Its place in the row: `messages[1].content`."""
    what: str
    """What is wrong: `is left out by the chat template: '17 times 3'.`"""


def left_out(
    render: Render,
    messages: Messages,
    tools: Tools | None,
    whole: str,
    *,
    tags: re.Pattern[str],
    turns: Mapping[int, Span],
    optional: Collection[int],
) -> list[LeftOut]:
    """What the rendering `whole` of a row leaves out.

    Args:
        render: the template; it may raise RowError.
        tags: where texts may be cut.
        turns: by message, the characters of `whole` that are a trained turn.
        optional: messages whose thinking may be missing.
    """
    return list(_Search(render, messages, tools, whole, tags=tags, turns=turns, optional=optional).missing())


class _Piece(NamedTuple):
    """A part of a text that is looked for as one."""

    number: int
    """Of its mark."""
    start: int
    end: int
    place: int
    """Before which character of the text the mark stands."""


class _Search:
    def __init__(
        self,
        render: Render,
        messages: Messages,
        tools: Tools | None,
        whole: str,
        *,
        tags: re.Pattern[str],
        turns: Mapping[int, Span],
        optional: Collection[int],
    ) -> None:
        self._render, self._messages, self._tools, self._whole = render, messages, tools, whole
        self._tags, self._turns, self._optional = tags, turns, optional
        self._texts: list[RowText] = []

        def note(text: RowText) -> Any:
            self._texts.append(text)
            return text.value

        changed(messages, tools, note)
        self._count = 0
        self._pieces = [self._cut(text) for text in self._texts]
        self._places: dict[int, list[int]] = {}
        """Where pieces were found, by number."""
        self._ends: dict[int, int] = {}
        """Where values were found, by text."""
        self._whole_texts: set[int] = set()
        """Texts found with everything in them."""
        self._unmarked: list[int] = []
        """Texts in which a mark changes what the template does."""
        self._passed_over: set[int] = set()
        """Those of them that it writes with a mark alone."""
        self._read_to = 0
        """How far the rendering is taken up by these."""

    def missing(self) -> Iterator[LeftOut]:
        marked = [i for i, pieces in enumerate(self._pieces) if pieces]
        if is_marked(self._whole):
            self._unmarked = marked
        elif marked:
            self._settle(marked)
        lost = {i: self._lost_pieces(i) for i in marked if i not in self._unmarked}
        self._look_for_words({i: pieces for i, pieces in lost.items() if pieces})
        out_of_order = self._out_of_order()
        for i, text in enumerate(self._texts):
            if text.kind == "value":
                if not self._has_value(i):
                    yield LeftOut(text.name, f"is left out by the chat template: {text.value!r}.")
            elif i in self._unmarked:
                is_lost = i in self._passed_over or not self._stands(i)
                if is_lost and not self._may_miss(i, len(text.value)):
                    yield LeftOut(text.name, f"is left out by the chat template: {shown(text.value.strip())}.")
            elif texts := lost.get(i):
                yield LeftOut(text.name, f"is left out by the chat template: {self._shown(i, texts)}.")
            elif text.message in out_of_order or not self._is_in_its_turn(i):
                yield LeftOut(text.name, f"is not written in its turn by the chat template: {shown(text.value)}.")

    def _cut(self, text: RowText) -> list[_Piece]:
        """The pieces of a text between tags, without white space around them."""
        if not isinstance(text.value, str):
            return []
        if text.kind == "key":
            return [self._piece(0, len(text.value), at_end=True)] if text.value else []
        pieces: list[_Piece] = []
        start = 0
        cuts = [match.span() for match in self._tags.finditer(text.value)]
        for cut, after in (*cuts, (len(text.value), len(text.value))):
            part = text.value[start:cut]
            if said := part.strip():
                first = start + part.index(said[0])
                pieces.append(self._piece(first, first + len(said)))
            start = after
        if not pieces and (said := text.value.strip()):  # a text of tags alone
            pieces.append(self._piece(first := text.value.index(said), first + len(said)))
        return pieces

    def _piece(self, start: int, end: int, *, at_end: bool = False) -> _Piece:
        # In the middle, where no template looks that asks how a text begins or ends. Names keep their order so.
        self._count += 1
        return _Piece(self._count, start, end, end if at_end else start + max(1, (end - start) // 2))

    def _marked(self, i: int, pieces: Sequence[_Piece], start: int = 0, end: int | None = None) -> str:
        """Characters `[start, end)` of a text with the marks of its pieces."""
        text, told = self._texts[i].value[:end], []
        for piece in pieces:
            told += [text[start : piece.place], mark(piece.number)]
            start = piece.place
        return "".join([*told, text[start:]])

    def _settle(self, chosen: Sequence[int]) -> None:
        """Looks for the pieces of the chosen texts in renderings in which marks change nothing."""
        marked = {i: self._marked(i, self._pieces[i]) for i in chosen}
        rendering = self._rendering(marked)
        if rendering is not None and rendering.plain == self._whole:
            for i in chosen:
                self._note(rendering, i, self._pieces[i], marked[i])
        elif len(chosen) == 1:
            self._unmarked += chosen
            if rendering is not None and self._is_all_beyond(rendering, *chosen):
                self._passed_over.update(chosen)
        else:
            half = len(chosen) // 2
            self._settle(chosen[:half])
            self._settle(chosen[half:])

    def _is_all_beyond(self, rendering: MarkedRendering, i: int) -> bool:
        """Whether a text is all that a rendering with its mark has beyond the one without, but for white space."""
        text, spans = self._texts[i].value, []
        for piece in self._pieces[i]:
            for place in rendering.places.get(piece.number, []):
                start = place - (piece.place - piece.start)
                if rendering.plain.startswith(text[piece.start : piece.end], start):
                    spans.append((start, start + piece.end - piece.start))
        rest, last = "", 0
        for start, end in sorted(spans):
            rest, last = rest + rendering.plain[last:start], end
        rest += rendering.plain[last:]
        return bool(spans) and "".join(rest.split()) == "".join(self._whole.split())

    def _rendering(self, marked: Mapping[int, str]) -> MarkedRendering | None:
        """The rendering with these texts in place of the row's; None where the template refuses them."""
        numbers = iter(range(len(self._texts)))

        def exchange(text: RowText) -> Any:
            return marked.get(next(numbers), text.value)

        try:
            return MarkedRendering(self._render(*changed(self._messages, self._tools, exchange)))
        except RowError:
            return None

    def _note(self, rendering: MarkedRendering, i: int, pieces: Sequence[_Piece], marked: str) -> None:
        is_whole = rendering.says(marked.strip())
        if is_whole:
            self._whole_texts.add(i)
        for piece in pieces:
            places = rendering.places.get(piece.number, [])
            if places and (is_whole or rendering.says(self._marked(i, [piece], piece.start, piece.end))):
                self._places[piece.number] = places

    def _lost_pieces(self, i: int) -> list[_Piece | str]:
        """The pieces and tags of a text that are not found and may not be missing."""
        if i in self._whole_texts:
            return []
        pieces = self._pieces[i]
        lost: list[_Piece | str] = [
            piece for piece in pieces if piece.number not in self._places and not self._may_miss(i, piece.end)
        ]
        return lost or list(self._lost_tags(i))

    def _lost_tags(self, i: int) -> Iterator[str]:
        """Tags of a text that was cut there. A template may write others for them, but something has to stand there."""
        text, pieces = self._texts[i], self._pieces[i]
        known = [piece for piece in pieces if piece.number in self._places]
        for match in self._tags.finditer(text.value):
            before = [piece for piece in known if piece.end <= match.start()]
            after = [piece for piece in known if piece.start >= match.end()]
            if self._may_miss(i, match.end()) or (not before and len(known) > 1) or (not after and len(known) > 1):
                continue
            low, high = self._window_of(i)
            start = max(self._extents(i, before[-1]), key=lambda extent: extent[1])[1] if before else low
            end = min(self._extents(i, after[0]))[0] if after else high
            between = self._whole[start:end]
            if not (match[0] in between or (before and after and between.strip())):
                yield match[0]

    def _extents(self, i: int, piece: _Piece) -> list[Span]:
        """The characters of the rendering that a piece takes up, as far as it is written like in the row."""
        text = self._texts[i].value
        heads = list(forms(text[piece.start : piece.place]))
        tails = list(forms(text[piece.place : piece.end]))
        return [
            (
                place - max((len(head) for head in heads if self._whole.endswith(head, 0, place)), default=0),
                place + max((len(tail) for tail in tails if self._whole.startswith(tail, place)), default=0),
            )
            for place in self._places.get(piece.number, [])
        ]

    def _look_for_words(self, lost: Mapping[int, list[_Piece | str]]) -> None:
        """Takes out of `lost` the pieces all of whose words are written, and puts in their place those that are not."""
        words = {
            i: [
                self._piece(piece.start + word.start(), piece.start + word.end())
                for piece in pieces
                if isinstance(piece, _Piece)
                for word in _WORD.finditer(self._texts[i].value[piece.start : piece.end])
            ]
            for i, pieces in lost.items()
        }
        words = {i: found for i, found in words.items() if found}
        marked = {i: self._marked(i, found) for i, found in words.items()}
        rendering = self._rendering(marked) if words else None
        if rendering is None or rendering.plain != self._whole:
            return
        for i, found in words.items():
            self._note(rendering, i, found, marked[i])
            last = 0
            lost[i][:] = []
            for word in found:
                places = self._places.get(word.number, [])
                # Not at once after the word before it, which the row has apart from it.
                place = min((place for place in places if place >= last + word.place - word.start), default=None)
                if place is None:
                    lost[i].append(word)
                else:
                    last = place + word.end - word.place + 1

    def _shown(self, i: int, lost: Sequence[_Piece | str]) -> str:
        """The missing parts of a text, those that follow each other as one."""
        text = self._texts[i].value
        parts: list[Span] = []
        tags = [shown(part) for part in lost if isinstance(part, str)]
        for piece in (part for part in lost if isinstance(part, _Piece)):
            if parts and not text[parts[-1][1] : piece.start].strip():
                parts[-1] = (parts[-1][0], piece.end)
            else:
                parts.append((piece.start, piece.end))
        said = [shown(text[start:end]) for start, end in parts] + list(dict.fromkeys(tags))
        return ", ".join(said[:_MOST_SHOWN]) + (f" and {len(said) - _MOST_SHOWN} more" if said[_MOST_SHOWN:] else "")

    def _may_miss(self, i: int, end: int) -> bool:
        """Whether the characters of a text up to `end` are what may be missing."""
        text = self._texts[i]
        return text.message in self._optional and end <= text.thought

    def _out_of_order(self) -> set[int]:
        """The messages that begin before one which they follow. Instructions may stand anywhere."""
        places: dict[int, list[int]] = {}
        for text, pieces in zip(self._texts, self._pieces, strict=True):
            if text.message is not None and not text.is_instruction:
                found = [place for piece in pieces for place in self._places.get(piece.number, [])]
                places.setdefault(text.message, []).extend(found)
        last = 0
        out_of_order: set[int] = set()
        for message, found in places.items():
            place = min((place for place in found if place >= last), default=None)
            if place is not None:
                last = place
            elif found:
                out_of_order.add(message)
        return out_of_order

    def _is_in_its_turn(self, i: int) -> bool:
        text = self._texts[i]
        if text.message is None:
            return True
        for piece in self._pieces[i]:
            places = self._places.get(piece.number)
            if places is None:
                continue
            for turn, (start, end) in self._turns.items():
                if text.message == turn and not any(start <= place <= end for place in places):
                    return False
                if text.message < turn and not any(place <= start for place in places):
                    return False
        return True

    def _window_of(self, i: int) -> Span:
        """The characters between what is found before a text and after it."""
        text = self._texts[i]
        low, high = self._turns.get(-1 if text.message is None else text.message, (0, len(self._whole)))
        if text.is_instruction:
            return low, high
        extents = {
            j: [extent for piece in self._pieces[j] for extent in self._extents(j, piece)]
            for j, other in enumerate(self._texts)
            if not other.is_instruction
        }
        before = max((end for j, found in extents.items() if j < i for _, end in found), default=low)
        after = min((start for j, found in extents.items() if j > i for start, _ in found), default=high)
        start, end = max(low, before), min(high, after)
        return (start, end) if start < end else (low, high)

    def _stands(self, i: int) -> bool:
        """Whether a text without a mark stands where it may, behind those that were found so before it."""
        text, said = self._texts[i], self._texts[i].value.strip()
        start, end = self._window_of(i)
        if text.kind == "key":
            return find_word(self._whole, said, start, end) is not None
        if text.is_instruction:
            return says(self._whole[start:end], said)
        start = max(start, self._read_to)
        ends = [found[1] for form in forms(said) if (found := find_word(self._whole, form, start, end)) is not None]
        self._read_to = min(ends, default=self._read_to)
        return bool(ends) or says(self._whole[start:end], said)

    def _has_value(self, i: int) -> bool:
        """Whether a value stands between what is before it, its key most often, and the text that comes next."""
        value = self._texts[i].value
        start = self._ends.get(i - 1)
        if start is None and i and self._pieces[i - 1]:
            start = next(iter(self._places.get(self._pieces[i - 1][-1].number, [])), None)
        if start is None:
            start, end = self._window_of(i)
        else:
            _, end = self._turns.get(self._texts[i].message or 0, (0, len(self._whole)))
            end = min((place for places in self._places.values() for place in places if place > start), default=end)
        found = [span for form in _spelled(value) if (span := find_word(self._whole, form, start, end)) is not None]
        if found:
            self._ends[i] = min(found)[1]
        return bool(found)


def _spelled(value: Any) -> set[str]:
    """How a number, true, false or null may be written."""
    if value is None:
        return {"null", "None"}
    if isinstance(value, bool):
        return {str(value), str(value).lower()}
    whole = {str(int(value))} if isinstance(value, float) and value.is_integer() else set[str]()
    return {str(value), repr(value)} | whole
