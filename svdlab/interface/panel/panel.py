"""A panel under a cell, to try things by hand: every knob with its help, a button, the clips, and the Python for each.

Its parts are files of this folder: `form` (the controls and what they say), `picture` (where it comes from, its crop),
`setup_marks` (which setups fit), `worker` (makes clips in the background), `history` (plays what was made). Each clip
leaves a row and an MP4 in a folder.
"""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

from svdlab.interface.panel.form import TEXTS, Form
from svdlab.interface.panel.history import History
from svdlab.interface.panel.widgets import Alert, figure, page, w
from svdlab.interface.panel.worker import ClipWorker
from svdlab.media.images import data_url
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.row_preview import read_preview
from svdlab.setup import Setup
from svdlab.variants import VARIANTS

_TEMPLATE = Path(__file__).parents[1] / "templates" / "panel.html"


def panel(setup: Setup | None = None, request: Request | None = None, *, results: str | Path | None = None) -> Panel:
    """Controls for one clip after another, shown as the last expression of a cell.

    Needs ipywidgets (`pip install "svdlab[notebooks]"`), and a page in JupyterLab, VS Code or Colab. No weights are
    loaded before Generate is pressed.

    Args:
        setup: to begin with; None takes the bundled model, with nothing to download.
        request: to begin with; None takes the defaults, on the bundled picture "rocket".
        results: the folder for rows and clips, which `read_rows` reads; None takes "results/panel".

    Returns:
        A `Panel`. Keep it, and go on in Python. `request` and `setup` are what the controls say now; `rows` and `clips`
        are what this panel has made, oldest first. `generate()` presses the button and returns at once;
        `worker.future.result()` waits for a clip that has begun. What goes wrong is told on the panel. The same
        settings make the clip anew, in place of the old file. `cancel()` stops a clip; `restore(path)` sets the
        controls as for a saved one. The model stays loaded, for `run` too, until `unload_cached()`.

    Raises:
        ImportError: ipywidgets is missing.
        ValueError: the request was filled in for another variant than the setup's.

    Example:
        >>> from svdlab import panel
        >>> page = panel()
        >>> page.request.motion_bucket_id
        127
    """
    return Panel(setup, request or Request(image="rocket"), results)


class Panel(w.VBox):
    """What `panel` returns: shown as the last expression of a cell, and used from Python.

    `request` and `setup` are what the controls say now. `rows` and `clips` are what was made, oldest first; a clip is
    read from its file when it is asked for. `generate()` and `cancel()` press the buttons. `restore(path)` brings back
    the settings of a saved clip. Its `controls` are widgets by name: `page.controls["seed"].value = 3`.
    """

    def __init__(self, setup: Setup | None, request: Request, results: str | Path | None = None) -> None:
        self.alert, start = Alert(), setup or Setup(request.variant or "tiny")
        self.form = Form(request.filled(start.variant), start, setup is not None, self.alert)
        self.controls = c = self.form.controls
        self.history = History(c["playback_fps"], self.alert, self.form.fill)
        self.rows, self.clips = self.history.rows, self.history.clips
        self.worker = ClipWorker(self.generate, c["clips"], self._add, self.alert, results)
        self.cancel, self.restore = self.worker.cancel, self.form.restore
        self._identity, self._is_displayed, self._confirmed = secrets.token_hex(8), False, ("", None)
        values = {"id": self._identity, "help": json.dumps(dict(TEXTS.values()))}
        # A crop may keep half of a picture, and a request may ask for more than a variant's own size.
        values |= {side: str(2 * max(getattr(v, side) for v in VARIANTS.values())) for side in ("width", "height")}
        template = _TEMPLATE.read_text(encoding="utf-8")
        for name, value in values.items():
            template = template.replace(f"{{{{{name}}}}}", value)
        hidden = w.VBox([self.form.picture.inbox, w.Output(outputs=page(template))])
        hidden.layout.display = "none"
        super().__init__(
            [self.form, self.worker, self.alert, self.worker.preview, *self.history.widgets, hidden],
            _dom_classes=["svdlab-panel", f"svdlab-{self._identity}"],
        )

    def __repr__(self) -> str:  # what a page without widgets shows, up to 110 letters
        return "A panel of controls. It needs a running kernel and a page that shows widgets: docs/where.md"

    @property
    def request(self) -> Request:
        """The request that the controls say now, complete."""
        return self.form.request

    @property
    def setup(self) -> Setup:
        """The setup that is chosen now."""
        return self.form.setup

    def generate(self) -> None:
        """Begin to make what the controls say; it goes on in the background, and one after another.

        Where that takes a download or hours, the first call says so, and the second one begins.
        """
        with self.alert.catch():
            if self.form.picture.incoming:
                raise ValueError(f"{self.form.picture.incoming} is still on its way: wait, or choose another picture.")
            trials, warning = self.form.trials(), self.form.marks.warning(self.setup)
            if warning and self._confirmed != (warning, self.setup):
                self._confirmed = warning, self.setup
                self.worker.tell(f"{self.setup.variant}: {warning}. Press Generate again to begin.")
            else:
                self.worker.start(trials, self.form.fitted_picture)

    def _add(self, row: Row, setup: Setup) -> None:
        self.history.add(row, setup)
        if self._is_displayed:
            self._display_still(update=True)

    def _ipython_display_(self, **options: Any) -> None:
        """Show a picture of the panel, then the panel, whose page hides it: in exports and without trust it remains."""
        from IPython.display import display

        self._display_still(update=self._is_displayed)
        self._is_displayed = True
        if of_ipywidgets_7 := getattr(super(), "_ipython_display_", None):
            of_ipywidgets_7(**options)
        else:
            display((self._repr_mimebundle_() or {}) | {"text/plain": ""}, raw=True)

    def _display_still(self, update: bool) -> None:
        from IPython.display import display

        picture = self.form.picture
        flat = 'style="margin: 0"'  # on the element: untrusted notebooks lose style sheets
        pictures = figure(self.form.fitted_picture, f"{picture.name}, as the model sees it", 256, flat)
        if self.rows and (preview := read_preview(self.rows[-1])):  # which plays in an <img>, without trust
            clip = f'<img width="256" src="{data_url("image/webp", preview)}" alt="The last clip that was made">'
            pictures += f"<figure {flat}>{clip}<figcaption>The last clip that was made</figcaption></figure>"
        words = "The panel's controls need a running kernel, and a notebook that is trusted: run this cell."
        html = f'<div class="svdlab-still-{self._identity}"><p><small>{words}</small></p>'
        html += f'<div style="display: flex; flex-wrap: wrap; gap: 16px">{pictures}</div></div>'
        display({"text/html": html, "text/plain": words}, raw=True, display_id=self._identity, update=update)
