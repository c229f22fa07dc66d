// Sorts and filters the rows, keeps stars and notes, enlarges clips, compares them and hangs them on a wall, under the
// controls of `svdlab.show`. Where it does not run there is the plain table. What is not in the page is asked of the
// kernel, where one listens: a `svdlab-ask` event on the document, answered by `svdlab-tell` (see channel.js).
(() => {
  const WALL = 100;  // clips: more cannot be looked at
  const KEPT = 24;  // clips of full size that the page holds at once
  const COLUMNS = "svdlab-hidden-columns";  // where the browser remembers them
  const HELP = { "j k": "next, previous", Enter: "enlarge", Space: "play", x: "tick", c: "compare", "/": "filter", Esc: "close" };
  const HELP_OF_KERNEL = { s: "star", n: "note", Delete: "delete", u: "undo" };
  const make = (tag, fields = {}, ...inside) => {
    const element = Object.assign(document.createElement(tag), fields);
    element.append(...inside);
    return element;
  };
  const button = (label, act, fields = {}) => {
    const element = make("button", { type: "button", ...fields }, label);
    element.addEventListener("click", act);
    return element;
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const remembered = () => { try { return JSON.parse(localStorage.getItem(COLUMNS)) ?? []; } catch { return []; } };
  const remember = (names) => { try { localStorage.setItem(COLUMNS, JSON.stringify(names)); } catch { /* some pages may not */ } };

  function start(root) {
    const name = root.dataset.svdlabReview, table = root.querySelector(".svdlab-rows"), body = table.tBodies[0];
    const rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    const tools = root.querySelector(".svdlab-tools"), viewer = root.querySelector(".svdlab-viewer");
    const knobs = heads.filter((head) => head.dataset.knob), measures = heads.filter((head) => head.dataset.measure);
    const place = new Map(heads.map((head, i) => [head, i]));
    const cell = (row, head) => row.cells[place.get(head)];
    const text = (row, head) => cell(row, head).textContent.trim();
    const film = (row) => row.querySelector(".svdlab-clip img");
    const named = (row) => knobs.map((head) => `${head.dataset.knob} ${text(row, head)}`).join(", ") || row.dataset.key;
    const order = (row, head) => cell(row, head).dataset.v ?? text(row, head);
    const compared = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b);
    const visible = () => [...body.rows].filter((row) => !row.hidden);

    // --- the kernel, where there is one
    let alive = false;
    const fetched = new Map(), waiting = new Map();  // "clip 3" → promise of a URL; → what fulfils it
    const ask = (what) => document.dispatchEvent(new CustomEvent("svdlab-ask", { detail: { name, ...what } }));
    const queued = { clip: [], preview: [] }, together = { clip: 1, preview: 24 };  // rows; JupyterLab lays its page out anew for each message
    function send(what) {
      while (queued[what].length) ask({ what, rows: queued[what].splice(0, together[what]) });
    }
    function fetchFile(what, row) {
      const id = `${what} ${row.dataset.row}`;
      if (!alive) return null;
      if (!fetched.has(id)) {
        if (queued[what].push(+row.dataset.row) === 1) setTimeout(() => send(what));
        fetched.set(id, new Promise((done) => waiting.set(id, done)));
      }
      return fetched.get(id);
    }
    document.addEventListener("svdlab-tell", ({ detail }) => {
      if (detail.name !== name || !root.isConnected) return;
      if (detail.ready) ask({ what: "notes" });
      if (detail.notes) {
        if (!alive) explain(HELP_OF_KERNEL);
        alive = true;
        detail.notes.slice(0, rows.length).forEach((note, i) => { notes.set(rows[i], note); rows[i].querySelector(".svdlab-star button") ?? edit(rows[i]); paint(rows[i]); });
        removal.hidden = false;
        for (const row of inSight) fill(row);
      }
      for (const [i, id] of (detail.files ?? []).entries()) {
        const type = id.startsWith("clip") ? "video/mp4" : "image/webp", data = detail.data[i];
        waiting.get(id)?.(data.byteLength && URL.createObjectURL(new Blob([data], { type })));
        waiting.delete(id);
      }
      if (detail.measures) tabulate(detail.of, detail.measures);
      if (detail.absent) { for (const row of rows) row.dataset.absent = detail.absent.includes(+row.dataset.row) || ""; filter(); }
      if (detail.problem) tell(detail.problem);
    });

    // --- stars and notes, in the table and wherever else a row is shown
    const notes = new Map(rows.map((row) => [row, { star: row.querySelector(".svdlab-star")?.dataset.v === "1", text: row.querySelector(".svdlab-note")?.dataset.v ?? "" }]));
    let shown = [];  // {row, star, input}: what shows them
    function keep(row, change) {
      if (!alive) return tell("Stars and notes are kept where a kernel runs: run the cell.");
      notes.set(row, { ...notes.get(row), ...change });
      ask({ what: "keep", row: +row.dataset.row, ...change });
      paint(row);
    }
    function remark(row, about) {
      const star = button("", () => keep(row, { star: !notes.get(row).star }), { ariaLabel: `Star ${about}`, title: "Star (s)" });
      const input = make("input", { ariaLabel: `Note on ${about}`, placeholder: "note", title: "Note (n)" });
      const write = () => { if (input.value !== notes.get(row).text) keep(row, { text: input.value }); };
      input.addEventListener("change", write);
      input.addEventListener("keydown", ({ key }) => key === "Enter" && (write(), input.blur(), select(row)));
      shown.push({ row, star, input });
      paint(row);
      return [star, input];
    }
    function edit(row) {
      const [star, input] = remark(row, row.dataset.key);
      row.querySelector(".svdlab-star").replaceChildren(star);
      row.querySelector(".svdlab-note").replaceChildren(input);
    }
    function paint(row) {
      const note = notes.get(row), [star, text] = ["star", "note"].map((each) => row.querySelector(`.svdlab-${each}`));
      if (star) [star.dataset.v, text.dataset.v] = [+note.star, note.text];
      for (const each of shown.filter((each) => each.row === row)) {
        each.star.textContent = note.star ? "★" : "☆";
        each.star.ariaPressed = String(note.star);
        if (each.input !== document.activeElement) each.input.value = note.text;
      }
    }

    // --- previews, fetched when they are seen; clips, when they are enlarged
    const inSight = new Set();
    async function fill(row) {
      const url = film(row).getAttribute("src") ? null : await fetchFile("preview", row);
      if (url) film(row).src = url;
    }
    let due = 0;
    const watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) inSight[isIntersecting ? "add" : "delete"](target.closest("tr"));
      due ||= setTimeout(() => { due = 0; for (const row of inSight) fill(row); }, 250);  // not what is scrolled past
    }, { rootMargin: "200px" });
    function still(img) {  // for whom motion is unpleasant: the first frame, until it is pointed at
      const frame = make("canvas", { width: img.naturalWidth, height: img.naturalHeight });
      frame.getContext("2d").drawImage(img, 0, 0);
      img.before(frame);
      img.style.display = "none";
      const toggle = (moves) => { img.style.display = moves ? "" : "none"; frame.style.display = moves ? "none" : ""; };
      img.parentElement.addEventListener("pointerenter", () => toggle(true));
      img.parentElement.addEventListener("pointerleave", () => toggle(false));
    }
    for (const row of rows) {
      row.tabIndex = -1;
      row.addEventListener("focusin", () => mark(row));
      row.querySelector(".svdlab-clip").addEventListener("click", () => show([row]));
      if (!film(row)) continue;
      if (!film(row).getAttribute("src")) watcher.observe(film(row));
      if (calm && film(row).naturalWidth) still(film(row));
      else if (calm) film(row).addEventListener("load", ({ target }) => still(target), { once: true });
    }
    async function source(row) {
      const img = film(row);
      const url = img && (img.dataset.full ?? await fetchFile("clip", row));
      const clips = [...fetched.keys()].filter((id) => id.startsWith("clip") && !waiting.has(id));
      for (const id of clips.slice(0, -KEPT)) {
        if (enlarged.includes(rows[+id.split(" ")[1]])) continue;
        fetched.get(id).then(URL.revokeObjectURL);
        fetched.delete(id);
      }
      return url;
    }

    // --- the row that keys act on
    let current = null;
    function mark(row) {
      for (const old of root.querySelectorAll(".svdlab-current")) old.classList.remove("svdlab-current");
      current = row;
      row?.classList.add("svdlab-current");
      if (enlarged.length > 1) viewer.querySelectorAll("figure")[enlarged.indexOf(row)]?.classList.add("svdlab-current");
    }
    function select(row) {
      if (!row) return;
      mark(row);
      if (enlarged.length > 1) return viewer.querySelectorAll("figure")[enlarged.indexOf(row)]?.focus();
      if (enlarged.length === 1) return show([row]);
      row.focus({ preventScroll: true });
      row.scrollIntoView({ block: "nearest" });
    }
    function move(by) {
      const among = enlarged.length > 1 ? enlarged : visible(), at = among.indexOf(current);
      select(among[at < 0 ? 0 : Math.max(0, Math.min(among.length - 1, at + by))]);
    }
    const ticks = () => rows.filter((row) => !row.hidden && row.querySelector(".svdlab-pick input")?.checked);
    const keys = {
      j: () => move(1), k: () => move(-1), x: () => current?.querySelector(".svdlab-pick input")?.click(),
      s: () => current && keep(current, { star: !notes.get(current).star }),
      n: () => shown.findLast((each) => each.row === current && each.input.isConnected)?.input.focus(),
      c: () => { if (!compare.disabled) compare.click(); }, "/": () => search.focus(),
      Enter: () => current && show([current]), " ": () => (enlarged.length || rehang ? viewer.querySelector("[data-do=play]")?.click() : current && show([current])),
      Delete: () => current && remove([current]), u: () => undo(),
    };
    root.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const typing = event.target.matches("input:not([type=checkbox], [type=range]), select, textarea");
      if (event.key === "Escape") {
        event.preventDefault();
        return typing ? select(current ?? visible()[0]) : close();
      }
      const presses = ["Enter", " "].includes(event.key) && event.target.closest("button, summary, input, select, a, [role=button]");
      if (typing || presses || !keys[event.key]) return;
      event.preventDefault();
      event.stopPropagation();
      keys[event.key]();
    }, true);

    // frozen columns cost half of each frame of scrolling, so they freeze when the table is shifted
    const frame = root.querySelector(".svdlab-scroll");
    frame.addEventListener("scroll", () => frame.classList.toggle("svdlab-shifted", frame.scrollLeft > 0), { passive: true });

    // --- sorting
    for (const head of heads.filter((head) => head.dataset.sort)) {
      const sorter = button("", () => {
        const way = head.ariaSort === "ascending" ? -1 : 1;
        for (const other of heads) if (other.ariaSort) other.ariaSort = "none";
        head.ariaSort = way > 0 ? "ascending" : "descending";
        const keyed = rows.map((row) => [order(row, head), row]);
        keyed.sort(([a], [b]) => (a === "" || b === "" ? compared(a, b) : way * compared(a, b)));  // what is missing comes last
        body.append(...keyed.map(([, row]) => row));
      });
      sorter.append(...head.childNodes);
      head.append(sorter);
      head.ariaSort = "none";
    }

    // --- filtering: words, and terms such as seed=4, motion>0.6, bucket 100..180
    const TERM = /([a-z_][\w-]*)\s*(<=|>=|!=|=|<|>)\s*("[^"]*"|\S+)|([a-z_][\w-]*)[\s=:]+(-?[\d.]*\d)\.\.(-?\d[\d.]*)|"([^"]*)"|(\S+)/gi;
    const TESTS = { "=": (a, b) => a === b, "!=": (a, b) => a !== b, "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b };
    const number = (value) => (value.trim() === "" ? NaN : Number(value));
    function columns(word) {  // those of that name; else those with that word in their name
      const sought = word.toLowerCase(), named = heads.filter((head) => head.dataset.sort?.toLowerCase() === sought);
      return named.length ? named : heads.filter((head) => head.dataset.sort?.toLowerCase().split(/[_,\s]+/).includes(sought));
    }
    const value = (row, head) => (["star", "note"].includes(head.dataset.sort) ? cell(row, head).dataset.v : text(row, head));
    function term([, column, sign, bound, ranged, low, high, quoted, word]) {
      const of = column ?? ranged;
      if (of && !columns(of).length) return { problem: `There is no column ${of}.` };
      if (ranged) return { test: (row) => columns(ranged).some((head) => { const v = number(value(row, head)); return v >= +low && v <= +high; }) };
      if (column) {
        const limit = bound.replaceAll('"', "").toLowerCase();
        return { test: (row) => columns(column).some((head) => {
          const own = value(row, head).toLowerCase();
          if (!isNaN(number(limit)) && !isNaN(number(own))) return TESTS[sign](+own, +limit);
          return sign === "=" ? own.includes(limit) : sign === "!=" && !own.includes(limit);
        }) };
      }
      const sought = (quoted ?? word).toLowerCase(), isNumber = quoted === undefined && /^-?(0|[1-9]\d*)(\.\d+)?$/.test(sought);
      return { test: (row) => sought === "★" && notes.get(row).star || !isNumber && row.dataset.error.toLowerCase().includes(sought)
        || sought.length > 3 && row.dataset.key.startsWith(sought)
        || heads.some((head) => ![undefined, "star"].includes(head.dataset.sort) && (isNumber ? number(value(row, head)) === +sought : value(row, head).toLowerCase().includes(sought))) };
    }
    const search = make("input", { type: "search", ariaLabel: "Filter rows", placeholder: "Filter: rocket, seed=4, motion>0.6, bucket 100..180" });
    const count = make("output", { ariaLive: "polite" }), message = make("div", { className: "svdlab-message", role: "status" });
    const starred = make("input", { type: "checkbox" });
    const values = (head) => [...new Map(rows.map((row) => [text(row, head), order(row, head)]))].sort((a, b) => compared(a[1], b[1])).map(([value]) => value);
    const choices = knobs.filter((head) => values(head).length < 40).map((head) => {
      const select = make("select", {}, make("option", { value: "*" }, "all"), ...values(head).map((value) => make("option", { value }, value || "none")));
      return { head, select, label: make("label", {}, head.dataset.knob, select) };
    });
    function filter() {
      const terms = [...search.value.matchAll(TERM)].map(term), problem = terms.find((each) => each.problem)?.problem;
      for (const row of rows) {
        row.hidden = row.dataset.absent === "true" || !terms.every((each) => each.problem || each.test(row))
          || choices.some(({ head, select }) => select.value !== "*" && select.value !== text(row, head))
          || (starred.checked && !notes.get(row).star);
      }
      const present = rows.filter((row) => row.dataset.absent !== "true").length, left = visible().length;
      count.textContent = (left === present ? `${left} rows` : `${left} of ${present} rows`) + (problem ? `. ${problem}` : "");
      tick();
    }
    search.addEventListener("input", filter);
    search.addEventListener("keydown", ({ key }) => key === "Enter" && select(visible()[0]));
    starred.addEventListener("change", filter);
    for (const { select } of choices) select.addEventListener("change", filter);

    // --- deleting, with undo
    const tell = (sentence, ...more) => message.replaceChildren(sentence, ...more);
    const deleted = [];
    function remove(chosen) {
      if (!alive) return tell("Rows are deleted where a kernel runs: run the cell.");
      const after = visible(), next = after.slice(after.indexOf(chosen.at(-1)) + 1).find((row) => !chosen.includes(row)) ?? after.findLast((row) => !chosen.includes(row));
      deleted.push(chosen);
      ask({ what: "delete", rows: chosen.map((row) => +row.dataset.row) });
      for (const row of chosen) { const box = row.querySelector(".svdlab-pick input"); if (box) box.checked = false; }
      tell(chosen.length > 1 ? `${chosen.length} rows deleted ` : `${chosen[0].dataset.key} deleted `, button("Undo", undo, { title: "Undo (u)" }));
      if (enlarged.some((row) => chosen.includes(row)) && enlarged.length > 1) close();
      select(next);
    }
    function undo() {
      const back = deleted.pop();
      if (!back) return tell("There is nothing to undo.");
      ask({ what: "restore", rows: back.map((row) => +row.dataset.row) });
      tell(back.length > 1 ? `${back.length} rows are back.` : `${back[0].dataset.key} is back.`);
    }

    // --- the viewer: a few clips in step, or a wall of them
    let enlarged = [], rehang = null, turns = 0;
    function close() {
      const back = enlarged.length && rehang;
      turns++;
      enlarged = [];
      viewer.replaceChildren();
      shown = shown.filter((each) => each.input.isConnected);
      if (back) return rehang();
      rehang = null;
      select(current ?? visible()[0]);
    }
    async function gather(chosen, title, url) {
      enlarged = [];
      const turn = ++turns;
      viewer.replaceChildren(make("p", { role: "status" }, `Fetching ${chosen.length} clips …`));
      const urls = new Map(await Promise.all(chosen.map(async (row) => [row, await url(row)])));
      if (turn !== turns) return null;
      const bar = make("div", { className: "svdlab-tools" }, make("strong", {}, title));
      viewer.replaceChildren(bar);
      return { urls, bar };
    }
    function picture(row, url, about) {
      const img = row && film(row), preview = img?.getAttribute("src");
      if (!img || !(url || preview)) {
        const why = row ? row.dataset.error || "This clip is not in the page, and no kernel answers." : "not made";
        return make("div", { className: "svdlab-picture" }, make("em", {}, why));
      }
      const clip = url ? make("video", { src: url, muted: true, autoplay: !calm, playsInline: true, ariaLabel: about }) : make("img", { src: preview, alt: about, width: 256, height: 256 * img.getAttribute("height") / img.getAttribute("width") });
      Object.assign(clip.dataset, { fps: img.dataset.fps, frames: img.dataset.frames });
      return make("div", { className: "svdlab-picture" }, clip);
    }
    function control(inside) {
      const id = "s" + Math.random().toString(36).slice(2);
      const clips = make("div", { className: "svdlab-show", role: "group", ariaLabel: "Clips", tabIndex: 0 }, inside);
      clips.dataset.svdlab = id;
      const controls = make("div", { innerHTML: root.querySelector("template").innerHTML.replaceAll("{" + "{id}}", id) });
      viewer.append(clips, controls);
      for (const script of controls.querySelectorAll("script")) script.replaceWith(make("script", { textContent: script.textContent }));
      return clips;
    }
    function tabulate(of, lines) {
      const target = viewer.querySelector(".svdlab-measures tbody");
      if (!target || of.join() !== enlarged.map((row) => +row.dataset.row).join()) return;
      for (const [heading, values] of lines) {
        target.append(make("tr", {}, make("th", { scope: "row" }, heading), ...values.map((value) => make("td", { className: "svdlab-number" }, value))));
      }
    }
    function layout(chosen) {  // columns and their width, so that all clips are seen at once
      const img = chosen.map(film).find(Boolean), aspect = img ? img.getAttribute("width") / img.getAttribute("height") : 16 / 9;
      const wide = Math.max(200, viewer.clientWidth - 22), high = Math.max(320, innerHeight * 0.8 - 110), caption = alive ? 62 : 30;
      const widths = chosen.map((_, i) => {
        const columns = i + 1, lines = Math.ceil(chosen.length / columns);
        return Math.min(960, (wide - 12 * i) / columns, (high / lines - caption) * aspect);
      });
      const columns = widths.findLastIndex((width) => width > 0.8 * Math.max(...widths));  // beside each other, where that costs little
      return `display: grid; gap: 12px; grid-template-columns: repeat(${columns + 1}, minmax(0, ${Math.floor(Math.max(widths[columns], 120))}px))`;
    }
    async function show(chosen, gain = "", frame, quietly = root.dataset.open === "compare" && !current) {
      const opened = await gather(chosen, chosen.length > 1 ? `${chosen.length} clips in step` : named(chosen[0]), source);
      if (!opened) return;
      enlarged = chosen;
      const complete = chosen.length > 1 && chosen.every((row) => opened.urls.get(row));
      const grid = make("div", { style: layout(chosen) });
      for (const row of chosen) {
        const box = picture(row, opened.urls.get(row), named(row));
        if (complete && gain && row !== chosen[0]) {  // |A − B| by blending: it needs no pixels, which a file:// page may not read
          box.append(...picture(chosen[0], opened.urls.get(chosen[0]), "the first clip").children);
          box.classList.add("svdlab-difference");
          box.style.setProperty("--gain", gain);
        }
        const note = notes.get(row), caption = [alive || !note.star ? "" : "★", chosen.length > 1 ? named(row) : "", alive ? "" : note.text].filter(Boolean).join(" ");
        const figure = make("figure", { tabIndex: -1 }, box, make("figcaption", {}, caption));
        figure.addEventListener("focusin", () => mark(row));
        if (alive) figure.append(make("div", { className: "svdlab-remark" }, ...remark(row, named(row))));
        grid.append(figure);
      }
      const clips = control(grid);
      mark(chosen.includes(current) ? current : chosen[0]);
      const slider = viewer.querySelector(".svdlab-bar input");
      if (frame) { slider.value = frame; slider.dispatchEvent(new Event("input")); }
      if (chosen.length === 1) opened.bar.append(button("‹", () => move(-1), { ariaLabel: "Previous clip", title: "Previous (k)" }), button("›", () => move(1), { ariaLabel: "Next clip", title: "Next (j)" }));
      if (complete) {
        const choices = [["", "off"], ["1", "1×"], ["4", "4×"], ["8", "8×"], ["16", "16×"]];
        const select = make("select", {}, ...choices.map(([value, label]) => make("option", { value }, label)));
        select.value = gain;
        select.addEventListener("change", async () => {
          const paused = viewer.querySelector(".svdlab-bar [aria-label=Play]");
          await show(chosen, select.value, paused && slider.value);
          viewer.querySelector("select").focus();
        });
        opened.bar.append(make("label", {}, "Difference from the first, amplified", select));
      }
      opened.bar.append(button("Close", close, { title: "Close (Esc)" }));
      const head = make("tr", {}, make("td"), ...chosen.map((row) => make("th", { scope: "col" }, named(row))));
      const details = [make("caption", {}, "Measures of these clips"), make("thead", {}, head), make("tbody")];
      viewer.append(make("table", { className: "svdlab-measures" }, ...details));
      tabulate(chosen.map((row) => +row.dataset.row), measures.map((each) => [each.dataset.measure, chosen.map((row) => text(row, each))]));
      if (alive && chosen.length > 1) ask({ what: "compare", rows: chosen.map((row) => +row.dataset.row) });
      if (quietly) return;  // the page has just been opened
      clips.focus({ preventScroll: true });
      viewer.scrollIntoView({ block: "nearest" });
    }
    async function wall(across, down) {
      const places = new Map(), left = visible(), edge = (head) => values(head).filter((value) => left.some((row) => text(row, head) === value));
      for (const row of left) {
        const key = JSON.stringify([text(row, across), down && text(row, down)]);
        if (!places.has(key) || (!film(places.get(key)) && film(row))) places.set(key, row);
      }
      if (places.size > WALL) return viewer.replaceChildren(make("p", { role: "status" }, `That would be ${places.size} clips: filter the rows first, to ${WALL} at most.`));
      const title = across.dataset.knob + (down ? ` across, ${down.dataset.knob} down` : " across");
      const opened = await gather([...places.values()], title, (row) => film(row) && fill(row));
      if (!opened) return;
      rehang = () => wall(across, down);
      opened.bar.append(button("Close", () => { rehang = null; close(); }, { title: "Close (Esc)" }));
      const grid = make("table", { className: "svdlab-wall", ariaLabel: title, style: `min-width: ${126 * edge(across).length + (down ? 50 : 0)}px` });
      grid.append(make("thead", {}, make("tr", {}, ...(down ? [make("td", { style: "width: 3.5em" })] : []), ...edge(across).map((value) => make("th", { scope: "col" }, value || "none")))));
      grid.append(make("tbody", {}, ...(down ? edge(down) : [null]).map((line) => make("tr", {}, ...(down ? [make("th", { scope: "row" }, line || "none")] : []), ...edge(across).map((value) => {
        const row = places.get(JSON.stringify([value, line])), about = `${across.dataset.knob} ${value}` + (down ? `, ${down.dataset.knob} ${line}` : "");
        const box = picture(row, null, about);
        if (row) {
          Object.assign(box, { tabIndex: 0, role: "button", ariaLabel: `Enlarge ${about}` });
          box.addEventListener("click", (event) => { event.stopPropagation(); mark(row); show([row]); }, true);
          box.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.stopPropagation(); mark(row); show([row]); } });
        }
        return make("td", {}, box);
      })))));
      control(grid);
    }

    // --- the tools above the table
    const help = make("p", { className: "svdlab-keys" });
    const explain = (lines) => help.append(...Object.entries(lines).flatMap(([key, act]) => [make("kbd", {}, key), ` ${act} `]));
    const compare = button("", () => show(ticks()), { title: "Compare (c)" });
    const removal = button("", () => remove(ticks()), { hidden: true, title: "Delete what is ticked; Delete removes the row that is marked" });
    function tick() {
      const n = ticks().length;
      compare.textContent = n < 2 ? "Compare (tick 2 to 6)" : `Compare ${n} clips`;
      compare.disabled = n < 2 || n > 6;
      removal.textContent = n ? `Delete ${n}` : "Delete";
      removal.disabled = !n;
    }
    heads.find((head) => head.classList.contains("svdlab-pick")).textContent = "✓";
    for (const row of rows) {
      const box = make("input", { type: "checkbox", ariaLabel: `Tick ${row.dataset.key}` });
      box.addEventListener("change", tick);
      row.querySelector(".svdlab-pick").replaceChildren(box);
    }
    const widths = make("style");
    const chooser = heads.filter((head) => head.dataset.sort && !["row", "star"].includes(head.dataset.sort)).map((head) => {
      const box = make("input", { type: "checkbox", checked: !remembered().includes(head.dataset.sort) });
      box.addEventListener("change", () => {
        remember([...remembered().filter((each) => each !== head.dataset.sort), ...(box.checked ? [] : [head.dataset.sort])]);
        hide();
      });
      return { head, box, label: make("label", {}, box, head.dataset.sort) };
    });
    function hide() {
      const hidden = chooser.filter(({ box }) => !box.checked).map(({ head }) => `[data-svdlab-review="${name}"] .svdlab-rows tr > :nth-child(${place.get(head) + 1})`);
      widths.textContent = hidden.length ? `${hidden.join(", ")} { display: none; }` : "";
    }
    tools.append(search, ...choices.map((choice) => choice.label));
    if (root.querySelector(".svdlab-star")) tools.append(make("label", {}, starred, "starred only"));
    tools.append(make("details", { className: "svdlab-columns" }, make("summary", {}, "Columns"), make("div", {}, ...chooser.map((each) => each.label))), count, compare, removal);
    const options = () => knobs.map((head, i) => make("option", { value: i }, head.dataset.knob));
    const across = make("select", {}, ...options()), down = make("select", {}, make("option", { value: "-1" }, "nothing"), ...options());
    const knob = (of) => knobs.findIndex((head) => head.dataset.knob === of);
    across.value = Math.max(0, knob(root.dataset.across));
    down.value = knob(root.dataset.down);
    const hang = () => wall(knobs[+across.value], down.value === across.value ? undefined : knobs[+down.value]);
    if (knobs.length) {
      tools.append(make("span", { className: "svdlab-tools", style: "margin: 0" }, button("Wall", hang), make("label", {}, "across", across), make("label", {}, "down", down)));
    }
    tools.append(widths);
    root.append(message);
    tools.after(help);
    explain(HELP);
    hide();
    filter();
    if (root.dataset.open === "wall" && rows.length <= WALL) hang();
    if (root.dataset.open === "compare") show(rows);
    ask({ what: "notes" });
  }

  for (const root of document.querySelectorAll('[data-svdlab-review="{{ page.name }}"]:not([data-ready])')) {
    root.dataset.ready = "";
    root.dataset.lmSuppressShortcuts = "true";  // or JupyterLab takes the keys
    for (const line of root.querySelectorAll("[data-untrusted]")) line.remove();
    start(root);
  }
})();
