"""The panel with the widgets that Colab has: ipywidgets 7 on an old kernel, in the classic notebook of that time."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ROOT = Path(__file__).parents[2]
PYTHON = ROOT / "build" / "colab" / "bin" / "python"
CELL = 'from svdlab import panel\nclip_panel = panel(results="clips")\nclip_panel'
CLIP_SHOWN = "() => document.querySelectorAll('.svdlab-panel video').length > 0"


@pytest.fixture(scope="module")
def classic(tmp_path_factory) -> Iterator[str]:
    """The address of a classic notebook server in Colab's environment, with one notebook."""
    if not PYTHON.exists():
        pytest.skip("no environment like Colab's: make test-colab")
    import nbformat
    from nbformat import v4

    home = tmp_path_factory.mktemp("classic")
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(CELL)], metadata=metadata), home / "panel.ipynb")
    folders = {name: str(home / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    environment = {**os.environ, **folders, "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "PYTHONPATH": str(ROOT)}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(PYTHON), "-m", "notebook", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    log = (home / "log.txt").open("w+")
    command += ["--NotebookApp.token=for-tests-only", f"--notebook-dir={home}"]
    server = subprocess.Popen(command, env=environment, cwd=home, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait_for(port, server, home / "log.txt")
        yield f"http://127.0.0.1:{port}/notebooks/panel.ipynb?token=for-tests-only"
    finally:
        server.terminate()
        server.wait(20)
        log.close()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.2)
    raise RuntimeError("The classic notebook did not start:\n" + log.read_text()[-3000:])


def test_the_panel_makes_a_clip(classic: str, browser: Any, screenshot: Any):
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.set_default_timeout(180_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(classic)
    page.wait_for_function("() => window.Jupyter?.notebook?.kernel?.is_connected()")
    page.evaluate("() => Jupyter.notebook.execute_all_cells()")
    page.wait_for_selector(".svdlab-panel[data-ready]")
    panel = page.locator(".svdlab-panel")
    panel.locator(".widget-slider").first.wait_for()
    screenshot(page, "panel-ipywidgets-7")
    panel.get_by_role("button", name="Generate", exact=True).click()
    page.wait_for_function(CLIP_SHOWN)
    screenshot(page, "panel-ipywidgets-7-clip")
    page.close()
    assert errors == []
