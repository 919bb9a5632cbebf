"""Merge keys and anchors. Scalars and repeated keys: tests/test_config_parsing.py."""

import pytest
import yaml

from lodos.yaml12 import anchor_holders, load_yaml

BASE = "base: &base {r: 8, alpha: 16, inner: {a: 1}}\nother: &other {r: 4, dropout: 0.1}\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x: {<<: *base, r: 1}", {"r": 1, "alpha": 16, "inner": {"a": 1}}),
        ("x: {r: 1, <<: *base}", {"r": 1, "alpha": 16, "inner": {"a": 1}}),
        ("x: {<<: *base, inner: {b: 2}}", {"r": 8, "alpha": 16, "inner": {"b": 2}}),
        ("x: {<<: [*base, *other]}", {"r": 8, "alpha": 16, "inner": {"a": 1}, "dropout": 0.1}),
        ("x: {<<: [*other, *base]}", {"r": 4, "alpha": 16, "inner": {"a": 1}, "dropout": 0.1}),
        ("x: {<<: {r: 3}, alpha: 1}", {"r": 3, "alpha": 1}),
        ("x: {<<: []}", {}),
        ("x: {'<<': 1}", {"<<": 1}),
        ("mid: &mid {<<: *base, r: 2}\nx: {<<: *mid, alpha: 1}", {"r": 2, "alpha": 1, "inner": {"a": 1}}),
        ("x: *base", {"r": 8, "alpha": 16, "inner": {"a": 1}}),
    ],
)
@pytest.mark.parametrize("numbers_as_text", [False, True])
def test_a_merge_gives_what_a_mapping_has_not_itself(text: str, value: object, numbers_as_text: bool) -> None:
    def written(value: object) -> object:
        if isinstance(value, dict):
            return {key: written(item) for key, item in value.items()}
        return str(value)

    expected = written(value) if numbers_as_text else value
    assert load_yaml(BASE + text, numbers_as_text=numbers_as_text)["x"] == expected


@pytest.mark.parametrize("wrong", ["base", "3", "[*base, 3]", "null"])
def test_a_merge_of_something_else_is_refused_with_its_line(wrong: str) -> None:
    with pytest.raises(yaml.YAMLError, match="line 4: << takes a mapping"):
        load_yaml(f"{BASE}x:\n  <<: {wrong}\n")


def test_keys_are_still_given_once() -> None:
    with pytest.raises(yaml.YAMLError, match="line 3: 'r' is given twice; the first is in line 3"):
        load_yaml(f"{BASE}x: {{<<: *base, r: 1, r: 2}}")
    with pytest.raises(yaml.YAMLError, match=r"'<<' is given twice.*Write <<: \[\*one, \*other\]"):
        load_yaml(f"{BASE}x: {{<<: *base, <<: *other}}")
    with pytest.raises(yaml.YAMLError, match="'r' is given twice"):
        load_yaml("base: &base {r: 1, r: 2}\nx: {<<: *base}")


def test_the_keys_that_hold_anchors_for_others_are_known() -> None:
    text = "a: &a {x: 1}\nb: {c: &c 3, d: 4}\ne: {<<: *a, y: *c}\nf: &f 1\ng: {h: &h 1, i: *h}\n"
    assert anchor_holders(text) == {"a", "b"}
    assert anchor_holders("- 1\n") == anchor_holders("") == set()


HOSTILE = {
    "flow nesting": "[" * 5000,
    "block nesting": "\n".join(" " * i + "a:" for i in range(200)),
    "digits": "a: " + "9" * 100_000,
    "hexadecimal digits": "a: 0x" + "f" * 100_000,
    "laughs": "a: &a [x, x]\n" + "\n".join(f"a{i}: &a{i} [*a{i - 1 or ''}, *a{i - 1 or ''}]" for i in range(1, 40)),
    "an anchor in itself": "a: &a [*a]",
    "a mapping in itself": "a: &a {b: *a}",
    "an object": "a: !!python/object/apply:os.system ['exit']",
    "a tag of somebody's": "a: !x y",
    "a set": "a: !!set {x}",
    "a number that is none": "a: !!int x",
    "a truth that is none": "a: !!bool x",
    "a date": "a: !!timestamp x",
    "bytes": "a: !!binary é",
    "values": "[" + "a," * 30_000 + "]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_beyond_the_bounds_is_an_error_of_yaml(name: str) -> None:
    for as_text in (False, True):
        if as_text and "number" in name:
            continue  # it is text then
        with pytest.raises(yaml.YAMLError):
            load_yaml(HOSTILE[name], numbers_as_text=as_text and "digits" not in name)
