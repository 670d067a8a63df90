"""The notebook of docs/examples, carried out by a kernel in an empty folder."""

from __future__ import annotations

import jupytext
import pytest
from nbclient import NotebookClient
from workspace import CACHE, ROOT

SOURCE = ROOT / "docs" / "examples" / "notebook.py"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_draws_its_curves_and_ends_in_a_study(tmp_path, monkeypatch):
    for name, value in (CACHE | {"PYTHONPATH": str(ROOT)}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    notebook = jupytext.read(SOURCE)
    client = NotebookClient(
        notebook,
        timeout=200,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any("image/png" in out.get("data", {}) for out in outputs)
    texts = [out["data"]["text/plain"] for out in outputs if "data" in out]
    assert any(text.startswith("{'none': <Run ") for text in texts)
    ours, told = next(eval(text) for text in texts if text.startswith("(0."))
    assert ours == pytest.approx(told, abs=1e-6)
    assert any("Batch norm converges in fewer steps" in text for text in texts)
    printed = "".join(out["text"] for out in outputs if out["output_type"] == "stream")
    assert "compiling" in printed and "step    200" in printed
    assert (tmp_path / "results" / "report-exploratory").is_dir()
