"""`bench.launches` counts whole frames, which nobody else runs with tensors of shapes alone."""

import pytest
import torch

from bench.launches import count, kind_of


def test_each_way_to_run_a_frame_is_counted_and_asks_for_no_more_than_the_one_before() -> None:
    with torch.no_grad():
        counted = count("tiny", 64, (32,), 2, "cpu")
    found = {way: row["all"] for way, row in counted["ways"].items()}
    assert found["twin"] > found["fused"] > found["prepared"] > found["whole"] == found["tuned"] > found["change"] > 0
    assert found["eight_bit"] > found["whole"], "numbers are put into eight bits"
    assert found["eight_bit_all"] > 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x64_4x1x1_cga1x1x1", "attention"),
        ("sm90_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x64x64", "convolution"),
        ("void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16_64x64", "convolution"),
        ("aten.convolution", "convolution"),
        ("nvjet_sm90_hsh_64x16_64x16_2x4_h_bz_TNT", "product"),
        ("group_norm_sums", "norm"),
        ("biased_sum_values", "pointwise"),
    ],
)
def test_a_kernel_is_of_the_kind_that_it_computes(name: str, kind: str) -> None:
    assert kind_of(name) == kind
