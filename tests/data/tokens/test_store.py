"""What is written is what is read, from anywhere in the file; what is not whole is not opened."""

import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lodos.data.examples import TokenizedExample
from lodos.data.tokens.store import MARKER_FILE, TOKENS_FILE, BrokenStoreError, Columns, ExampleStore, StoreWriter

Make = Callable[[Sequence[int]], list[TokenizedExample]]


def write(folder: Path, *chunks: Sequence[TokenizedExample]) -> ExampleStore:
    folder.mkdir(exist_ok=True)
    with StoreWriter(folder) as writer:
        for chunk in chunks:
            writer.write(Columns.of(chunk))
    return ExampleStore(folder)


def same(a: TokenizedExample, b: TokenizedExample) -> bool:
    assert (a.ids.dtype, a.trained.dtype) == (b.ids.dtype, b.trained.dtype) == (np.int32, np.bool_)
    return (
        np.array_equal(a.ids, b.ids)
        and np.array_equal(a.trained, b.trained)
        and (a.file, a.number, a.cut) == (b.file, b.number, b.cut)
    )


@st.composite
def examples(draw: st.DrawFn) -> TokenizedExample:
    ids = draw(st.lists(st.integers(0, 2**31 - 1), max_size=5))
    trained = draw(st.lists(st.booleans(), min_size=len(ids), max_size=len(ids)))
    file = draw(st.sampled_from(["a.json", "b, \x00 é.jsonl", "c"]))
    number = draw(st.integers(1, 2**40))
    return TokenizedExample(np.array(ids, np.int32), np.array(trained, np.bool_), file, number, cut=number % 3)


@settings(deadline=None)  # the first example imports Arrow
@given(chunks=st.lists(st.lists(examples(), max_size=4), max_size=4))
def test_every_example_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, chunks: list[list[TokenizedExample]]
) -> None:
    store = write(tmp_path_factory.mktemp("store"), *chunks)
    written = [example for chunk in chunks for example in chunk]
    assert len(store) == len(written)
    assert all(same(a, b) for a, b in zip(store, written, strict=True))
    assert all(same(store[i], written[i]) for i in range(-len(written), 0))
    assert all(same(a, b) for a, b in zip(store[1::2], written[1::2], strict=True))
    assert store.lengths.tolist() == [len(example.ids) for example in written]
    assert store.lengths.dtype == np.int32
    assert store.token_count == store.lengths.sum()
    assert store.trained_token_count == sum(int(example.trained.sum()) for example in written)
    assert [store.files[i] for i in store.file_indices] == [example.file for example in written]


def test_examples_are_views_of_the_file_that_nobody_can_change(tmp_path: Path, make_examples: Make) -> None:
    store = write(tmp_path / "store", make_examples([3, 4]))
    example = store[1]
    assert not example.ids.flags.owndata
    with pytest.raises(ValueError, match="read-only"):
        example.ids[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        example.trained[0] = True


def test_opening_imports_no_pandas(tmp_path: Path, make_examples: Make) -> None:
    """Which takes longer than all else at the start of a run over a small file."""
    write(tmp_path / "store", make_examples([3, 4]))
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from lodos.data.tokens.store import ExampleStore\n"
        "print(ExampleStore(Path(sys.argv[1]))[1].ids.size)\n"
        "assert 'pyarrow' in sys.modules and 'pandas' not in sys.modules\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "store")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout == "4\n"


def test_beyond_the_end_is_an_error(tmp_path: Path, make_examples: Make) -> None:
    store = write(tmp_path / "store", make_examples([3, 4]))
    for index in (2, -3):
        with pytest.raises(IndexError, match=f"example {index} of 2"):
            store[index]


def test_digests_tell_what_trains_the_same(tmp_path: Path, make_examples: Make) -> None:
    one, other = make_examples([4, 4])
    masked = TokenizedExample(one.ids, ~one.trained, one.file, one.number)
    elsewhere = TokenizedExample(one.ids, one.trained, "other.json", 99)
    a, b, c, d = write(tmp_path / "store", [one, other], [masked, elsewhere]).digests.tolist()
    assert a == d
    assert len({a, b, c}) == 3


def test_a_pickled_store_opens_the_same_folder(tmp_path: Path, make_examples: Make) -> None:
    store = write(tmp_path / "store", make_examples([3, 4]))
    sent = pickle.dumps(store)
    assert len(sent) < 1000  # the folder's name, not the tokens
    assert all(same(a, b) for a, b in zip(pickle.loads(sent), store, strict=True))


@pytest.mark.parametrize("kept", [0, 100, -9, -1])
def test_a_cut_file_is_never_taken_for_whole(tmp_path: Path, make_examples: Make, kept: int) -> None:
    write(tmp_path / "store", make_examples([300] * 10))
    tokens = tmp_path / "store" / TOKENS_FILE
    tokens.write_bytes(tokens.read_bytes()[:kept])
    with pytest.raises(BrokenStoreError, match="bytes"):
        ExampleStore(tmp_path / "store")


def test_zeros_where_the_footer_was_are_noticed(tmp_path: Path, make_examples: Make) -> None:
    # What some file systems leave after a power cut: the right size, the last blocks empty.
    write(tmp_path / "store", make_examples([300] * 10))
    tokens = tmp_path / "store" / TOKENS_FILE
    content = tokens.read_bytes()
    tokens.write_bytes(content[:-4096] + bytes(4096))
    with pytest.raises(BrokenStoreError, match="does not open"):
        ExampleStore(tmp_path / "store")


def test_a_writer_that_fails_leaves_no_store(tmp_path: Path, make_examples: Make) -> None:
    def fail() -> None:
        with StoreWriter(tmp_path) as writer:
            writer.write(Columns.of(make_examples([3])))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with pytest.raises(BrokenStoreError, match="not a store"):
        ExampleStore(tmp_path)


@pytest.mark.parametrize("marker", ["", '{"layout": 1, "by', "[]", '{"layout": 0}', '{"layout": 3}'])
def test_a_marker_that_is_cut_or_of_another_version_is_refused(
    tmp_path: Path, make_examples: Make, marker: str
) -> None:
    write(tmp_path / "store", make_examples([3]))
    (tmp_path / "store" / MARKER_FILE).write_text(marker)
    with pytest.raises(BrokenStoreError):
        ExampleStore(tmp_path / "store")
