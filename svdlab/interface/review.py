"""Everything that was made, at a glance: a table of previews to filter, compare, star, delete, export and make again.

`review("results/motion")` as the last expression of a cell shows the table. Its methods do from Python what the table
does by mouse. Rows go by their key or its beginning.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import sys
from collections.abc import Collection, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from svdlab.interface.clip_wall import wall
from svdlab.interface.export import export_clips
from svdlab.interface.make_again import python_and_shell_lines
from svdlab.interface.row_labels import knobs, text_of
from svdlab.interface.row_page import embedded, render, rows_page
from svdlab.interface.study_folder import Entry, find_studies, read_entries
from svdlab.media.show import Shown
from svdlab.messages import first_line, shorten
from svdlab.quality.assess import difference
from svdlab.rows.deleted_rows import delete_row, deleted_keys, restore_row
from svdlab.rows.row import Row
from svdlab.rows.row_files import find_row
from svdlab.rows.row_note import write_note
from svdlab.rows.row_preview import read_preview

INSIDE_BYTES = 4 * 2**20  # of previews in one page, and of clips: notebooks stay light enough to save


def review(folders: str | Path | Iterable[str | Path], *, inside: bool | None = None) -> Review:
    """The rows of any studies as a table to filter, sort, star and note, with previews that play and clips to enlarge.

    Tick two to six rows to compare them in step, with scrubbing, the difference from the first, and measures. *Wall*
    shows the filtered rows in a grid of two knobs. Stars and notes can be written, and rows deleted, while the kernel
    runs.

    A filter has words and terms, and leaves the rows that meet all of them: `rocket seed=4 motion>0.6 bucket 100..180`.
    A term is a column, one of = != < > <= >=, and a value, or a column and a range with both its ends. A column goes by
    its name, or by one word of it: `bucket` is `motion_bucket_id`. Of text, = means that it is part of it. A bare
    word matches any column that contains it, a bare number a cell that equals it, and ★ the rows with a star.

    Args:
        folders: A study, which is the folder that `run` or `profile` wrote; a folder of studies; or several of these.
        inside: What the page itself holds. True: all clips and their previews (small and moving), so that the notebook
            exported as HTML plays them. False: neither; the running kernel sends each when it is looked at. That needs
            anywidget (`pip install "svdlab[notebooks]"`); without it the page has what it holds itself. Left out:
            previews up to 4 MiB, and the clips as well if all of them together take 4 MiB at most; the rest comes as
            with False.

    Returns:
        A `Review`, which shows itself as the last line of a cell. From Python, with keys of rows:
        `star(key)`, `star(key, on=False)` and `note(key, text)` write a small file beside the row;
        `compare(key, key)` shows two to six clips in step, `again(key)` gives the lines that make a clip again;
        `delete(key)` moves a row aside with its clip; `restore()` brings back what this review deleted, a new review
        all that was deleted within a week, `restore(key)` one row. What was deleted over a week ago is erased when a
        row of the study is next deleted or restored;
        `export(path)` copies the starred clips into a folder or a `.zip`, in place of an older export.
        `rows` and `starred` are lists of rows.

    Raises:
        FileNotFoundError: There is no such folder.
        ValueError: There is no row in any of them.

    Example:
        After `run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import review
        >>> [row.request.motion_bucket_id for row in review("results/motion").rows]
        [30, 220]
    """
    folders = [folders] if isinstance(folders, (str, Path)) else list(folders)
    studies = find_studies(folders)
    return Review(read_entries(folders, may_be_empty=any(map(deleted_keys, studies))), inside, studies)


class Review:
    """The rows that `review` read: `star`, `note`, `delete`, `wall`, `compare`, `again` and `export` act on them.

    A row is named by its key or the beginning of it; a `ValueError` says where that is none or several.

    Attributes:
        entries: The rows with their folders and notes, oldest first within a study.
        inside: As in `review`.

    Example:
        After `run(grid(setup, request, motion_bucket_id=[30, 220]), "results/motion")`:
        >>> from svdlab import review
        >>> table = review("results/motion")
        >>> first, second = [row.key for row in table.rows]
        >>> table.star(first)
        >>> table.note(first, "the flame is right")
        >>> table.entries[0].note
        Note(star=True, text='the flame is right')
        >>> table.wall().labels
        ['motion_bucket_id 30', 'motion_bucket_id 220']
        >>> sorted(file.suffix for file in table.export("chosen").iterdir())
        ['.csv', '.mp4']
    """

    def __init__(self, entries: Sequence[Entry], inside: bool | None = None, studies: Sequence[Path] = ()) -> None:
        self.inside, self._studies = inside, studies  # where deleted rows are looked for
        self._places, self._deleted = list(entries), list[Entry]()  # a page names rows by their places
        self._channels: list[Any] = []  # kept alive for as long as this is

    @property
    def entries(self) -> list[Entry]:
        """The rows with their folders and notes, without those that were deleted."""
        return [entry for entry in self._places if entry not in self._deleted]

    @property
    def rows(self) -> list[Row]:
        """The rows alone."""
        return [entry.row for entry in self.entries]

    @property
    def starred(self) -> list[Row]:
        """The rows with a star, as it is on disk now."""
        return [entry.row for entry in self.entries if entry.note.star]

    def star(self, *keys: str, on: bool = True) -> None:
        """Star rows.

        Args:
            *keys: Of the rows.
            on: False takes the stars away.
        """
        for entry in map(self._entry, keys):
            write_note(entry.folder, entry.row.key, dataclasses.replace(entry.note, star=on))

    def note(self, key: str, text: str) -> None:
        """Write a note to a row, in place of the one that it had.

        Args:
            key: Of the row.
            text: Any words; "" takes the note away.
        """
        entry = self._entry(key)
        write_note(entry.folder, entry.row.key, dataclasses.replace(entry.note, text=text))

    def delete(self, *keys: str) -> None:
        """Move rows, with their clips and notes, out of the study. They can be brought back for a week.

        Args:
            *keys: Of the rows. The next run of their sweep makes them again.
        """
        for entry in map(self._entry, keys):
            self._delete(entry)

    def restore(self, *keys: str) -> None:
        """Bring back rows that were deleted from these studies within a week.

        Args:
            *keys: Of the rows. Left out, it is those that this review deleted; if it deleted none, all of them. Rows
                that were made again since stay as they are.

        Raises:
            ValueError: No deleted row has such a key, or several have.
        """
        deleted = [(key, study) for study in self._studies for key in sorted(deleted_keys(study))]
        if keys:
            studies = dict(reversed(deleted))
            deleted = [(name, studies[name]) for name in [_full_key(key, studies, "deleted rows") for key in keys]]
        elif self._deleted:
            deleted = [(entry.row.key, entry.folder) for entry in self._deleted]
        for key, study in deleted:
            self._restore(key, study, is_named=bool(keys))

    def wall(self, across: str = "", down: str = "") -> Shown:
        """The clips by two knobs, in step, as `svdlab.wall` hangs them.

        Args:
            across: The knob that grows to the right. Left out, it is the first that varies.
            down: The knob that grows downwards. Left out, it is the next that varies, if there is one.
        """
        varying = [knob for knob in knobs(self.rows) if knob not in (across, down)]
        across = across or (varying.pop(0) if varying else "")
        with_clips = [entry.row for entry in self.entries if entry.clip]
        return wall(with_clips, across, down or (varying[0] if varying else None))

    def compare(self, *keys: str) -> Shown:
        """Clips in step, with their difference from the first, and measures; all inside the page.

        Args:
            *keys: Of two to six rows.
        """
        if not 2 <= len(keys) <= 6:
            raise ValueError(f"{len(keys)} rows were given: name two to six by their keys.")
        entries = [self._entry(key) for key in keys]
        page = rows_page(entries, "Compared", embedded, opened="compare", measures=_likeness_to_first(entries))
        return Shown(render("review.html", page=page), list(keys))

    def again(self, key: str) -> str:
        """The lines of Python, and of the shell, that make a row's clip again: to print.

        Args:
            key: Of the row.
        """
        return python_and_shell_lines(self._entry(key).row)

    def export(self, path: str | Path, keys: Iterable[str] | None = None) -> Path:
        """Copy clips under telling names, with their rows as `rows.csv`, into a new folder or a `.zip`.

        It appears whole or not at all, and replaces an older one. The path comes back.

        Args:
            path: A new folder, or a name that ends in `.zip`.
            keys: Of the rows. Left out, those with a star.

        Raises:
            ValueError: None of the rows has a clip, or something else is at the path.
        """
        chosen = [entry for entry in self.entries if entry.note.star] if keys is None else map(self._entry, keys)
        return export_clips(self.entries, chosen, path)

    def _delete(self, entry: Entry) -> None:
        delete_row(entry.folder, entry.row.key)
        self._deleted.append(entry)

    def _restore(self, key: str, study: Path, is_named: bool = True) -> None:
        if is_named or not (study / f"{key}.json").exists():
            restore_row(study, key)
        self._deleted = [entry for entry in self._deleted if (entry.row.key, entry.folder) != (key, study)]
        if row := find_row(study, key):
            names = [(entry.row.key, entry.folder) for entry in self._places]
            place = names.index((key, study)) if (key, study) in names else len(names)
            self._places[place : place + 1] = [Entry(row, study)]

    def _entry(self, key: str) -> Entry:
        entries = {entry.row.key: entry for entry in reversed(self.entries)}
        return entries[_full_key(key, entries, "rows")]

    def _repr_html_(self, name: str = "", live: bool = False) -> str:
        entries = self._places if live else self.entries
        clips_bytes = sum(clip.stat().st_size for entry in entries if (clip := entry.clip))
        is_inside = clips_bytes <= INSIDE_BYTES if self.inside is None else self.inside
        most = INSIDE_BYTES if self.inside is None else float("inf") if self.inside else 0
        clip_url = embedded if is_inside else lambda _: None
        caption = "Rows" if entries else "All rows were deleted: restore() brings back those of the last week"
        page = rows_page(entries, caption, clip_url, preview_bytes=most, name=name, live=live)
        return render("review.html", page=page)

    def _ipython_display_(self) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        shell, name = get_ipython(), secrets.token_hex(8)
        live = find_spec("anywidget") is not None and hasattr(shell, "kernel")
        display(HTML(self._repr_html_(name, live)))
        if not live:
            return
        from anywidget import AnyWidget

        if "google.colab" in sys.modules:  # otherwise its pages know the widgets of ipywidgets alone
            import_module("google.colab.output").enable_custom_widget_manager()
        text = "Stars and notes are kept where a kernel runs."  # in place of the widget, on a page that has none
        fields = {"_esm": render("channel.js", name=name), "__repr__": lambda _: text}
        channel = type("Channel", (AnyWidget,), fields)()
        channel.on_msg(self._answer)
        self._channels.append(channel)
        # A Jupyter server's own pages start a widget at once. Others start it when it is displayed; it takes no room.
        if "JPY_SESSION_NAME" not in os.environ or "__vsc_ipynb_file__" in getattr(shell, "user_ns", {}):
            display(channel)

    def _answer(self, channel: Any, message: dict[str, Any], _: Any) -> None:
        """Answer one message of the page. It names rows by their place, so that it can reach no other file."""
        what, places = message["what"], message.get("rows", [message.get("row", 0)])
        entries = [self._places[place] for place in places]
        if what in ("clip", "preview"):
            is_preview = what == "preview"
            files = [read_preview(e.row) if is_preview else (clip := e.clip) and clip.read_bytes() for e in entries]
            channel.send({"files": [f"{what} {place}" for place in places]}, [file or b"" for file in files])
        elif what == "compare":
            lines = [[heading, list(map(text_of, values))] for heading, values in _likeness_to_first(entries).items()]
            channel.send({"of": places, "measures": lines})
        elif what != "notes":
            try:
                for entry in entries:
                    self._change(entry, message)
            except (OSError, ValueError) as error:
                channel.send({"problem": first_line(error)})
                what = "notes"  # the page shows what is on disk again
        if what == "notes":
            channel.send({"notes": [dataclasses.asdict(entry.note) for entry in self._places]})
        if what in ("notes", "delete", "restore"):
            channel.send({"absent": [place for place, entry in enumerate(self._places) if entry in self._deleted]})

    def _change(self, entry: Entry, message: dict[str, Any]) -> None:
        """Do to a row what the page asks for; of a note only what was changed, since others may write to it too."""
        if message["what"] == "keep":
            change = {name: kind(message[name]) for name, kind in (("star", bool), ("text", str)) if name in message}
            write_note(entry.folder, entry.row.key, dataclasses.replace(entry.note, **change))
        elif message["what"] == "delete":
            self._delete(entry)
        else:
            self._restore(entry.row.key, entry.folder)


def _full_key(key: str, keys: Collection[str], of: str) -> str:
    """The one key that begins so; a `ValueError` where that is none or several."""
    matches = [each for each in keys if key and each.startswith(key)]
    if len(matches) != 1:
        known = ", ".join([*sorted(keys)[:5], *["…"] * (len(keys) > 5)])
        way_out = f"name one of {known}" if keys else "there are none"
        raise ValueError(f"{len(matches)} {of} have a key that begins with {shorten(key)}: {way_out}.")
    return matches[0]


def _likeness_to_first(entries: Sequence[Entry]) -> dict[str, list[float | None]]:
    """PSNR and SSIM of each clip, by heading; None for the first, and where clips cannot be compared."""
    columns: dict[str, list[float | None]] = {"PSNR (dB) against the first": [None], "SSIM against the first": [None]}
    for entry in entries[1:]:
        try:
            likeness = difference(entry.row.open(), entries[0].row.open())
            values = (likeness.psnr_db, likeness.ssim)
        except ValueError:  # of other sizes, or deleted
            values = (None, None)
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
    return columns
