"""Which device and number format a local model runs in, and how it is told that its memory is full.

The choice is part of a model's identity, so it is made from what the machine says about itself and,
on a machine without an accelerator, without importing torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chains.errors import EnvironmentLacks
from chains.spec import Model

# Without these, bf16 products are emulated and slower than float32 ones (x86: AVX-512 BF16, AMX; Arm: BF16).
BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})


def device_of(model: Model) -> str:
    """Return `cpu`, `cuda` or `mps` for a model whose `device` may be `auto`."""
    if model.device != "auto":
        if model.device != "cpu" and model.device not in accelerators():
            raise EnvironmentLacks(
                f"There is no device '{model.device}' on this machine.",
                hint="Set `device: auto` or `device: cpu`.",
            )
        return model.device
    return (accelerators() or ["cpu"])[0]


def accelerators() -> list[str]:
    """Return the devices of this machine beside the CPU, the best one first."""
    nvidia, apple = Path("/dev/nvidiactl").exists(), Path("/System/Library").exists()
    if not (nvidia or apple):
        return []
    import torch

    found = ["cuda"] if torch.cuda.is_available() else []
    return [*found, "mps"] if apple and torch.backends.mps.is_available() else found


def cpu_multiplies_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU has instructions for bfloat16; False where that cannot be told."""
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return not BF16_FLAGS.isdisjoint(flags.split())


def dtype_of(model: Model, *, embedder: bool, device: str) -> str:
    """Return the number format for a model whose `dtype` may be `auto`.

    Embedding: bfloat16 wherever the hardware multiplies it (measured on all-MiniLM-L6-v2: 1.75 times as
    fast, top-10 overlap with float32 0.994), else float32. Chat: bfloat16 on an accelerator, float32 on a
    CPU, where greedy answers should not depend on rounding.
    """
    if model.dtype != "auto":
        return model.dtype
    if device != "cpu":
        return "bfloat16"
    return "bfloat16" if embedder and cpu_multiplies_bf16() else "float32"


def torch_dtype(name: str) -> Any:
    """Return torch's dtype for a name; int8 weights are made from float32 ones."""
    import torch

    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(name, torch.float32)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device has no memory left; on MPS it is a plain RuntimeError."""
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "out of memory" in str(error)
    )


def free_unused() -> None:
    """Give back what torch keeps of a device's memory without using it."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_text() -> str:
    """Return how much memory the device has and how much of it is taken, in words."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        return f"the GPU has {total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB of them free"
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return f"this process has held up to {most:.1f} GiB"
