"""The clips that a panel has made: the player, the files to download, the Python, stars, notes, and the settings back.

Clips stay in their files and are read when they are shown, since the frames of one at full size take 44 MB.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdlab.generation.clip import Clip
from svdlab.interface.make_again import python_lines
from svdlab.interface.panel.widgets import Alert, Button, assign, by_program, figure, page, w, when_changed
from svdlab.interface.row_labels import row_labels
from svdlab.media.images import data_url
from svdlab.media.show import show
from svdlab.request import Request
from svdlab.rows.row import Row
from svdlab.rows.row_note import read_note, write_note
from svdlab.setup import Setup

if TYPE_CHECKING:
    from svdlab.quality.diagnose import Finding

_GIF_BYTES = 8_000_000  # what a page carries with ease, and most messengers take
_COPY = '<button type="button" class="jupyter-button" title="To paste into a cell">Copy</button>'


class _SavedClips(Sequence):
    """The clips of rows; each is read from its file when it is indexed."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        rows = self._rows[index]
        return [row.open() for row in rows] if isinstance(rows, list) else rows.open()


class History:
    """What was made in this session, oldest first: `rows`, and `clips`, whose frames are read on demand.

    `widgets` are what a page shows of it. Clips that are ticked play side by side; else the latest plays.
    """

    def __init__(self, playback_fps: w.IntSlider, alert: Alert, restore: Callable[[Request, Setup], None]) -> None:
        self.rows: list[Row] = []
        self.clips: Sequence[Clip] = _SavedClips(self.rows)
        self._setups: list[Setup] = []  # as they were asked for: a row's has everything filled in
        self._playback_fps, self._alert, self._restore, self._index = playback_fps, alert, restore, 0
        self.player, self.files, self.code = w.Output(), w.HTML(), w.HTML()
        self.gif = Button("Make a GIF", "A GIF to download", lambda: self._make_link(self.gif, ".gif"))
        self.mp4 = Button("Make an MP4", "An MP4 at this speed", lambda: self._make_link(self.mp4, ".mp4"))
        self.gif.layout.display = self.mp4.layout.display = "none"
        self.cards = w.Box().add_class("svdlab-history")
        self.diagnose = Button("Diagnose", "What is wrong with this clip, and what to change", self._diagnose)
        self.diagnose.layout.display = "none"
        self.findings = w.VBox().add_class("svdlab-diagnosis")
        files = w.HBox([self.files, self.mp4, self.gif, self.diagnose]).add_class("svdlab-files")
        self.widgets = [self.player, playback_fps, files, self.findings, self.code, self.cards]
        playback_fps.layout.display = "none"  # until there is something to play
        when_changed(playback_fps, lambda _: self._show())

    def add(self, row: Row, setup: Setup) -> None:
        """Keep a row, whose setup has everything filled in, with the setup as it was asked for, and show its clip."""
        self.rows[:] = [row if other.key == row.key else other for other in self.rows]  # its file was written anew
        self.rows.append(row)
        self._setups.append(setup)
        number, request = len(self.rows), row.request

        def restore() -> None:
            with self._alert.catch():
                self._restore(request, setup)

        check = w.Checkbox(description=f"Show clip {number}", indent=False, layout=w.Layout(width="auto"))
        check.tooltip = "Two or more that are ticked play side by side, in step"
        when_changed(check, lambda _: self._show())
        with by_program():
            for card in self.cards.children:
                card.children[1].value = False
        caption = f"{number}: bucket {request.motion_bucket_id}, seed {request.seed}"
        back = Button("Restore", f"Bring back the settings of clip {number}", restore)
        thumbnail = w.HTML(figure(row.open().frames[-1], caption, 160))
        self.cards.children = (*self.cards.children, w.VBox([thumbnail, check, w.HBox(self._notes(row, number)), back]))
        if number == 1:  # at its own speed; from then on it is the player's, whatever the controls are set to
            assign(self._playback_fps, max=max(30, request.fps), value=request.fps)
            self._playback_fps.layout.display = ""
        self._show()

    def _notes(self, row: Row, number: int) -> list[w.Widget]:
        """A star and a note, which `review` reads from beside the row."""
        folder = Path(row.clip or "").parent
        note = read_note(folder, row.key)
        star = w.ToggleButton(value=note.star, icon="star", layout=w.Layout(width="36px"))
        star.tooltip = f"A star for clip {number}"
        text = w.Text(note.text, placeholder="note", continuous_update=False, layout=w.Layout(width="120px"))
        text.tooltip = f"A note on clip {number}, kept beside it"

        def keep(**change: Any) -> None:
            with self._alert.catch():  # what another card or kernel wrote meanwhile stays
                write_note(folder, row.key, dataclasses.replace(read_note(folder, row.key), **change))

        when_changed(star, lambda value: keep(star=value))
        when_changed(text, lambda value: keep(text=value))
        return [star, text]

    def _show(self) -> None:
        """Play the ticked clips side by side; a single one comes with its files and its code."""
        if not self.rows:
            return
        with self._alert.catch(keep=True):  # somebody may have deleted the files
            chosen = [i for i, card in enumerate(self.cards.children) if card.children[1].value] or [len(self.rows) - 1]
            rows, fps = [self.rows[i] for i in chosen], self._playback_fps.value
            clips = {f"{i + 1}: {label}": self.clips[i] for i, label in zip(chosen, row_labels(rows), strict=True)}
            self.player.outputs = page(show(clips, fps=fps).html)
            self._index, row, is_single = chosen[0], rows[0], len(rows) == 1
            is_saved = is_single and fps == row.request.fps  # the file in the folder plays at this speed
            self.gif.layout.display = "" if is_single else "none"
            self.mp4.layout.display = "" if is_single and not is_saved else "none"
            link = f"{self._link('.mp4', Path(row.clip or '').read_bytes())}, " if is_saved else ""
            self.files.value = f"{link}saved as {escape(str(row.clip))}" if is_single else ""
            code = escape(python_lines(row, self._setups[self._index], fps))
            block = f"<details open><summary>The Python for this clip</summary><pre>{code}</pre>{_COPY}</details>"
            self.code.value = block if is_single else ""
            self.diagnose.layout.display, self.findings.children = "" if is_single else "none", []

    def _diagnose(self) -> None:
        """Show what is wrong with the clip; a finding with a remedy has a button that puts it into the controls."""
        from svdlab.quality.diagnose import diagnose  # its libraries take seconds

        with self._alert.catch():
            request = self.rows[self._index].request  # with the original picture, which the file has not
            findings = diagnose(dataclasses.replace(self.clips[self._index], request=request))
            self.findings.children = [*map(self._line, findings)] or [w.Label(repr(findings))]

    def _line(self, finding: Finding) -> w.Widget:
        request, setup = self.rows[self._index].request, self._setups[self._index]

        def apply() -> None:
            with self._alert.catch():
                self._restore(finding.apply(request), finding.apply(setup))
                button.description = "Applied"

        symptom, words = escape(str(finding)).split(": ", 1)
        text = w.HTML(f"<strong>{symptom}</strong>: {words.replace('  -&gt;', '<br>→')}")
        button = Button("Apply", "Put this into the controls, for the next clip", apply)
        return w.HBox([text, button] if finding.changes or finding.setup_changes else [text])

    def _make_link(self, button: Button, suffix: str) -> None:
        """Offer the clip at the playback speed, in place of the button that was pressed."""
        with self._alert.catch(), tempfile.TemporaryDirectory() as folder:
            options = {"max_bytes": _GIF_BYTES} if suffix == ".gif" else {}
            file = self.clips[self._index].save(Path(folder) / f"clip{suffix}", self._playback_fps.value, **options)
            self.files.value += f"<br>{self._link(suffix, file.read_bytes())}"
            button.layout.display = "none"

    def _link(self, suffix: str, data: bytes) -> str:
        url = data_url("image/gif" if suffix == ".gif" else "video/mp4", data)
        label = f"Download {suffix[1:].upper()}, {len(data) / 1e6:.2f} MB"
        return f'<a download="{self.rows[self._index].key}{suffix}" href="{url}">{label}</a>'
