"""The points of a sweep differ in what is swept."""

import argparse
from typing import Any

import pytest
from bench.scaling import measure, print_points, sweep_points

ARGUMENTS = argparse.Namespace(tokens=64, lengths=[16, 64], ranks=[2, 4], layer_counts=[1, 3], rank=2, layers=2)


def test_every_point_of_a_sweep_has_the_same_tokens() -> None:
    for name in ("length", "packed", "rank", "layers", "checkpointing"):
        points = sweep_points(name, ARGUMENTS, 100)
        assert {point.tokens.tokens_per_batch for point in points} == {64}
        settings = {(point.tokens.length, point.rank, point.layers, *point.flags.items()) for point in points}
        assert len(settings) == len(points)
    assert all(point.tokens.example_length == 200 for point in sweep_points("packed", ARGUMENTS, 100))


def test_a_sweep_takes_turns(make_model: Any) -> None:
    folder, model = make_model()
    points = sweep_points("layers", ARGUMENTS, model.config.vocab_size)
    measure(folder, points, rounds=2, steps=1, flags={})
    first, second = (point.report(points[0]) for point in points)
    assert first["of_the_first"] == 1
    assert second["of_the_first"] > 0
    assert (first["layers"], second["layers"]) == (1, 3)
    assert len(second["step_seconds_of_rounds"]) == 2


def test_a_point_that_fails_is_said_so_and_left_out(make_model: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder, model = make_model()
    points = sweep_points("rank", ARGUMENTS, model.config.vocab_size)
    points[1].rank = -1
    measure(folder, points, rounds=1, steps=1, flags={})
    assert points[0].report(points[0])["microseconds_per_token"] > 0
    assert "lora.r" in points[1].report(points[0])["failure"]
    print_points(points)
    table = capsys.readouterr().out
    assert "us/token" in table
    assert "lora.r" in table
