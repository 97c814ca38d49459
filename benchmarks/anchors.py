"""How fast the machine is right now: what a comparison of times taken at other times rests on."""

import json
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch.nn import functional


def best_seconds(work: Callable[[], object], times: int) -> float:
    """Return the shortest time that some work takes."""
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best


@torch.inference_mode()
def anchors() -> dict[str, float]:
    """Return GFLOP/s of a matrix product and of a convolution, and GB/s read of a copy.

    The product is of 2048×2048, in float32; the convolution 3×3 from 256 to 256 channels on 20
    images of 37×37, in channels_last; the copy of 256 MB.
    """
    matrix = torch.randn(2048, 2048)
    found = {"matmul_gflops": 2e-9 * 2048**3 / best_seconds(lambda: matrix @ matrix, 10)}
    for name, dtype in (("conv_f32_gflops", torch.float32), ("conv_bf16_gflops", torch.bfloat16)):
        images = torch.randn(20, 256, 37, 37, dtype=dtype)
        kernel = torch.randn(256, 256, 3, 3, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)
        kernel = kernel.to(memory_format=torch.channels_last)
        operations = 2 * 20 * 37 * 37 * 256 * 256 * 9
        seconds = best_seconds(partial(functional.conv2d, images, kernel, padding=1), 5)
        found[name] = 1e-9 * operations / seconds
    source = torch.zeros(64_000_000)
    target = torch.empty_like(source)
    found["copy_gb_per_second"] = 0.256 / best_seconds(lambda: target.copy_(source), 5)
    return {name: round(value, 1) for name, value in found.items()}


if __name__ == "__main__":
    anchors()  # the first calls choose kernels and get memory
    print(json.dumps(anchors()))
