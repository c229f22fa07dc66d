"""A panel under a cell, to try things by hand: every knob with its help, a button, the clip, and the Python for it.

Its parts are files of this folder: `form` (the controls and what they say), `setup_marks` (which setups fit), `worker`
(makes clips in the background), `history` (plays what was made). Each clip leaves a row and an MP4 in a folder.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from svdlab.interface.panel.form import Form
from svdlab.interface.panel.history import History
from svdlab.interface.panel.widgets import Alert, page, w
from svdlab.interface.panel.worker import ClipWorker
from svdlab.request import Request
from svdlab.setup import Setup
from svdlab.sweeps.grid import Trial

_TEMPLATE = Path(__file__).parents[1] / "templates" / "panel.html"


def panel(setup: Setup | None = None, request: Request | None = None, *, results: str | Path | None = None) -> Panel:
    """Controls for one clip after another, shown as the last expression of a cell.

    Needs ipywidgets, and a page in JupyterLab, VS Code or Colab. No weights are loaded before Generate is pressed.

    Args:
        setup: to begin with; None takes the bundled model, with nothing to download.
        request: to begin with; None takes the defaults, on the bundled picture "rocket".
        results: the folder for rows and clips, which `read_rows` reads; None takes "results/panel".

    Returns:
        The panel. Keep it, and go on in Python with `clips`, `rows` and `request`.

    Example:
        >>> from svdlab import panel
        >>> tried = panel()
        >>> tried.request.motion_bucket_id
        127
    """
    return Panel(setup, request or Request(image="rocket"), results)


class Panel(w.VBox):
    """What `panel` returns: shown as the last expression of a cell, and used from Python.

    `request` and `setup` are what the controls say now. `rows` and `clips` are what was made, oldest first; a clip is
    read from its file when it is asked for. `generate()` and `cancel()` press the buttons. `restore(path)` brings back
    the settings of a saved clip. `controls` holds the controls by name: `tried.controls["seed"].value = 3`.
    """

    def __init__(self, setup: Setup | None, request: Request, results: str | Path | None = None) -> None:
        self.alert, start = Alert(), setup or Setup(request.variant or "tiny")
        self.form = Form(request.filled(start.variant), start, setup is not None, self.alert)
        self.controls = self.form.controls
        self.history = History(self.controls["playback_fps"], self.alert, self.form.fill)
        self.rows, self.clips = self.history.rows, self.history.clips
        self.worker = ClipWorker(self.generate, self.history.add, self.alert, results)
        self.cancel, self.restore = self.worker.cancel, self.form.restore
        identity = secrets.token_hex(8)
        script = w.Output(outputs=page(_TEMPLATE.read_text(encoding="utf-8").replace("{{id}}", identity)))
        hidden = w.VBox([self.form.dropped, script], layout=w.Layout(display="none"))
        super().__init__(
            [self.form, self.worker, self.alert, self.worker.preview, *self.history.widgets, hidden],
            _dom_classes=["svdlab-panel", f"svdlab-{identity}"],
        )

    @property
    def request(self) -> Request:
        """The request that the controls say now, complete."""
        return self.form.request

    @property
    def setup(self) -> Setup:
        """The setup that is chosen now."""
        return self.form.setup

    def generate(self) -> None:
        """Begin to make what the controls say; it goes on in the background."""
        with self.alert.catch():
            if self.worker.go.disabled:
                raise RuntimeError("One clip at a time: wait for the one that is being made, or cancel it.")
            if not self.controls["lock"].value:
                self.form.roll_seed()
            self.worker.start(Trial(self.setup, self.request), self.form.fitted_picture)
