"""What memory there is, and what a failed allocation looks like."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from helpers import ROOT
from iac_cases import compiled

from ifan_plugin.inference import memory


def test_a_failed_allocation_is_told():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**52)
    assert memory.is_out_of_memory(caught.value)
    assert memory.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(
        RuntimeError(
            'torch_call_dispatcher( "aten::new_empty", "", stack.data(), TORCH_ABI_VERSION) API call failed at …'
        )
    )
    assert not memory.is_out_of_memory(RuntimeError("expected 3 channels"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


@pytest.mark.skipif(not Path("/proc/meminfo").is_file(), reason="free memory is read from Linux's /proc")
def test_free_bytes_are_less_than_there_are():
    total = memory._field(Path("/proc/meminfo"), "MemTotal")
    assert 0 < memory.budget(torch.device("cpu")) < memory.free_bytes(torch.device("cpu")) <= total


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups(tmp_path, version):
    """The group itself and those above it; memory that files are cached in can be had back."""
    if version == 2:
        line, base, names = "0::/a/b", tmp_path, ("memory.max", "memory.current", "inactive_file")
    else:
        line, base = "4:cpu,memory:/a/b", tmp_path / "memory"
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for folder, limit, usage in (("a/b", "max" if version == 2 else str(2**62), "300"), ("a", "1000", "400")):
        (base / folder).mkdir(parents=True, exist_ok=True)
        (base / folder / names[0]).write_text(f"{limit}\n")
        (base / folder / names[1]).write_text(f"{usage}\n")
        (base / folder / "memory.stat").write_text(f"anon 5\n{names[2]} 50\n")
    membership = tmp_path / "cgroup"
    membership.write_text(f"7:cpuset:/elsewhere\n{line}\n")
    assert min(memory._group_bounds(tmp_path, membership)) == 1000 - 400 + 50
    assert memory._group_bounds(tmp_path, tmp_path / "missing") == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from Linux's /proc")
def test_bytes_per_pixel_see_freed_memory_used_again():
    def run(lq):
        return lq.repeat(1, 64, 1, 1).mean(1, keepdim=True)

    example = torch.rand(1, 3, 256, 256)
    first, again = (memory.bytes_per_pixel(run, example, torch.device("cpu")) for _ in range(2))
    for found in (first, again):
        assert 0.8 * 4 * 3 * 64 < found < 3 * 4 * 3 * 64


@compiled
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as on Linux")
def test_a_compiled_operators_shortage_is_told():
    """Its allocations pass libtorch's C interface, which under torch 2.11 has words of its own for that."""
    program = """
        import resource
        import torch
        from ifan_plugin.common import machine
        from ifan_plugin.inference import memory
        from ifan_plugin.ops import iac
        x, filters = torch.rand(1, 8, 1000, 1000), torch.rand(1, 56, 1000, 1000)
        iac(x[..., :4, :4], filters[..., :4, :4], 1, backend="cpu")
        used = memory._field(memory.Path("/proc/self/status"), "VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, resource.RLIM_INFINITY))
        try:
            iac(x, filters, 1, backend="cpu")
        except RuntimeError as error:
            assert memory.is_out_of_memory(error), error
            print(machine.explain(error))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out of memory")
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the address space is limited as on Linux")
def test_a_real_shortage_halves_the_tile():
    """In a process of its own with a limited address space: the whole doesn't fit, tiles do."""
    program = """
        import logging, resource, sys
        import torch
        from torch import nn
        from ifan_plugin.inference import memory, run_network
        torch.set_num_threads(1)
        logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
        class Wide(nn.Module):
            multiple_of = 8
            def forward(self, lq):
                return lq.repeat(1, 200, 1, 1).view(len(lq), 200, 3, *lq.shape[-2:]).mean(1)
        lq = torch.rand(1, 3, 600, 600)
        run_network(Wide(), lq[..., :64, :64])
        used = memory._field(memory.Path("/proc/self/status"), "VmSize")
        resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, resource.RLIM_INFINITY))
        for tile in (600, "auto"):
            restored = run_network(Wide(), lq, tile=tile)
            assert torch.allclose(restored, lq, atol=1e-5)
            print("done", tile)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("Out of memory at a picture of 600x600 pixels as a whole; going on with tiles of 300")
    assert lines[-2:] == ["done 600", "done auto"], "measured first, the automatic tile fits at once"
