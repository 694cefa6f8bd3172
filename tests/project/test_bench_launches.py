"""`bench.launches` counts whole frames, which nobody else runs with tensors of shapes alone."""

import torch

from bench.launches import count


def test_each_way_to_run_a_frame_is_counted_and_asks_for_no_more_than_the_one_before() -> None:
    with torch.no_grad():
        counted = count("tiny", 64, (32,), 2, "cpu")
    found = {way: row["all"] for way, row in counted["ways"].items()}
    assert found["twin"] > found["fused"] > found["prepared"] > found["whole"] == found["tuned"] > found["change"] > 0
    assert found["eight_bit"] > found["whole"], "numbers are put into eight bits"
    assert found["eight_bit_all"] > 0
