"""From files to examples: nothing lost, nothing stale, the same on one core or many, and everything said."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lodos.data.config import DataArgs
from lodos.data.examples import TokenizedExample
from lodos.data.prepare import Prepared, check, prepare
from lodos.data.reading.rows import Row
from lodos.data.reading.sources import iter_rows
from lodos.data.tokens import source_store
from lodos.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has a cache of its own, in which each entry is a folder."""
    monkeypatch.setenv("LODOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "data"


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Which rows have been read from files, rather than their tokens from the cache."""
    read: list[Row] = []

    def counting(*args: Any, **options: Any) -> Iterator[Row]:
        for row in iter_rows(*args, **options):
            read.append(row)
            yield row

    monkeypatch.setattr(source_store, "iter_rows", counting)
    return read


def row(n: int, **fields: Any) -> dict[str, Any]:
    return {"instruction": f"Say {n}.", "output": f"{n}", **fields}


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run(tokenizer: Any, data: Any, *, seed: int = 0, **options: Any) -> Prepared:
    return prepare(DataArgs(data=data, **options), tokenizer, seed=seed, progress=False)


def texts(tokenizer: Any, examples: Sequence[TokenizedExample]) -> list[str]:
    """What is trained of each example."""
    return [tokenizer.decode(example.ids[example.trained], skip_special_tokens=True) for example in examples]


def entries(cache: Path) -> int:
    return len(os.listdir(cache))


def test_examples_are_the_rows_in_order(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(n) for n in range(20)])
    prepared = run(tiny_tokenizer, data)
    assert texts(tiny_tokenizer, prepared.training) == [str(n) for n in range(20)]
    assert [example.number for example in prepared.training] == list(range(1, 21))
    assert prepared.training.lengths.tolist() == [len(example.ids) for example in prepared.training]
    assert len(prepared.held_out) == 0
    (file,) = prepared.report.files
    assert (file.file, file.format) == (data, "alpaca: instruction, output")
    assert (file.read, file.kept, file.dropped_count) == (20, 20, 0)
    assert file.tokens == prepared.training.lengths.sum()
    assert file.trained_tokens == sum(int(example.trained.sum()) for example in prepared.training)
    assert file.longest == prepared.training.lengths.max()
    assert check(prepared.report, DataArgs(data=data)) == []


def test_many_processes_give_what_one_gives(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(n, output="" if n % 7 == 0 else "long " * (n % 50)) for n in range(3500)]
    data = write(tmp_path / "a.jsonl", rows)
    options = dict(max_tune_length=300, on_bad_row="drop")
    monkeypatch.setattr(source_store, "core_count", lambda: 1)
    alone = run(tiny_tokenizer, data, **options, data_cache_dir=str(tmp_path / "alone"))
    monkeypatch.setattr(source_store, "core_count", lambda: 2)
    monkeypatch.setattr(source_store, "IN_PROCESS_CHUNKS", 1)
    together = run(tiny_tokenizer, data, **options, data_cache_dir=str(tmp_path / "together"))
    assert alone.report == together.report
    assert len(alone.training) == len(together.training) > 1000
    for a, b in zip(alone.training, together.training, strict=True):
        assert (a.number, a.ids.tolist(), a.trained.tolist()) == (b.number, b.ids.tolist(), b.trained.tolist())


@pytest.mark.parametrize("workers", [1, 2])
def test_rows_left_out_are_counted_by_reason_and_named(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr(source_store, "core_count", lambda: workers)
    monkeypatch.setattr(source_store, "IN_PROCESS_CHUNKS", 1)
    rows: list[Any] = [row(n) for n in range(2500)]
    rows[2] = row(2, output="x" * 500)
    rows[4] = row(4, output=7)
    rows[2222] = {"instruction": "and no output"}
    data = write(tmp_path / "a.jsonl", rows)
    prepared = run(tiny_tokenizer, data, max_tune_length=300, on_bad_row="drop")
    (file,) = prepared.report.files
    assert (file.read, file.kept, len(prepared.training)) == (2500, 2497, 2497)
    assert {reason: rows.first for reason, rows in file.dropped.items()} == {
        "not as the format wants it": [5, 2223],
        "too long": [3],
    }
    assert "output must be text, found int 7" in file.dropped["not as the format wants it"].example
    assert {3, 5, 2223}.isdisjoint(prepared.training.parts[0].numbers)  # pyright: ignore[reportAttributeAccessIssue]
    assert "left out, too long: 1 (row 3); " in "\n".join(prepared.report.lines())


def test_bad_rows_are_refused_by_default_all_at_once(tmp_path: Path, tiny_tokenizer: Any, own_cache: Path) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output=3), row(2), {"instruction": "x", "input": 1}])
    with pytest.raises(UserError) as error:
        run(tiny_tokenizer, data)
    assert str(error.value).splitlines() == [
        "2 of 4 rows cannot be trained:",
        f"  {data}, row 2: output must be text, found int 3.",
        f"  {data}, row 4: input must be text, found int 1. output is missing; the row has 'instruction', 'input'.",
        "Mend these rows, or set on_bad_row to drop, which leaves them out and counts them.",
    ]
    assert entries(own_cache) == 0


def test_a_file_of_bad_rows_is_not_read_to_its_end(tmp_path: Path, tiny_tokenizer: Any, rows_read: list[Row]) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), *(row(n, output=3) for n in range(5000))])
    with pytest.raises(UserError, match=r"999 of the first 1000 rows cannot be trained:(\n  .*){10}\n  and 989 more\."):
        run(tiny_tokenizer, data)
    assert len(rows_read) <= 2000


def test_rows_of_empty_answers_are_left_out_and_counted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output=""), row(2, output=" \n"), row(3)])
    report = run(tiny_tokenizer, data).report
    assert {reason: rows.first for reason, rows in report.files[0].dropped.items()} == {"the answer is empty": [2, 3]}
    assert check(report, DataArgs(data=data)) == []
    assert "2 the answer is empty" in check(report, DataArgs(data=data, max_dropped=0.4))[0]
    write(tmp_path / "a.jsonl", [row(0), row(1, output="", instruction="")])  # which is no row of an empty answer
    with pytest.raises(UserError, match=r"row 2: instruction is empty, found ''\. output is empty"):
        run(tiny_tokenizer, data)


def test_columns_that_nothing_reads_are_said_once(
    tmp_path: Path, tiny_tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    a = write(tmp_path / "a.jsonl", [row(0, id=1, text="rendered"), row(1, id=None, tags=[])])
    b = write(tmp_path / "b.jsonl", [row(2, id=3), row(3)])
    with caplog.at_level("INFO"):
        first, second = (run(tiny_tokenizer, [a, b]).report for _ in range(2))  # of which the second is from the cache
    assert first == second
    assert first.unread() == {"id": 2, "text": 1}
    said = [record.message for record in caplog.records if "nothing reads" in record.message]
    assert said == ["columns and keys that nothing reads: id (in 2 rows), text (in 1 row)"] * 2
    assert first.files[0].format == ("alpaca: instruction, output; the column of text is taken for the same, rendered")
    assert first.files[1].format == "alpaca: instruction, output"


def test_long_rows_are_refused_by_choice(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output="x" * 500)])
    with pytest.raises(UserError, match=r"1 of 2 rows cannot(.|\n)*row 2: \d+ tokens(.|\n)*Raise max_tune_length"):
        run(tiny_tokenizer, data, max_tune_length=300, overflow="error")


def test_long_rows_are_cut_by_choice_and_their_missing_end_is_said(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output="x" * 500)])
    prepared = run(tiny_tokenizer, data, max_tune_length=300, overflow="truncate")
    (file,) = prepared.report.files
    assert (file.kept, file.truncated.first, file.end_untrained.first) == (2, [2], [2])
    assert (len(prepared.training[1].ids), prepared.training[1].cut > 0) == (300, True)


def test_duplicates_are_found_across_files(tmp_path: Path, tiny_tokenizer: Any) -> None:
    a = write(tmp_path / "a.jsonl", [row(0), row(1), row(0), row(0, output="other")])
    b = write(tmp_path / "b.jsonl", [row(1), row(2)])
    first, second = run(tiny_tokenizer, [a, b]).report.files
    assert (first.duplicates.first, second.duplicates.first) == ([3], [1])
    assert run(tiny_tokenizer, b).report.files[0].duplicates.count == 0  # though its tokens come from the cache


def test_special_tokens_in_the_text_are_counted(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output="ends </s> here </s>"), row(2)])
    (file,) = run(tiny_tokenizer, data).report.files
    assert {token: rows.first for token, rows in file.special_tokens.items()} == {"</s>": [2]}


def test_a_chats_end_is_that_of_its_turns(tmp_path: Path, tiny_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    data = write(tmp_path / "a.jsonl", [{"messages": messages}])
    (file,) = run(tiny_tokenizer, data).report.files
    assert file.end_untrained.count == 0  # <|im_end|>, though EOS is </s>
    endless = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    prepared = run(tiny_tokenizer, data, chat_template=endless)
    assert prepared.report.files[0].end_untrained.first == [1]
    (problem,) = check(prepared.report, DataArgs(data=data))
    assert problem.startswith("The end of the answer is trained in none of the 1 rows")


class TestHeldOut:
    def test_by_count_and_share_as_ever(self, tmp_path: Path, tiny_tokenizer: Any) -> None:
        data = write(tmp_path / "a.jsonl", [row(n) for n in range(20)])
        for amount in (5, 0.25):
            prepared = run(tiny_tokenizer, data, validation=amount)
            # The rows of tests/data/test_split.py: another split would judge by what was trained on.
            assert texts(tiny_tokenizer, prepared.held_out) == ["4", "7", "9", "15", "18"]
            assert set(texts(tiny_tokenizer, prepared.training)).isdisjoint({"4", "7", "9", "15", "18"})
            assert len(prepared.training) == 15

    def test_another_seed_takes_others_without_tokenizing_again(
        self, tmp_path: Path, tiny_tokenizer: Any, rows_read: list[Row]
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(n) for n in range(20)])
        held_out = [texts(tiny_tokenizer, run(tiny_tokenizer, data, validation=5, seed=s).held_out) for s in (0, 1)]
        assert held_out[0] != held_out[1]
        assert len(rows_read) == 20

    def test_a_source_of_its_own(self, tmp_path: Path, tiny_tokenizer: Any) -> None:
        data = write(tmp_path / "a.jsonl", [row(n) for n in range(5)])
        other = write(tmp_path / "b.jsonl", [row(9), row(3)])
        prepared = run(tiny_tokenizer, data, validation=other)
        assert texts(tiny_tokenizer, prepared.held_out) == ["9", "3"]
        assert len(prepared.training) == 5
        assert [file.file for file in prepared.report.held_out_files] == [other]
        assert prepared.report.held_out_in_training == 1
        assert prepared.report.kept == 5

    def test_a_split_of_the_data(self, tmp_path: Path, tiny_tokenizer: Any) -> None:
        folder = tmp_path / "set"
        folder.mkdir()
        write(folder / "train.jsonl", [row(0), row(1)])
        write(folder / "validation.jsonl", [row(2)])
        data = {"path": str(folder), "split": "train"}
        prepared = run(tiny_tokenizer, data, validation="split:validation")
        assert texts(tiny_tokenizer, prepared.training) == ["0", "1"]
        assert texts(tiny_tokenizer, prepared.held_out) == ["2"]
        with pytest.raises(UserError, match="is the split that is trained on"):
            run(tiny_tokenizer, data, validation="split:train")
        with pytest.raises(UserError, match="names no split"):
            run(tiny_tokenizer, data, validation="split:")

    def test_too_many_are_refused(self, tmp_path: Path, tiny_tokenizer: Any) -> None:
        data = write(tmp_path / "a.jsonl", [row(0), row(1)])
        with pytest.raises(UserError, match="leaves none to train on"):
            run(tiny_tokenizer, data, validation=2)


class TestMixing:
    def test_weights_repeat_examples_and_never_a_held_out_one(self, tmp_path: Path, tiny_tokenizer: Any) -> None:
        a = write(tmp_path / "a.jsonl", [row(n) for n in range(10)])
        b = write(tmp_path / "b.jsonl", [row(n) for n in range(10, 20)])
        data = [a, {"path": b, "weight": 3.0}]
        prepared = run(tiny_tokenizer, data, validation=5)
        trained = texts(tiny_tokenizer, prepared.training)
        held_out = texts(tiny_tokenizer, prepared.held_out)
        assert len(held_out) == 5
        assert {n: trained.count(n) for n in map(str, range(20))} == {
            str(n): 0 if str(n) in held_out else 1 if n < 10 else 3 for n in range(20)
        }

    def test_other_weights_take_the_same_tokens(
        self, tmp_path: Path, tiny_tokenizer: Any, rows_read: list[Row]
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(n) for n in range(10)])
        for weight in (1.0, 2.0):
            run(tiny_tokenizer, {"path": data, "weight": weight})
        assert len(rows_read) == 10


class TestCache:
    def test_the_second_time_reads_no_row_and_reports_the_same(
        self, tmp_path: Path, tiny_tokenizer: Any, rows_read: list[Row]
    ) -> None:
        rows = [row(0), row(0), row(1, output="</s>"), row(2, output="x" * 500), row(3, output="")]
        data = write(tmp_path / "a.jsonl", rows)
        first, second = (run(tiny_tokenizer, data, max_tune_length=300, on_bad_row="drop") for _ in range(2))
        assert len(rows_read) == 5
        assert first.report == second.report
        assert [e.ids.tolist() for e in first.training] == [e.ids.tolist() for e in second.training]

    def test_a_changed_file_is_read_though_size_and_time_are_the_same(
        self, tmp_path: Path, tiny_tokenizer: Any
    ) -> None:
        data = tmp_path / "a.jsonl"
        write(data, [row(1), row(2)])
        before = data.stat()
        assert texts(tiny_tokenizer, run(tiny_tokenizer, str(data)).training) == ["1", "2"]
        write(data, [row(1), row(3)])
        os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (data.stat().st_size, data.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert texts(tiny_tokenizer, run(tiny_tokenizer, str(data)).training) == ["1", "3"]

    @pytest.mark.parametrize("option", ["prompts", "chat_template"])
    def test_a_changed_template_file_is_read(self, tmp_path: Path, tiny_tokenizer: Any, option: str) -> None:
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        data = write(tmp_path / "a.jsonl", [row(1) if option == "prompts" else {"messages": messages}])
        file = tmp_path / "template"

        def first_word(word: str) -> str:
            chat = "{% for m in messages %}WORD{{ m.role }}:{{ m.content }}{% endfor %}"
            chat += "{% if add_generation_prompt %}WORDassistant:{% endif %}"
            prompts = "prompt_input: WORD {instruction} {input}\nprompt_no_input: WORD {instruction}\n"
            file.write_text((prompts if option == "prompts" else chat).replace("WORD", word))
            os.utime(file, (0, 0))
            example = run(tiny_tokenizer, data, **{option: str(file)}).training[0]
            return tiny_tokenizer.decode(example.ids, skip_special_tokens=True)[:5]

        assert [first_word(word) for word in ("Aaaaa", "Bbbbb", "Aaaaa")] == ["Aaaaa", "Bbbbb", "Aaaaa"]

    def test_another_tokenizer_has_other_tokens(
        self, tmp_path: Path, make_tokenizer: Callable[..., Any], own_cache: Path
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1)])
        plain = make_tokenizer(eos_token="</s>")
        merging = make_tokenizer(eos_token="</s>", merged="Say", merges=1)
        ending = make_tokenizer(eos_token="<e>", pad_token="</s>")
        ids = [run(tokenizer, data).training[0].ids.tolist() for tokenizer in (plain, merging, ending)]
        assert len(set(map(tuple, ids))) == 3
        assert entries(own_cache) == 3
        plain.chat_template = "{{ messages }}"
        assert run(plain, data).training[0].ids.tolist() == ids[0]
        assert entries(own_cache) == 4

    def test_a_tokenizer_that_was_used_is_the_same_tokenizer(
        self, tmp_path: Path, make_tokenizer: Callable[..., Any], own_cache: Path
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1)])
        tokenizer = make_tokenizer(eos_token="</s>", pad_token="</s>")
        before = run(tokenizer, data).training[0].ids.tolist()
        tokenizer(["a", "abc"], padding=True, truncation=True, max_length=2)  # leaves both set in its backend
        assert run(tokenizer, data).training[0].ids.tolist() == before
        assert entries(own_cache) == 1

    @pytest.mark.parametrize(
        "option",
        [
            {"mask_inputs": False},
            {"max_tune_length": 100},
            {"overflow": "truncate"},
            {"on_bad_row": "drop"},
            {"special_tokens_as_text": True},
            {"format": "alpaca"},
            {"columns": {"input": "context"}},
            {"train_on_turns": "last"},
        ],
        ids=str,
    )
    def test_every_option_that_may_change_tokens_has_its_own(
        self, tmp_path: Path, tiny_tokenizer: Any, own_cache: Path, option: dict[str, Any]
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1, context="")])
        run(tiny_tokenizer, data)
        run(tiny_tokenizer, data, **option)
        assert entries(own_cache) == 2

    def test_options_of_the_batches_change_no_tokens(
        self, tmp_path: Path, tiny_tokenizer: Any, rows_read: list[Row]
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1)])
        run(tiny_tokenizer, data)
        run(tiny_tokenizer, data, packing=True, seq_len=4096, max_dropped=0.1, shuffle_buffer=5)
        assert len(rows_read) == 1

    @pytest.mark.parametrize("file", ["tokens.arrow", "store.json", "report.json"])
    def test_a_damaged_entry_is_made_again(
        self, tmp_path: Path, tiny_tokenizer: Any, own_cache: Path, file: str
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1), row(2)])
        first = run(tiny_tokenizer, data)
        expected = [example.ids.tolist() for example in first.training]
        (entry,) = own_cache.iterdir()
        damaged = (entry / file).read_bytes()[:-20]
        (entry / file).unlink()  # the first run's memory map keeps the whole file
        (entry / file).write_bytes(damaged)
        assert [example.ids.tolist() for example in run(tiny_tokenizer, data).training] == expected
        assert [example.ids.tolist() for example in first.training] == expected

    def test_data_that_changes_while_it_is_read_is_refused(
        self, tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, own_cache: Path
    ) -> None:
        data = write(tmp_path / "a.jsonl", [row(1), row(2)])

        def appending(*args: Any) -> Iterator[Row]:
            yield from list(iter_rows(*args))
            write(tmp_path / "a.jsonl", [row(1), row(2), row(3)])

        monkeypatch.setattr(source_store, "iter_rows", appending)
        with pytest.raises(UserError, match=r"a\.jsonl: the data changed while it was read"):
            run(tiny_tokenizer, data)
        assert entries(own_cache) == 0

    @pytest.mark.parametrize(("number", "left"), [(signal.SIGKILL, [".partial"]), (signal.SIGINT, [])])
    def test_a_build_cut_short_is_started_over(
        self, tmp_path: Path, tiny_tokenizer: Any, own_cache: Path, number: int, left: list[str]
    ) -> None:
        tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
        data = write(tmp_path / "a.jsonl", [row(n, output="word " * 50) for n in range(4000)])
        process = _prepare_in_new_process(tmp_path / "tokenizer", data)
        while not any(own_cache.glob(".*.partial/tokens.arrow")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait() == -number
        assert [path.suffix for path in own_cache.iterdir()] == left
        assert len(run(tiny_tokenizer, data).training) == 4000

    def test_two_processes_prepare_the_same_at_once(self, tmp_path: Path, tiny_tokenizer: Any, own_cache: Path) -> None:
        tiny_tokenizer.save_pretrained(tmp_path / "tokenizer")
        data = write(tmp_path / "a.jsonl", [row(n) for n in range(3000)])
        # Keys must not depend on Python's hash seed: they mean the same entry.
        processes = [_prepare_in_new_process(tmp_path / "tokenizer", data, PYTHONHASHSEED=seed) for seed in "01"]
        assert [process.communicate()[0] for process in processes] == ["3000\n", "3000\n"]
        assert entries(own_cache) == 1


def _prepare_in_new_process(tokenizer: Path, data: str, **environment: str) -> "subprocess.Popen[str]":
    script = (
        "import sys\n"
        "from transformers import PreTrainedTokenizerFast\n"
        "from lodos.data.config import DataArgs\n"
        "from lodos.data.prepare import prepare\n"
        "tokenizer = PreTrainedTokenizerFast.from_pretrained(sys.argv[1])\n"
        "prepared = prepare(DataArgs(data=sys.argv[2]), tokenizer, seed=0)\n"
        "print(len(prepared.training))\n"
        "assert 'jax' not in sys.modules\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", script, str(tokenizer), data],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_no_row_left_is_refused_with_the_reasons(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1)])
    with pytest.raises(UserError, match=r"no rows to train on:\n.*0 of 2 rows kept(.|\n)*too long: 2 \(rows 1, 2\)"):
        run(tiny_tokenizer, data, max_tune_length=3)


def test_the_gate_goes_by_the_share_left_out(tmp_path: Path, tiny_tokenizer: Any) -> None:
    data = write(tmp_path / "a.jsonl", [row(0), row(1, output="x" * 500), row(2, output=""), row(3)])
    options = dict(max_tune_length=300, on_bad_row="drop")
    report = run(tiny_tokenizer, data, **options).report
    assert (report.read, report.kept, report.dropped) == (4, 2, 2)
    assert check(report, DataArgs(data=data, max_dropped=0.5)) == []
    (problem,) = check(report, DataArgs(data=data, max_dropped=0.49))
    assert "2 of 4 rows were left out (1 the answer is empty, 1 too long)" in problem


def test_a_slow_tokenizer_is_refused() -> None:
    class SlowTokenizer:
        is_fast = False

    with pytest.raises(UserError, match="SlowTokenizer is a slow tokenizer"):
        source_store.tokenizer_fingerprint(SlowTokenizer())  # pyright: ignore[reportArgumentType]


def test_loaders_take_what_is_prepared(tmp_path: Path, tiny_tokenizer: Any) -> None:
    from lodos.data.batching.loader import TrainLoader

    data = write(tmp_path / "a.jsonl", [row(n) for n in range(10)])
    prepared = run(tiny_tokenizer, data)
    batch = TrainLoader(prepared.training, batch_size=4, pad_id=0, seed=0)[0]
    assert np.asarray(batch.tokens).shape[0] == 4


def test_a_template_that_writes_the_date_is_tokenized_anew_each_day(
    tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    data = write(tmp_path / "a.jsonl", [{"messages": messages}])
    dated = "{{ strftime_now('%Y') }}" + tiny_tokenizer.chat_template
    for template, days, found in ((tiny_tokenizer.chat_template, (1, 2), 1), (dated, (1, 1, 2), 3)):
        for day in days:
            today = datetime.date(2030, 1, day)
            clock = types.SimpleNamespace(date=types.SimpleNamespace(today=lambda today=today: today))
            monkeypatch.setattr(source_store, "datetime", clock)
            run(tiny_tokenizer, data, chat_template=template)
        assert entries(own_cache) == found
