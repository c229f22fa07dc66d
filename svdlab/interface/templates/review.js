// Sorts, filters and plays the rows; compares clips and hangs them on a wall, under the controls of `svdlab.show`.
// Where it does not run there is the plain table. Clips that are not in the page are asked of the kernel, where one
// listens: a `svdlab-ask` event on the document, answered by `svdlab-tell` (see courier.js).
(() => {
  const WALL = 100;  // clips: more cannot be looked at
  const KEPT = 48;  // clips held by the browser at once: it has so many decoders, and so much memory
  const make = (tag, fields = {}, ...inside) => {
    const made = Object.assign(document.createElement(tag), fields);
    made.append(...inside);
    return made;
  };
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

  function start(root) {
    const name = root.dataset.svdlabReview, table = root.querySelector(".svdlab-rows"), body = table.tBodies[0];
    const rows = [...body.rows], heads = [...table.tHead.rows[0].cells];
    const tools = root.querySelector(".svdlab-tools"), stage = root.querySelector(".svdlab-stage");
    const knobs = heads.filter((head) => head.dataset.knob), measures = heads.filter((head) => head.dataset.measure);
    const cell = (row, head) => row.cells[heads.indexOf(head)];
    const text = (row, head) => cell(row, head).textContent.trim();
    const film = (row) => row.querySelector("video");
    const named = (row) => knobs.map((head) => `${head.dataset.knob} ${text(row, head)}`).join(", ") || row.dataset.key;
    const order = (row, head) => cell(row, head).dataset.v ?? text(row, head);
    const compared = (a, b) => (a === "") - (b === "") || (isNaN(a) || isNaN(b) ? String(a).localeCompare(b) : a - b);

    // --- the kernel, where there is one
    let alive = false;
    const waiting = new Map();
    const ask = (what) => document.dispatchEvent(new CustomEvent("svdlab-ask", { detail: { name, ...what } }));
    document.addEventListener("svdlab-tell", ({ detail }) => {
      if (detail.name !== name || !root.isConnected) return;
      if (detail.ready) ask({ what: "notes" });
      if (detail.notes) { alive = true; detail.notes.forEach((note, i) => remark(rows[i], note)); look(); }
      if (detail.clip !== undefined) {
        waiting.get(detail.clip)?.(detail.data && URL.createObjectURL(new Blob([detail.data], { type: "video/mp4" })));
        waiting.delete(detail.clip);
      }
      if (detail.measures) tabulate(detail.of, detail.measures);
    });

    function remark(row, { star, text }) {
      const starred = row.querySelector(".svdlab-star"), noted = row.querySelector(".svdlab-note");
      if (!starred.firstElementChild) {
        const button = make("button", { type: "button", ariaLabel: `Star ${row.dataset.key}`, title: "Star" });
        const input = make("input", { ariaLabel: `Note on ${row.dataset.key}`, placeholder: "note" });
        const keep = () => ask({ what: "keep", row: +row.dataset.row, star: button.ariaPressed === "true", text: input.value });
        button.addEventListener("click", () => { remark(row, { star: button.ariaPressed !== "true", text: input.value }); keep(); });
        input.addEventListener("change", keep);
        input.addEventListener("keydown", ({ key }) => key === "Enter" && keep());  // of which JupyterLab makes no change
        starred.replaceChildren(button);
        noted.replaceChildren(input);
      }
      const button = starred.firstElementChild;
      button.textContent = star ? "★" : "☆";
      button.ariaPressed = String(star);
      starred.dataset.v = +star;
      noted.dataset.v = noted.firstElementChild.value = text;
      noted.firstElementChild.title = text;
    }

    // --- clips, fetched when they are seen
    const sources = new Map(), seen = new Set();  // row → promise of a URL; rows in sight
    function source(row) {
      const video = film(row), id = +row.dataset.row;
      if (!video) return Promise.resolve(null);
      if (video.dataset.src) return Promise.resolve(video.dataset.src);
      if (!alive) return Promise.resolve(null);
      if (!sources.has(row)) {
        sources.set(row, new Promise((resolve) => { waiting.set(id, resolve); ask({ what: "clip", row: id }); }));
      }
      return sources.get(row);
    }
    async function play(row) {
      const url = await source(row), video = film(row);
      if (!url || !seen.has(row)) return;
      if (!video.src) video.src = url;
      video.muted = video.loop = true;
      if (!calm) video.play().catch(() => {});
      for (const old of rows.filter((other) => film(other)?.src && !seen.has(other)).slice(0, -KEPT)) {
        film(old).removeAttribute("src");
        film(old).load();
        if (film(old).dataset.src || staged.includes(old)) continue;
        sources.get(old)?.then(URL.revokeObjectURL);
        sources.delete(old);
      }
    }
    for (const video of root.querySelectorAll(".svdlab-rows video")) {
      if (video.getAttribute("src")) {  // not all at once: see KEPT
        video.dataset.src = video.getAttribute("src");
        video.removeAttribute("src");
      }
      video.controls = false;
      video.addEventListener("pointerenter", () => calm && video.play().catch(() => {}));
      video.addEventListener("click", () => show([video.closest("tr")]));
    }
    const watcher = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        const row = target.closest("tr");
        seen[isIntersecting ? "add" : "delete"](row);
        if (isIntersecting) setTimeout(() => seen.has(row) && play(row), 120);  // not what is scrolled past
        else target.pause();
      }
    });
    const look = () => { for (const row of seen) play(row); };
    for (const row of rows) if (film(row)) watcher.observe(film(row));

    // --- sorting and filtering
    for (const head of heads.filter((head) => head.dataset.sort !== undefined)) {
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      head.ariaSort = "none";
      button.addEventListener("click", () => {
        const way = head.ariaSort === "ascending" ? -1 : 1;
        for (const other of heads) if (other.ariaSort) other.ariaSort = "none";
        head.ariaSort = way > 0 ? "ascending" : "descending";
        const keyed = rows.map((row) => [order(row, head), row]);
        keyed.sort(([a], [b]) => (a === "" || b === "" ? compared(a, b) : way * compared(a, b)));  // what is missing comes last
        body.append(...keyed.map(([, row]) => row));
        look();  // what is moved about stops playing
      });
    }
    const search = make("input", { type: "search", ariaLabel: "Filter rows", placeholder: "Filter by any word" });
    const count = make("output", { ariaLive: "polite" });
    const starred = make("input", { type: "checkbox" });
    const values = (head) => [...new Map(rows.map((row) => [text(row, head), order(row, head)]))].sort((a, b) => compared(a[1], b[1])).map(([value]) => value);
    const choices = knobs.filter((head) => values(head).length < 40).map((head) => {
      const select = make("select", {}, make("option", { value: "*" }, "all"), ...values(head).map((value) => make("option", { value }, value || "none")));
      return { head, select, label: make("label", {}, head.dataset.knob, select) };
    });
    function filter() {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) {
        const told = [...row.cells].filter((each) => !each.classList.contains("svdlab-again"));
        const all = told.map((each) => `${each.dataset.v ?? ""} ${each.textContent}`).join(" ").toLowerCase();
        row.hidden = !words.every((word) => all.includes(word))
          || choices.some(({ head, select }) => select.value !== "*" && select.value !== text(row, head))
          || (starred.checked && row.querySelector(".svdlab-star")?.dataset.v !== "1");
      }
      const shown = rows.filter((row) => !row.hidden).length;
      count.textContent = shown === rows.length ? `${shown} rows` : `${shown} of ${rows.length} rows`;
    }
    search.addEventListener("input", filter);
    starred.addEventListener("change", filter);
    for (const { select } of choices) select.addEventListener("change", filter);

    // --- the stage: a few clips in step, or a wall of them
    let staged = [], taken = 0;
    async function gather(chosen, title) {
      staged = chosen;
      const turn = ++taken;
      stage.replaceChildren(make("p", { role: "status" }, `Fetching ${chosen.length} clips …`));
      const urls = new Map(await Promise.all(chosen.map(async (row) => [row, await source(row)])));
      if (turn !== taken) return null;
      const close = make("button", { type: "button" }, "Close");
      close.addEventListener("click", () => { taken++; staged = []; stage.replaceChildren(); });
      const bar = make("div", { className: "svdlab-tools" }, make("strong", {}, title), close);
      stage.replaceChildren(bar);
      return { urls, bar };
    }
    function picture(row, urls, about) {
      const why = row ? row.dataset.error || "This clip is not in the page, and no kernel answers." : "not made";
      if (!row || !urls.get(row)) return make("div", { className: "svdlab-picture" }, make("em", {}, why));
      const video = make("video", { className: film(row).className, src: urls.get(row), muted: true, autoplay: true, playsInline: true, ariaLabel: about });
      Object.assign(video.dataset, { fps: film(row).dataset.fps, frames: film(row).dataset.frames });
      return make("div", { className: "svdlab-picture" }, video);
    }
    function control(inside) {
      const id = "s" + Math.random().toString(36).slice(2);
      const clips = make("div", { className: "svdlab-show", role: "group", ariaLabel: "Clips" }, inside);
      clips.dataset.svdlab = id;
      const controls = make("div", { innerHTML: root.querySelector("template").innerHTML.replaceAll("{" + "{id}}", id) });
      stage.append(clips, controls);
      for (const script of controls.querySelectorAll("script")) script.replaceWith(make("script", { textContent: script.textContent }));
    }
    function tabulate(of, lines) {
      const target = stage.querySelector(".svdlab-measures tbody");
      if (!target || of.join() !== staged.map((row) => +row.dataset.row).join()) return;
      for (const [heading, values] of lines) {
        target.append(make("tr", {}, make("th", { scope: "row" }, heading), ...values.map((value) => make("td", { className: "svdlab-number" }, value))));
      }
    }
    async function show(chosen, gain = "", frame) {
      const got = await gather(chosen, chosen.length > 1 ? `${chosen.length} clips in step` : named(chosen[0]));
      if (!got) return;
      const whole = chosen.length > 1 && chosen.every((row) => got.urls.get(row));
      const grid = make("div", { style: `display: grid; gap: 12px; grid-template-columns: repeat(${Math.min(chosen.length, 3)}, minmax(0, 640px))` });
      for (const row of chosen) {
        const box = picture(row, got.urls, named(row));
        if (whole && gain && row !== chosen[0]) {  // |A − B| by blending: it needs no pixels, which a file:// page may not read
          box.append(...picture(chosen[0], got.urls, "the first clip").children);
          box.classList.add("svdlab-difference");
          box.style.setProperty("--gain", gain);
        }
        grid.append(make("figure", {}, box, make("figcaption", {}, named(row))));
      }
      control(grid);
      const slider = stage.querySelector(".svdlab-bar input");
      if (frame) { slider.value = frame; slider.dispatchEvent(new Event("input")); }
      if (whole) {
        const choices = [["", "off"], ["1", "1×"], ["4", "4×"], ["8", "8×"], ["16", "16×"]];
        const select = make("select", {}, ...choices.map(([value, said]) => make("option", { value }, said)));
        select.value = gain;
        select.addEventListener("change", async () => {
          const paused = stage.querySelector(".svdlab-bar [aria-label=Play]");
          await show(chosen, select.value, paused && slider.value);
          stage.querySelector("select").focus();
        });
        got.bar.append(make("label", {}, "Difference from the first, amplified", select));
      }
      const head = make("tr", {}, make("td"), ...chosen.map((row) => make("th", { scope: "col" }, named(row))));
      const details = [make("caption", {}, "Measures of these clips"), make("thead", {}, head), make("tbody")];
      stage.append(make("table", { className: "svdlab-measures" }, ...details));
      tabulate(chosen.map((row) => +row.dataset.row), measures.map((each) => [each.dataset.measure, chosen.map((row) => text(row, each))]));
      if (alive && chosen.length > 1) ask({ what: "compare", rows: chosen.map((row) => +row.dataset.row) });
    }
    async function wall(across, down) {
      const places = new Map(), edge = (head) => values(head).filter((value) => visible.some((row) => text(row, head) === value));
      const visible = rows.filter((row) => !row.hidden);
      for (const row of visible) {
        const place = JSON.stringify([text(row, across), down && text(row, down)]);
        if (!places.has(place) || (!film(places.get(place)) && film(row))) places.set(place, row);
      }
      if (places.size > WALL) return stage.replaceChildren(make("p", { role: "status" }, `That would be ${places.size} clips: filter the rows first, to ${WALL} at most.`));
      const title = across.dataset.knob + (down ? ` across, ${down.dataset.knob} down` : " across");
      const got = await gather([...places.values()], title);
      if (!got) return;
      const hung = make("table", { className: "svdlab-wall", ariaLabel: title });
      hung.append(make("thead", {}, make("tr", {}, ...(down ? [make("td", { style: "width: 5em" })] : []), ...edge(across).map((value) => make("th", { scope: "col" }, value || "none")))));
      hung.append(make("tbody", {}, ...(down ? edge(down) : [null]).map((line) => make("tr", {}, ...(down ? [make("th", { scope: "row" }, line || "none")] : []), ...edge(across).map((value) => {
        const row = places.get(JSON.stringify([value, line]));
        return make("td", {}, picture(row, got.urls, `${across.dataset.knob} ${value}` + (down ? `, ${down.dataset.knob} ${line}` : "")));
      })))));
      control(hung);
    }

    const chosen = () => rows.filter((row) => row.querySelector(".svdlab-pick input")?.checked);
    const compare = make("button", { type: "button" });
    const tell = () => {
      const n = chosen().length;
      compare.textContent = n < 2 ? "Compare (tick 2 to 6)" : `Compare ${n} clips`;
      compare.disabled = n < 2 || n > 6;
    };
    heads.find((head) => head.classList.contains("svdlab-pick")).textContent = "pick";
    for (const row of rows) {
      if (!film(row)) continue;
      const tick = make("input", { type: "checkbox", ariaLabel: `Compare ${row.dataset.key}` });
      tick.addEventListener("change", tell);
      row.querySelector(".svdlab-pick").replaceChildren(tick);
    }
    compare.addEventListener("click", () => show(chosen()));
    tools.append(search, ...choices.map((choice) => choice.label));
    if (root.querySelector(".svdlab-star")) tools.append(make("label", {}, starred, "starred only"));
    tools.append(count, compare);
    const options = () => knobs.map((head, i) => make("option", { value: i }, head.dataset.knob));
    const across = make("select", {}, ...options()), down = make("select", {}, make("option", { value: "-1" }, "nothing"), ...options());
    const place = (knob) => knobs.findIndex((head) => head.dataset.knob === knob);
    across.value = Math.max(0, place(root.dataset.across));
    down.value = place(root.dataset.down);
    const hang = () => wall(knobs[+across.value], down.value === across.value ? undefined : knobs[+down.value]);
    if (knobs.length) {
      const button = make("button", { type: "button" }, "Wall");
      button.addEventListener("click", hang);
      tools.append(make("span", { className: "svdlab-tools", style: "margin: 0" }, button, make("label", {}, "across", across), make("label", {}, "down", down)));
    }
    tell();
    filter();
    if (root.dataset.open === "wall" && knobs.length) hang();
    if (root.dataset.open === "compare") show(rows);
    ask({ what: "notes" });
  }

  for (const root of document.querySelectorAll('[data-svdlab-review="{{ name }}"]:not([data-ready])')) {
    root.dataset.ready = "";
    root.dataset.lmSuppressShortcuts = "true";  // or JupyterLab takes the keys
    start(root);
  }
})();
