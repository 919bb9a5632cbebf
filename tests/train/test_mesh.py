"""Meshes by hand, and the rows that each host brings to a batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from lodos.errors import UserError
from lodos.train.config import TrainerConfig
from lodos.train.mesh import BatchShare, MeshConfig, batch_share, mapping_problems, mesh_shape, overlaid


def hosts_mesh(hosts: Any, names: tuple[str, ...]) -> Any:
    """A mesh of devices of which only the hosts are known."""
    devices = np.vectorize(lambda host: SimpleNamespace(process_index=host), otypes=[object])(np.asarray(hosts))
    return SimpleNamespace(devices=devices, axis_names=names, shape=dict(zip(names, devices.shape, strict=True)))


@pytest.mark.parametrize(
    ("axes", "model_axis_size", "expected"),
    [
        ({}, 1, {"data": 8, "model": 1}),
        ({}, 4, {"data": 2, "model": 4}),
        ({"replica_dcn": 2}, 1, {"replica_dcn": 2, "data": 4, "model": 1}),
        ({"replica_dcn": 2, "model": 2}, 1, {"replica_dcn": 2, "model": 2, "data": 2}),
        ({"replica_dcn": -1, "data": 2}, 2, {"replica_dcn": 2, "data": 2, "model": 2}),
    ],
)
def test_what_is_not_given_has_the_devices_that_are_left(
    axes: dict[str, int], model_axis_size: int, expected: dict[str, int]
) -> None:
    assert mesh_shape(MeshConfig(axes=axes), model_axis_size, 8) == expected


@pytest.mark.parametrize(
    ("axes", "model_axis_size", "message"),
    [
        ({}, 3, "model_axis_size: 3 does not divide the 8 devices"),
        ({"data": 16}, 1, "mesh.axes: data 16 do not divide the 8 devices"),
        ({"data": 4}, 1, "mesh.axes: data 4 are 4 devices, of 8 that there are"),
        ({"model": 2}, 4, "model is 2 and model_axis_size 4"),
    ],
)
def test_a_mesh_that_the_devices_do_not_fill_is_refused(
    axes: dict[str, int], model_axis_size: int, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        mesh_shape(MeshConfig(axes=axes), model_axis_size, 8)


def test_bad_axes_and_mappings_are_named_at_once() -> None:
    with pytest.raises(
        UserError, match=r"(?s)data: 0 must be at least 1.*parameters: embed: \[3\] must be a mesh axis"
    ):
        MeshConfig(axes={"data": 0}, parameters={"embed": [3]})
    with pytest.raises(UserError, match="only one axis"):
        MeshConfig(axes={"data": -1, "model": -1})
    config = MeshConfig(parameters={"embed": ["data", "modle"]}, compute={"mlp": "elsewhere"})
    assert mapping_problems(config, {"data": 4, "model": 2}) == [
        "mesh.parameters: embed: 'modle' is no axis of the mesh. There are data, model.",
        "mesh.compute: mlp: 'elsewhere' is no axis of the mesh. There are data, model.",
    ]
    with pytest.raises(UserError, match=r"'modle' is no axis of the mesh\. There are data, model"):
        _ = TrainerConfig(mesh=config).device_mesh


def test_a_mapping_by_hand_stands_before_the_settings() -> None:
    mapping = {"embed": "data", "mlp": "model"}
    assert overlaid(mapping, {"embed": ["data", "model"], "mlp": None, "vocab": ["model"]}) == {
        "embed": ("data", "model"),
        "vocab": "model",
    }
    config = TrainerConfig(mesh=MeshConfig(axes={"replica_dcn": 1}, parameters={"embed": "model"}))
    assert config.parameter_axis_mapping["embed"] == "model"
    assert config.compute_axis_mapping["batch"] == ("replica_dcn", "data")


@pytest.mark.parametrize(
    ("hosts", "axes", "count"),
    [
        ([[0], [0], [1], [1]], ("data",), 2),  # each host its half
        ([[0], [1], [0], [1]], ("data",), 1),  # in another order: both bring all
        ([[0, 1]], ("data",), 1),  # a layer over both
        ([[0, 1], [2, 3]], ("data",), 2),  # a layer over two of four
        ([[0], [0], [0], [1], [1], [1]], ("data",), 2),
    ],
)
def test_a_host_brings_the_rows_that_its_devices_need(
    hosts: Any, axes: tuple[str, ...], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh = hosts_mesh(hosts, ("data", "model"))
    shares = {}
    for host in np.unique(hosts):
        monkeypatch.setattr("lodos.hosts.index", lambda host=host: host)
        shares[int(host)] = batch_share(mesh, axes)
    assert {share.count for share in shares.values()} == {count}
    rows = len(hosts) // count
    for place, devices in enumerate(hosts):
        assert all(shares[host] == BatchShare(place // rows, count) for host in devices)


def test_replicas_share_the_batch_before_the_devices_within_them(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = hosts_mesh([[[0], [1]], [[2], [3]]], ("replica_dcn", "data", "model"))
    monkeypatch.setattr("lodos.hosts.index", lambda: 2)
    assert batch_share(mesh, ("replica_dcn", "data")) == BatchShare(2, 4)
