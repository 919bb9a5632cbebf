"""Axes that a run's settings name are there and are split, or it is said."""

import re
from typing import Any

import equinox as eqx
import jax
import pytest

from lodos.errors import UserError
from lodos.lora.config import LoraConfig
from lodos.lora.transform import loraized_shapes
from lodos.models.decoder import LmHeadModel
from lodos.sharding import axis_sizes
from lodos.train.axes import check_axes
from lodos.train.config import TrainerConfig
from lodos.train.mesh import MeshConfig
from tiny_training import tiny_config


@pytest.fixture(scope="module")
def shapes() -> LmHeadModel:
    """Of width 32, 48 inside, two layers, heads of 32 in all and of 16 for keys, and 64 tokens."""
    model = eqx.filter_eval_shape(LmHeadModel.init, tiny_config(), key=jax.random.key(0))
    return loraized_shapes(model, LoraConfig(r=4))


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`devices(8)`: over so many the batch is shared out."""

    def arrange(count: int) -> None:
        shape = property(lambda config: {"data": count, "model": config.model_axis_size})
        monkeypatch.setattr(TrainerConfig, "mesh_shape", shape)

    return arrange


def test_the_axes_are_those_that_the_models_modules_name(shapes: LmHeadModel) -> None:
    sizes = axis_sizes(shapes)
    assert sizes == {
        "vocab": {64}, "embed": {32}, "layers": {2}, "heads": {32}, "kv_heads": {16}, "mlp": {48}, "lora_r": {4},
    }  # fmt: skip


@pytest.mark.parametrize("setting", ["fsdp_axis", "tensor_parallel_axes"])
@pytest.mark.parametrize(("name", "near"), [("embedd", "embed"), ("kv_head", "kv_heads"), ("batch", None), ("", None)])
def test_a_name_that_is_not_there_is_refused_with_those_that_are(
    shapes: LmHeadModel, setting: str, name: str, near: str | None
) -> None:
    """On one device too, where nothing would be split anyway."""
    options: Any = {setting: name if setting == "fsdp_axis" else ("mlp", name)}
    with pytest.raises(UserError) as error:
        check_axes(TrainerConfig(**options), shapes)
    meant = f" Did you mean {near}?" if near else ""
    assert str(error.value) == (
        f"trainer.{setting}: {name!r} is no axis of this model.{meant} There are embed, heads, kv_heads, layers, "
        "lora_r, mlp, vocab."
    )


def test_all_that_is_wrong_is_said_at_once(shapes: LmHeadModel) -> None:
    config = TrainerConfig(fsdp_axis="embeds", tensor_parallel_axes=("mpl", "heads", "head"))
    with pytest.raises(UserError, match=r"(?s)fsdp_axis: 'embeds'.*mean embed.*'mpl'.*mean mlp.*'head'.*mean heads"):
        check_axes(config, shapes)


def test_an_axis_cannot_be_split_both_ways(shapes: LmHeadModel) -> None:
    with pytest.raises(UserError, match=r"trainer\.fsdp_axis: mlp is among tensor_parallel_axes too"):
        check_axes(TrainerConfig(fsdp_axis="mlp"), shapes)


@pytest.mark.parametrize(
    ("model_axis_size", "axes", "asked"), [(5, ("mlp", "heads"), r"mlp \(48\), heads \(32\)"), (2, (), "none")]
)
def test_devices_that_would_all_compute_the_same_are_refused(
    shapes: LmHeadModel, devices: Any, model_axis_size: int, axes: tuple[str, ...], asked: str
) -> None:
    devices(2)
    config = TrainerConfig(model_axis_size=model_axis_size, tensor_parallel_axes=axes, fsdp_axis=None)
    with pytest.raises(UserError, match=rf"model_axis_size: {model_axis_size} devices.*tensor_parallel_axes: {asked}"):
        check_axes(config, shapes)


@pytest.mark.parametrize(
    ("count", "options", "remark"),
    [
        (1, {}, None),
        (8, {}, None),
        (2, {"model_axis_size": 4}, None),
        (3, {}, r"trainer\.fsdp_axis: embed \(32\) is not divided by 3 devices"),
        (3, {"fsdp_axis": None}, None),
        (1, {"model_axis_size": 3}, r"trainer\.tensor_parallel_axes: heads \(32\) is not divided by the 3 devices"),
    ],
)
def test_what_stays_whole_though_it_is_named_is_said(
    shapes: LmHeadModel, devices: Any, caplog: pytest.LogCaptureFixture, count: int, options: Any, remark: str | None
) -> None:
    devices(count)
    with caplog.at_level("WARNING"):
        check_axes(TrainerConfig(**options), shapes)
    said = [record.getMessage() for record in caplog.records]
    if remark is None:
        assert not said
    else:
        assert re.match(remark, said[0])


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            MeshConfig(parameters={"embd": "data"}),
            "mesh.parameters: 'embd' is no axis of this model",
        ),
        (MeshConfig(compute={"rows": "data"}), "mesh.compute: 'rows' is no axis of this model"),
        (MeshConfig(parameters={"layers": ["data"]}), r"mesh.parameters: layers \(2\) is not divided by the 8 devices"),
        (
            MeshConfig(compute={"layers": "data"}),
            r"mesh.compute: layers \(2\) is not.*compute all.*data 8, model 1\.",
        ),
        (MeshConfig(compute={"mlp": "model"}), r"mesh.compute: mlp is split over model, which is one device"),
        (MeshConfig(parameters={"embed": ["model"]}), r"mesh.parameters: embed is split over model.*data 8, model 1\."),
    ],
)
def test_a_mapping_by_hand_that_does_nothing_is_refused(
    shapes: LmHeadModel, devices: Any, mesh: MeshConfig, message: str
) -> None:
    devices(8)
    with pytest.raises(UserError, match=message):
        check_axes(TrainerConfig(mesh=mesh), shapes)
    check_axes(TrainerConfig(mesh=MeshConfig(parameters={"vocab": "data"}, compute={"batch": "data"})), shapes)
    check_axes(TrainerConfig(mesh=MeshConfig(parameters={"embed": None}, compute={"mlp": None})), shapes)


def test_a_mapping_by_hand_is_taken_to_one_device(shapes: LmHeadModel, devices: Any) -> None:
    devices(1)
    check_axes(TrainerConfig(mesh=MeshConfig(parameters={"embed": "data"}, compute={"mlp": "model"})), shapes)
