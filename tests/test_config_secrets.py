"""What a URL carries of secrets is in no file that is written."""

import dataclasses

import pytest

from lodos.config import TrainArgs
from lodos.config_parsing import dump_config, parse_config
from lodos.config_secrets import HIDDEN, hides_something, without_secrets
from lodos.errors import UserError

URLS = {
    "https://anna:canary@host/rows.jsonl": f"https://{HIDDEN}@host/rows.jsonl",
    "https://canary@host:8080/a@b/rows.jsonl": f"https://{HIDDEN}@host:8080/a@b/rows.jsonl",
    "https://anna:can@ary:canary@host/rows.jsonl": f"https://{HIDDEN}@host/rows.jsonl",
    "https://host/rows.jsonl?token=canary": f"https://host/rows.jsonl?token={HIDDEN}",
    "https://host/r?download=true&access_token=canary&x=1": f"https://host/r?download=true&access_token={HIDDEN}&x=1",
    "https://host/r?sig=canary&se=2026#key=canary": f"https://host/r?sig={HIDDEN}&se=2026#key={HIDDEN}",
    "https://b.s3.amazonaws.com/r?X-Amz-Signature=canary&X-Amz-Credential=canary": (
        f"https://b.s3.amazonaws.com/r?X-Amz-Signature={HIDDEN}&X-Amz-Credential={HIDDEN}"
    ),
    "ftp://anna:canary@host/rows.csv": f"ftp://{HIDDEN}@host/rows.csv",
    "sftp://anna:canary@host/rows.csv": f"sftp://{HIDDEN}@host/rows.csv",
}
PLAIN = ["rows.jsonl", "https://host/a@b/rows.jsonl?split=train", "gs://bucket/x", "a question? key=value", "me@host"]


@pytest.mark.parametrize(("url", "shown"), URLS.items())
def test_a_url_is_written_without_its_secrets(url: str, shown: str) -> None:
    assert without_secrets(url) == shown
    assert without_secrets({"data": [{"path": url}, url]}) == {"data": [{"path": shown}, shown]}
    assert without_secrets(shown) == shown
    assert hides_something([{"path": shown}])
    assert not hides_something([{"path": url}])


@pytest.mark.parametrize("text", PLAIN)
def test_what_carries_none_is_written_as_it_is(text: str) -> None:
    assert without_secrets(text) == text
    assert not hides_something(text)


def test_the_config_of_a_run_holds_none_and_asks_for_it_again() -> None:
    (url, shown) = next(iter(URLS.items()))
    config = TrainArgs(model_name_or_path="base", data=[{"path": url}, "rows.jsonl"], validation=url)
    text = dump_config(config)
    assert "canary" not in text
    with pytest.raises(UserError) as error:
        dataclasses.replace(config, data=[shown], validation=shown)
    for name in ("data", "validation"):
        assert f"{name}: has {HIDDEN} where a secret was" in str(error.value)
    flags = ["--model_name_or_path", "base", "--data", url]
    assert parse_config(TrainArgs, flags, prog="x", description="").data == url
