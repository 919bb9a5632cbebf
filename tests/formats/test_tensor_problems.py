from lodos.formats.tensor_problems import SHOWN, problem_lines


def test_what_layers_have_in_common_is_one_line() -> None:
    problems = [(f"model.layers.{layer}.mlp.up_proj.weight", "missing") for layer in range(32)]
    problems += [("model.layers.3.mlp.up_proj.bias", "extra"), ("lm_head.weight", "missing")]
    assert problem_lines(problems) == [
        "model.layers.*.mlp.up_proj.weight: missing (32 tensors).",
        "model.layers.3.mlp.up_proj.bias: extra.",
        "lm_head.weight: missing.",
    ]


def test_other_faults_are_other_lines() -> None:
    problems = [("layers.0.a", "missing"), ("layers.1.a", "extra"), ("layers.2.a", "missing")]
    assert problem_lines((f"model.{name}", wrong) for name, wrong in problems) == [
        "model.layers.*.a: missing (2 tensors).",
        "model.layers.1.a: extra.",
    ]


def test_of_very_many_the_rest_is_counted() -> None:
    names = [f"model.layers.{layer}.{kind}" for kind in "abcdefghijklmnopq" for layer in range(3)]
    lines = problem_lines((name, "missing") for name in names)
    assert len(lines) == SHOWN + 1
    assert lines[-1] == f"and {len(names) - 3 * SHOWN} more tensors."


def test_nothing_wrong_is_no_line() -> None:
    assert problem_lines([]) == []
