"""The memory of TPUs, and how a kernel is compiled for them."""

from __future__ import annotations

from typing import Any

from ...devices import Device

MIB = 2**20

VMEM: dict[str, int] = {
    "TPU v4": 16 * MIB,
    "TPU v5 lite": 128 * MIB,
    "TPU v5e": 128 * MIB,
    "TPU v5": 64 * MIB,
    "TPU v5p": 64 * MIB,
    "TPU v6 lite": 128 * MIB,
    "TPU v6e": 128 * MIB,
    "TPU7x": 64 * MIB,
}
"""The bytes of vector memory that a core has, by `jax.Device.device_kind`."""

PART_FOR_ARRAYS = 5 / 8
"""The part of the vector memory that a kernel may fill with its arrays."""

PART_FOR_KERNELS = 7 / 8
"""The part that a kernel may ask for: XLA keeps arrays of other operations there too."""

INTERPRET: Any = False
"""What `pallas_call` takes for `interpret`; tests set it."""


def bytes_for_arrays(device: Device) -> int:
    """What the arrays of a kernel may take of the vector memory."""
    return int(VMEM[device.kind] * PART_FOR_ARRAYS)


def missing(device: Device) -> str | None:
    """What a kernel would need and this device or this JAX lacks, or `None`."""
    if device.kind not in VMEM:
        return f"its kernels are for {', '.join(VMEM)}, and this is {device.kind}"
    try:
        from jax.experimental.pallas import tpu
    except ImportError as error:
        return f"this JAX has no Pallas for TPUs: {error}"
    needed = "CompilerParams", "PrefetchScalarGridSpec", "VMEM"
    lacking = [name for name in needed if not hasattr(tpu, name)]
    return f"this JAX's Pallas for TPUs has no {lacking[0]}" if lacking else None


def options(device: Device, bytes_of_arrays: int) -> dict[str, Any]:
    """How a kernel is compiled: with memory for its arrays, and for what does not fit into
    registers."""
    from jax.experimental.pallas import tpu

    asked = bytes_of_arrays * 4 // 3 + 8 * MIB
    limit = min(asked, int(VMEM[device.kind] * PART_FOR_KERNELS))
    compiled = tpu.CompilerParams(vmem_limit_bytes=limit)
    return {"compiler_params": compiled, "interpret": INTERPRET}
