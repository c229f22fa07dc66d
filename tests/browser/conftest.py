"""A real JupyterLab and a real Chromium, one of each for the session.

`lab.put("x.ipynb", cells)` writes a notebook, `page = lab.open("x.ipynb")` opens it, `lab.run_all(page)` runs it.
Screenshots go to the folder in SVDLAB_SCREENSHOTS, to be looked at; without it they are not kept.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
# no GPU, no background requests: nothing but the page under test talks
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TIMEOUT_SECONDS = 120  # opening and running a notebook took 22 on two cores that others were using too
# JupyterLab's own signs say "idle" before there is a kernel, and running then asks which kernel is meant
KERNEL_READY = """() => {
  const { context } = jupyterapp.shell.currentWidget;
  context.ready.then(() => context.sessionContext.ready)
    .then(() => context.sessionContext.session.kernel.info).then(() => { window.kernelReady = true });
}"""


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium: the one named by CHROMIUM, or on the path."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no Chromium: install Debian's chromium, or name one in CHROMIUM")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install playwright"
    )
    with playwright.sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@contextmanager
def _checked_page(browser, height: int = 900) -> Iterator[Any]:
    page = browser.new_page(viewport={"width": 1280, "height": height})
    page.set_default_timeout(TIMEOUT_SECONDS * 1000)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(f"script error: {error}"))
    page.on("dialog", lambda dialog: (page.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on(
        "request", lambda request: _is_local(request.url) or page.complaints.append(f"asked for {request.url[:200]}")
    )
    yield page
    complaints = list(page.complaints)
    page.close()
    assert complaints == []


@pytest.fixture(scope="session")
def checked_page(browser) -> Any:
    """`with checked_page() as page`: fails if a script on it raised, opened a dialog, or asked for anything outside."""
    return partial(_checked_page, browser)


@pytest.fixture
def page(checked_page) -> Iterator[Any]:
    """An empty page that is checked."""
    with checked_page() as page:
        yield page


def _is_local(url: str) -> bool:
    return url.startswith(("data:", "blob:", "file:", "about:", "http://127.0.0.1:", "ws://127.0.0.1:"))


class Lab:
    """A JupyterLab server on loopback that has never trusted a notebook."""

    def __init__(self, home: Path) -> None:
        self.files = home / "files"
        self.files.mkdir()
        settings = home / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
        self.environment = {
            **os.environ,
            "HOME": str(home),
            "IPYTHONDIR": str(home / "ipython"),
            "JUPYTER_CONFIG_DIR": str(home / "config"),
            "JUPYTER_DATA_DIR": str(home / "data"),  # holds the signatures of trusted notebooks
            "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
            "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
            "PYTHONPATH": str(ROOT),
        }
        self.token = "for-tests-only"
        self.log = (home / "log.txt").open("w+")
        self.server = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"),
                *(f"--ServerApp.token={self.token}", f"--ServerApp.root_dir={self.files}"),
                *("--ServerApp.terminals_enabled=False", "--LabApp.expose_app_in_browser=True"),
                "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
            ],
            env=self.environment,
            cwd=home,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.url = self._wait_for_url(home / "runtime")

    def _wait_for_url(self, runtime: Path) -> str:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < deadline and self.server.poll() is None:
            for file in runtime.glob("jpserver-*.json"):  # written once the port is known
                server = json.loads(file.read_text() or "{}")
                if server.get("port"):
                    return f"http://127.0.0.1:{server['port']}"
            time.sleep(0.2)
        self.stop()
        raise RuntimeError("JupyterLab did not start:\n" + Path(self.log.name).read_text()[-3000:])

    def put(self, name: str, cells: list[str]) -> Path:
        """A notebook of these code cells, not yet run, in the server's folder."""
        import nbformat
        from nbformat import v4

        path = self.files / name
        # without a kernelspec JupyterLab asks which kernel is meant
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells], metadata=metadata), path)
        return path

    def open(self, page: Any, name: str, theme: str = "JupyterLab Light") -> Any:
        """The notebook in `page`, its kernel ready."""
        page.goto(f"{self.url}/lab/tree/{name}?token={self.token}&reset")
        page.wait_for_function("window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
        page.evaluate("() => { jupyterapp.restored.then(() => { window.restored = true }) }")
        page.wait_for_function("window.restored")
        self.execute(page, "apputils:change-theme", theme=theme)
        page.wait_for_function("jupyterapp.shell.currentWidget?.context")  # on a busy machine later than its cells
        page.evaluate(KERNEL_READY)
        page.wait_for_function("window.kernelReady")
        return page

    def execute(self, page: Any, command: str, **arguments: str) -> None:
        """Runs a command of JupyterLab to its end; what the page does not keep, Chromium may collect meanwhile."""
        page.evaluate(
            """([command, args]) => {
                window.executed = false;
                jupyterapp.commands.execute(command, args).then(() => { window.executed = true });
            }""",
            [command, arguments],
        )
        page.wait_for_function("window.executed")

    def run_all(self, page: Any) -> None:
        """Runs every cell and waits for the last to end; an `AssertionError` with the traceback where one failed."""
        self.execute(page, "notebook:run-all-cells")
        errors = page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'] pre")
        traceback = errors.all_inner_texts()
        assert not any("Traceback" in text for text in traceback), "\n".join(traceback)

    def stop(self) -> None:
        self.server.terminate()
        try:
            self.server.wait(20)
        except subprocess.TimeoutExpired:
            self.server.kill()
        self.log.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed: pip install 'svdlab[notebooks]'")
    lab = Lab(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.stop()


@pytest.fixture
def screenshot() -> Any:
    """`screenshot(page, "name")`: a PNG to be looked at, where SVDLAB_SCREENSHOTS names a folder."""
    folder = os.environ.get("SVDLAB_SCREENSHOTS")

    def save(page: Any, name: str) -> None:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=str(Path(folder) / f"{name}.png"))

    return save
