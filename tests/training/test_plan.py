"""The plan of a run: its rows agree with themselves and with the simulated step."""

import pytest

from ismkit.training.budget import Cluster, exact_seconds, plan, pools, step, text
from tests.training.test_cluster import ISM, SMOOTH, XL


def test_a_row_of_the_plan() -> None:
    row = plan("XL/2", XL, ISM, Cluster(8), price=3.0, kept=2)
    assert row["GPU hours"] == pytest.approx(8 * row["hours"]) == pytest.approx(row["money"] / 3)
    assert row["hours"] == pytest.approx(800_000 * row["s / step"] / 3600)
    assert row["images / s"] == pytest.approx(256 / row["s / step"])
    assert 0 < row["MFU %"] < 45
    assert row["storage GB"] == pytest.approx(41.98 + 2 * 20 * 0.678065, abs=0.01)
    # Throughput that was measured takes the place of the assumed MFU: one GPU then trains at that rate, updates apart.
    known = plan("XL/2", XL, ISM, SMOOTH, price=3.0, measured=100.0)
    assert known["source"] == "measured"
    update = step(XL, ISM, 256, SMOOTH).update
    assert known["s / step"] == pytest.approx(2.56 + update, rel=1e-9)
    assert text([row, known]).count("\n") == 2


def test_pools_hold_the_same_rows_by_another_k() -> None:
    same, many, one = pools(XL, 0.05, Cluster(64))
    assert (same["rows"], many["rows"], one["rows"]) == (128, 8192, 8192)
    assert (same["K"], many["K"], one["K"]) == (32, 2048, 32)
    assert many["busy cores"] == pytest.approx(one["busy cores"])  # the same work, by one rank or by all
    assert one["s gathering"] == pytest.approx(Cluster(64).gather(8192 * 4096 * 4))
    assert many["GB / rank"] == pytest.approx(64 * one["GB / rank"])
    assert many["GB / rank"] == pytest.approx(6.2 * 8192 * 4096 * 4 / 1e9), "as the page of ImageNet says"
    alone = pools(XL, 0.05, Cluster(1))
    assert len({(row["K"], row["rows"], row["busy cores"], row["s gathering"]) for row in alone}) == 1
    assert exact_seconds(8192) == 12
