"""A step on many GPUs: limits of the closed forms, conservation of bytes, and queues that never send early."""

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ismkit.method.recipes import RECIPES
from ismkit.models.nets import PRESETS
from ismkit.training import budget as module
from ismkit.training.budget import Cluster, memory_bytes, micro_batch, step
from ismkit.training.costs import STATE_BYTES, parameters, step_flops

FLOW, ISM = RECIPES["flow"], RECIPES["ism"]
SIZES = [1, 2, 4, 8, 16, 64]
#: No floors: every part is as its formula.
SMOOTH = Cluster(latency=0, launch=0)


def config(name: str) -> dict[str, Any]:
    return {"size": 32, "channels": 4, "patch": 2, **PRESETS[name], "num_classes": 1000}


XL = config("XL")


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_one_gpu_sends_nothing_and_computes_at_the_stated_mfu(mode: Any) -> None:
    one = step(XL, ISM, 256, SMOOTH, mode)
    assert (one.exposed, one.bytes_sent) == (0, 0)
    assert one.compute == pytest.approx(step_flops(XL, ISM, 256) / (0.45 * 989.4e12), rel=1e-12)
    assert one.update == pytest.approx(52 * parameters(XL) / (0.8 * 3.35e12), rel=1e-12)
    assert Cluster().gather(1e9) == 0


@pytest.mark.parametrize("gpus", SIZES)
def test_ddp_state_is_whole_on_every_gpu_and_fsdps_shared_out(gpus: int) -> None:
    held = memory_bytes(XL, 4, replace(SMOOTH, gpus=gpus), "ddp")
    assert {name: held[name] for name in STATE_BYTES} == {k: v * parameters(XL) for k, v in STATE_BYTES.items()}
    assert held == memory_bytes(XL, 4, SMOOTH, "ddp")
    shared = memory_bytes(XL, 4, replace(SMOOTH, gpus=gpus), "fsdp")
    # Conservation: the shards together are the state.
    assert sum(shared[name] for name in STATE_BYTES) * gpus == pytest.approx(24 * parameters(XL), rel=1e-12)
    assert shared["activations"] == held["activations"]


@pytest.mark.parametrize("gpus", SIZES[1:])
def test_bytes_sent(gpus: int) -> None:
    P, many = parameters(XL), replace(SMOOTH, gpus=gpus)
    share = (gpus - 1) / gpus
    assert step(XL, ISM, 256, many, "ddp").bytes_sent == pytest.approx(2 * share * 4 * P, rel=1e-12)
    # FSDP gathers two bytes per parameter for the forward, the backward and each of the two target passes, and
    # scatters four; a flow step has no target passes.
    sent = {recipe.name: step(XL, recipe, 256, many, "fsdp").bytes_sent for recipe in (FLOW, ISM)}
    assert sent == pytest.approx({"flow": share * 8 * P, "ism": share * 12 * P}, rel=1e-12)


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("gpus", SIZES[1:])
def test_what_is_exposed_lies_between_nothing_hidden_and_all_of_it(mode: Any, gpus: int) -> None:
    many = replace(SMOOTH, gpus=gpus)
    found = step(XL, ISM, 256, many, mode)
    sending = found.bytes_sent / many.link
    assert 0 < found.exposed < sending
    # A wire without limits hides everything; computation without limits hides nothing.
    fast = replace(many, nvlink=1e18, network=1e18)
    assert step(XL, ISM, 256, fast, mode).exposed == pytest.approx(0, abs=1e-6)
    instant = replace(many, flops=1e30)
    assert step(XL, ISM, 256, instant, mode).exposed == pytest.approx(sending, rel=1e-6)


def test_ddp_hides_all_but_the_last_bucket_behind_a_long_backward_pass() -> None:
    many = replace(SMOOTH, gpus=8, flops=1e13)
    buckets = math.ceil(4 * parameters(XL) / module.BUCKET)
    found = step(XL, FLOW, 256, many)
    assert found.exposed == pytest.approx(found.bytes_sent / many.link / buckets, rel=1e-6)


units = st.lists(st.tuples(st.floats(0.01, 3), st.booleans()), min_size=1, max_size=12)
seconds = st.floats(0, 3)


@given(units, seconds, seconds)
def test_the_two_queues_of_fsdp(todo: list[tuple[float, bool]], gather: float, scatter: float) -> None:
    computing = sum(seconds for seconds, _ in todo)
    sending = len(todo) * gather + sum(flag for _, flag in todo) * scatter
    end = module._fsdp(todo, gather, scatter)
    # Never quicker than either queue with what must come first and last, never slower than one after the other.
    first, last = gather, scatter if todo[-1][1] else 0.0  # what nothing can hide
    assert end >= max(first + computing + last, sending) - 1e-9
    assert end <= computing + sending + 1e-9
    assert module._fsdp(todo, 0, 0) == pytest.approx(computing)
    assert module._fsdp([(0.0, flag) for _, flag in todo], gather, scatter) == pytest.approx(sending)


def test_the_slowest_link_decides() -> None:
    assert replace(SMOOTH, gpus=8).link == pytest.approx(0.8 * 450e9)
    assert replace(SMOOTH, gpus=16).link == pytest.approx(0.8 * 8 * 50e9)
    assert replace(SMOOTH, gpus=16, network=1e12).link == pytest.approx(0.8 * 450e9)
    many = replace(SMOOTH, gpus=64)
    assert many.gather(1e9) == pytest.approx(63 / 64 * 1e9 / many.link)
    assert replace(many, latency=1e-5).gather(0) == pytest.approx(6e-5)


def test_launches_make_small_target_passes_cost_more_than_their_flops() -> None:
    def ratio(batch: int, cluster: Cluster) -> float:
        return step(XL, ISM, batch, cluster).compute / step(XL, FLOW, batch, cluster).compute

    assert ratio(128, SMOOTH) == pytest.approx(4 / 3)
    assert ratio(4, SMOOTH) == pytest.approx(4 / 3)
    assert ratio(4, Cluster()) > 1.4
    # In the limit only launches are left: 2 target calls beside the 3 of forward and backward.
    assert ratio(4, replace(Cluster(), launch=1.0)) == pytest.approx(5 / 3)


def test_checkpointing_costs_a_third_of_a_flow_step_and_frees_memory() -> None:
    plain, again = (step(XL, FLOW, 64, SMOOTH, "ddp", checkpointing).compute for checkpointing in (False, True))
    assert again / plain == pytest.approx(4 / 3)
    small = replace(SMOOTH, memory=30e9)
    assert micro_batch(XL, ISM, 256, small, "ddp", True) > micro_batch(XL, ISM, 256, small, "ddp", False)


def test_micro_batches_fit_and_divide() -> None:
    assert micro_batch(XL, ISM, 256, Cluster(), "ddp", False) == 128
    assert (
        sum(memory_bytes(XL, 128, Cluster(), "ddp").values())
        < 80e9
        < sum(memory_bytes(XL, 256, Cluster(), "ddp").values())
    )
    with pytest.raises(ValueError, match="multiple of the 8 GPUs, got 255"):
        micro_batch(XL, ISM, 255, Cluster(8), "ddp", False)
    with pytest.raises(ValueError, match=r"no micro-batch of width 1152 fits in 1\.6e"):
        micro_batch(XL, FLOW, 256, Cluster(memory=16e9), "ddp", False)
    with pytest.raises(ValueError, match="a batch of 2 gives no guidance row"):
        micro_batch(XL, ISM, 128, Cluster(64), "ddp", False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mfu": 1.2}, "mfu must be a share, at most 1, got 1.2"),
        ({"nvlink": 0}, "nvlink must be positive"),
        ({"flops": math.nan}, "flops must be positive"),
        ({"gpus": 12}, "whole nodes of 8 or fit in one, got 12"),
    ],
)
def test_settings_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cluster(**settings)
