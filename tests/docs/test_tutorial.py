"""The tutorial notebook, from top to bottom in a kernel of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import ROOT, python_path

NOTEBOOK = ROOT / "docs" / "tutorial.ipynb"


@pytest.fixture
def notebook():
    nbformat = pytest.importorskip("nbformat", reason="nbformat isn't installed (pip install ifan_plugin[dev])")
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_committed_without_outputs(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.slow
def test_it_runs_from_top_to_bottom(notebook, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="nbclient isn't installed (pip install ifan_plugin[dev])")
    pytest.importorskip("ipykernel", reason="ipykernel isn't installed (pip install ifan_plugin[dev])")
    monkeypatch.setenv("PYTHONPATH", python_path())
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setitem(os.environ, "MPLBACKEND", "module://matplotlib_inline.backend_inline")
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=500, kernel_name="python3", resources=resources).execute()
    outputs = [one for cell in notebook.cells if cell.cell_type == "code" for one in cell.outputs]
    pictures = [one for one in outputs if "image/png" in one.get("data", {})]
    assert len(pictures) == 3, "patches, before and after, filters"
    assert "dB PSNR" in "".join(one.get("text", "") for one in outputs)
    assert Path(tmp_path, "experiments", "tutorial", "models", "net_g_latest.pth").is_file()
