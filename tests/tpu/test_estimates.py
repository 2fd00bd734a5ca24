"""`benchmarks.tpu`: what is estimated of one row is sane."""

import chips  # noqa: F401 - skips where libtpu is not installed

from benchmarks import tpu


def test_a_short_row():
    """The chosen engine takes some cycles for a step, and no more than Flax."""
    row = tpu.SHORT_ROWS[0]
    entry = row._asdict() | {
        column: tpu.estimated(row, column, timeout=120) for column in ("chosen", *tpu.FLAX["lstm"])
    }
    assert entry["chosen"]["engine"] == "blocked"
    # A step reads and writes a row of each at least, and cannot take less than a matmul's latency.
    assert entry["chosen"]["hbm_bytes"] >= 2 * 8 * 128 * 2
    assert 100 < entry["chosen"]["cycles"] <= tpu.best_flax(entry)["cycles"]
