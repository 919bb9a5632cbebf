"""What is read of a compiled program is what the traced one says, loops and all."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from lodos.plan.traffic import traffic_of_jaxpr, traffic_of_text

LOOP = """HloModule step

%body (p: (s32[], bf16[4,8], s32[])) -> (s32[], bf16[4,8], s32[]) {{
  %p = (s32[]{{:T(256)}}, bf16[4,8]{{1,0:T(8,128)(2,1)}}, s32[]) parameter(0)
  %x = bf16[4,8]{{1,0:T(8,128)(2,1)}} get-tuple-element(%p), index=1
  %all-gather.1 = bf16[4,8]{{1,0:T(8,128)(2,1)}} all-gather(%x), channel_id=1, dimensions={{0}}
  ROOT %out = (s32[], bf16[4,8], s32[]) tuple(%x, %all-gather.1, %x)
}}

%condition (p.1: (s32[], bf16[4,8], s32[])) -> pred[] {{
  %p.1 = (s32[], bf16[4,8], s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p.1), index=0
  %n = s32[] get-tuple-element(%p.1), index=2
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}}

ENTRY %main (a: bf16[4,8], m: s32[]) -> bf16[4,8] {{
  %a = bf16[4,8] parameter(0)
  %m = s32[] parameter(1)
  %zero = s32[] constant(0)
  %seven = s32[] constant(7)
  %bound = s32[] copy({bound})
  %start = (s32[], bf16[4,8], s32[]) tuple(%zero, %a, %bound)
  %loop = (s32[], bf16[4,8], s32[]) while(%start), condition=%condition, body=%body{known}
  %ar = (f32[16], f32[8]) all-reduce-start(%a, %b), to_apply=%add
  %ag = ((f32[2], f32[3,1]), (f32[8], f32[12,1])) all-gather-start(%a, %b), dimensions={{0}}
  %cp = (f32[5]{{0:T(128)}}, f32[5]{{0:T(128)}}, u32[], u32[]) collective-permute-start(%a), channel_id=3
  ROOT %r = bf16[4,8] get-tuple-element(%loop), index=1
}}
"""
GATHERED = 4 * 8 * 2
ONCE = {"all-gather": (8 + 12) * 4, "all-reduce": (16 + 8) * 4, "collective-permute": 5 * 4}


@pytest.mark.parametrize(
    ("bound", "known", "times"),
    [
        ("%seven", "", 7),
        ("%m", ', backend_config={"known_trip_count":{"n":"5"}}', 5),
    ],
)
def test_a_loop_counts_as_often_as_it_runs(bound: str, known: str, times: int) -> None:
    found = traffic_of_text(LOOP.format(bound=bound, known=known))
    assert found == {**ONCE, "all-gather": ONCE["all-gather"] + GATHERED * times}


def test_a_loop_of_unknown_length_is_not_guessed() -> None:
    assert traffic_of_text(LOOP.format(bound="%m", known="")) is None


BESIDE = """HloModule step

%starts (p.0: bf16[4,8]) -> (bf16[4,8], bf16[16,8]) {
  %p.0 = bf16[4,8] parameter(0)
  %all-gather.1 = bf16[16,8] all-gather(%p.0), channel_id=1, dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %begun = (bf16[4,8], bf16[16,8]) custom-call(%p.0, %all-gather.1), custom_call_target="AsyncCollectiveStart"
}

%goes_on (p.1: bf16[4,8], x: f32[9]) -> f32[9] {
  %p.1 = bf16[4,8] parameter(0)
  %all-gather.2 = bf16[16,8] all-gather(%p.1), channel_id=1, dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %x = f32[9] parameter(1)
}

%other (p.2: bf16[4,8]) -> bf16[16,8] {
  %p.2 = bf16[4,8] parameter(0)
  ROOT %all-gather.3 = bf16[16,8] all-gather(%p.2), channel_id=1, dimensions={0}
}

ENTRY %main (a: bf16[4,8], b: f32[9]) -> f32[9] {
  %a = bf16[4,8] parameter(0)
  %b = f32[9] parameter(1)
  %kernel = f32[9] custom-call(%b), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{}"
}}, metadata={op_name="attention"}
  %start = (bf16[4,8], bf16[16,8]) fusion(%a), kind=kLoop, calls=%starts
  %beside = f32[9] fusion(%a, %b), kind=kOutput, calls=%goes_on
  %other.1 = bf16[16,8] fusion(%a), kind=kLoop, calls=%other
  ROOT %again = bf16[16,8] all-gather(%a), channel_id=4, dimensions={0}
}
"""


def test_what_is_moved_beside_several_computations_is_moved_once() -> None:
    assert traffic_of_text(BESIDE) == {"all-gather": 3 * 16 * 8 * 2}


def test_scans_in_a_traced_program_count_as_often_as_they_run() -> None:
    mesh = AbstractMesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def body(x: jax.Array) -> jax.Array:
        def layer(carry: jax.Array, shard: jax.Array) -> tuple[jax.Array, None]:
            return carry + jax.lax.all_gather(shard, "data", tiled=True).sum(), None

        total, _ = jax.lax.scan(layer, jnp.zeros(()), x)
        return jax.lax.psum(total, "data")

    run = jax.shard_map(
        body, mesh=mesh, in_specs=PartitionSpec(None, "data"), out_specs=PartitionSpec(), check_vma=False
    )
    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((6, 8), jnp.float32))
    assert traffic_of_jaxpr(traced.jaxpr.jaxpr) == {"all-gather": 6 * 8 * 4, "all-reduce": 4}


def test_what_is_left_to_the_partitioner_counts_as_if_it_were_split() -> None:
    """The sum over `data` may be made by each of two devices for its half; in the second map both are named."""
    mesh = AbstractMesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def inner(x: jax.Array) -> jax.Array:
        return jax.lax.psum(x, "model")

    def body(x: jax.Array) -> jax.Array:
        split = PartitionSpec(None, "model")
        inside = jax.shard_map(inner, in_specs=split, out_specs=PartitionSpec(), axis_names={"model"}, check_vma=False)
        return jax.lax.psum(x, "data").sum() + inside(x).sum()

    run = jax.shard_map(
        body, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec(), axis_names={"data"}, check_vma=False
    )
    traced = jax.jit(run).trace(jax.ShapeDtypeStruct((6, 8), jnp.float32))
    assert traffic_of_jaxpr(traced.jaxpr.jaxpr) == {"all-reduce": 6 * 8 * 4 // 2 + 6 * 4 * 4}
