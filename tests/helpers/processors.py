"""Processors that this one can stand for: kernels are chosen, and numbers rounded, by what the processor can do.

A result that depends on them is not wrong, but a test that only passes with some of them is. ``pytest --processor
NAME`` runs the tests with the kernels of another; the variables have to be set before torch is imported.
"""

from pathlib import Path

PROCESSORS = {
    "native": {},
    # AMD before Zen 4, Intel's laptops
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
    # What every processor with 64 bits has: rounds unlike all others
    "baseline": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    # Intel's servers; only where the processor has it
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512", "MKL_CBWR": "COMPATIBLE"},
}


def can_stand_for(name: str) -> bool:
    """Return whether this processor has the instructions, as far as Linux tells."""
    needed = {"avx2": "avx2", "avx512": "avx512f"}.get(name)
    known = Path("/proc/cpuinfo")
    return needed is None or not known.exists() or needed in known.read_text().split()
