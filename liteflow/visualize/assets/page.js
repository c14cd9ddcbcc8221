// The page of one run, or of a dag that has not run. All that it shows comes from the JSON document in #data, whose
// texts are a stranger's: they reach the page through textContent and through the canvas of the graph, never as markup.
"use strict";
(() => {
  const SHOWN_AT_ONCE = 300; // rows of a list; more on demand
  const SMALL = 150; // nodes that are arranged before anything is drawn
  const LARGE = 800; // nodes from which on fewer crossings are not worth their time
  const MOST_ARRANGED = 3000; // nodes; more stay in columns
  const GROUPS_OPEN_UP_TO = 60; // tasks; in larger dags groups begin collapsed
  const INSTANCES_DRAWN = 24; // of a mapped task that is expanded
  const WAITS_SHOWN_UP_TO = 400; // bars

  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const isRun = data.run !== "";

  // Elements and words

  /** An element. `options`: class, title, listeners under `on`, attributes under `at`; children are elements or text. */
  function el(tag, options = {}, ...children) {
    const made = document.createElement(tag);
    if (options.class) made.className = options.class;
    if (options.title) made.title = options.title;
    for (const [name, value] of Object.entries(options.at || {})) made.setAttribute(name, value);
    for (const [name, listener] of Object.entries(options.on || {})) made.addEventListener(name, listener);
    made.append(...children.filter((child) => child !== null && child !== undefined));
    return made;
  }
  const button = (text, click, options = {}) =>
    el("button", { ...options, at: { type: "button", ...(options.at || {}) }, on: { click } }, text);
  const number = (value) => value.toLocaleString("en-US");
  const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;

  function tookText(ms) {
    if (ms === null || ms === undefined || Number.isNaN(ms)) return "";
    const seconds = Math.max(0, ms) / 1000;
    if (seconds < 0.001) return seconds ? "<1 ms" : "0 s";
    if (seconds < 0.01) return `${(1000 * seconds).toFixed(0)} ms`;
    if (seconds < 1) return `${seconds.toFixed(2)} s`;
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const whole = Math.round(seconds);
    const two = (part) => String(part).padStart(2, "0");
    if (whole < 3600) return `${Math.floor(whole / 60)}:${two(whole % 60)} min`;
    if (whole < 86400) return `${Math.floor(whole / 3600)}:${two(Math.floor((whole % 3600) / 60))}:${two(whole % 60)} h`;
    return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
  }
  function dateOf(ms) {
    const date = new Date(ms);
    return Number.isNaN(date.getTime()) ? null : date;
  }
  const utc = (ms) => (dateOf(ms) ? `${dateOf(ms).toISOString().replace("T", " ").replace("Z", "")} UTC` : String(ms));
  function localText(ms, fraction = false) {
    const date = dateOf(ms);
    if (!date) return String(ms);
    const two = (part) => String(part).padStart(2, "0");
    const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
    const time = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
    return `${day} ${time}${fraction ? "." + String(date.getMilliseconds()).padStart(3, "0") : ""}`;
  }
  const moment = (ms) => (ms === null ? el("span", { class: "dim" }, "-") : el("time", { title: utc(ms) }, localText(ms)));
  const stateWords = (state) => state || "not run";
  const colours = (state) => data.colours[isDark() ? "dark" : "light"][state || "pending"] || data.colours.light.pending;
  function paint(element, state) {
    const [fill, line, ink] = colours(state);
    element.dataset.state = state;
    element.style.background = element.className === "dot" ? line : fill;
    element.style.borderColor = line;
    element.style.color = ink;
    return element;
  }
  const badge = (state, text) => paint(el("span", { class: "state" }, text || stateWords(state)), state);

  // What the document holds, with what follows from it

  const tasks = data.tasks;
  tasks.forEach((task, place) => {
    task.place = place;
    task.down = [];
    task.instances = [];
    task.search = task.id.toLowerCase();
  });
  tasks.forEach((task) => task.up.forEach((up) => tasks[up].down.push(task.place)));
  data.instances.forEach((one, place) => {
    one.place = place;
    tasks[one.task].instances.push(one);
  });
  const nameOf = (one) =>
    one.index < 0 ? tasks[one.task].id : `${tasks[one.task].id}[${one.index}${one.label ? " " + one.label : ""}]`;
  const latestOf = (one) => one.tries[one.tries.length - 1] || null;
  const lengthOf = (a) => (a && a.start !== null && a.end !== null ? a.end - a.start : null);
  const countsText = (counts) =>
    data.order.filter((state) => counts[state]).map((state) => `${number(counts[state])} ${state}`).join(", ");
  function addCounts(into, counts) {
    for (const [state, count] of Object.entries(counts)) into[state] = (into[state] || 0) + count;
    return into;
  }
  const urgent = (counts) => data.urgency.find((state) => counts[state]) || "";

  // Groups: a tree of those that tasks name, by the path of ids from the outermost

  const root = { place: -1, id: "", parent: null, groups: new Map(), tasks: [], size: 0, counts: {} };
  const groups = [];
  tasks.forEach((task) => {
    let here = root;
    for (const id of task.groups) {
      if (!here.groups.has(id)) {
        const made = { place: groups.length, id, parent: here, groups: new Map(), tasks: [], size: 0, counts: {} };
        groups.push(made);
        here.groups.set(id, made);
      }
      here = here.groups.get(id);
    }
    task.group = here;
    here.tasks.push(task);
    for (let up = here; up; up = up.parent) {
      up.size += 1;
      addCounts(up.counts, task.counts);
    }
  });
  const closed = new Set(tasks.length > GROUPS_OPEN_UP_TO ? groups : []);
  const expanded = new Set(); // mapped tasks whose instances are drawn

  // Light and dark

  const systemDark = window.matchMedia("(prefers-color-scheme: dark)");
  let theme = "auto";
  try {
    const kept = window.localStorage.getItem("liteflow-theme");
    if (kept === "light" || kept === "dark") theme = kept;
  } catch {
    // A page from a file may have no storage: then the choice lasts as long as the page.
  }
  function isDark() {
    return theme === "dark" || (theme === "auto" && systemDark.matches);
  }
  function applyTheme() {
    document.documentElement.classList.toggle("dark", isDark());
    document.documentElement.classList.toggle("light", !isDark());
    byId("theme").textContent = { auto: "◐ auto", light: "☀ light", dark: "☾ dark" }[theme];
    document.querySelectorAll("[data-state]").forEach((element) => paint(element, element.dataset.state));
    if (cy) restyle();
  }
  byId("theme").addEventListener("click", () => {
    theme = { auto: isDark() ? "light" : "dark", light: isDark() === systemDark.matches ? "auto" : "dark", dark: isDark() === systemDark.matches ? "auto" : "light" }[theme];
    try {
      window.localStorage.setItem("liteflow-theme", theme);
    } catch {
      // As above.
    }
    applyTheme();
  });
  systemDark.addEventListener("change", () => applyTheme());

  // The head

  function showHead() {
    byId("dag").textContent = data.dag;
    if (isRun) {
      byId("run").textContent = data.run;
      byId("run-state").append(badge(data.state_colour, data.state_words + (data.reason ? ` (${data.reason})` : "")));
    } else {
      byId("run").textContent = "has not run";
    }
    const facts = byId("facts");
    const fact = (name, ...value) => facts.append(el("span", {}, el("b", {}, name), ...value));
    const long = (name, text) => {
      const made = el("span", { class: "more", title: text.slice(0, 2000), at: { tabindex: "0" } }, el("b", {}, name), text);
      const toggle = () => made.classList.toggle("open");
      made.addEventListener("click", toggle);
      made.addEventListener("keydown", (event) => event.key === "Enter" && toggle());
      facts.append(made);
    };
    const times = data.times;
    if (times.start !== null) fact("started", moment(times.start));
    else if (times.created !== null) fact("created", moment(times.created));
    if (times.start !== null && times.end !== null) fact("took", tookText(times.end - times.start));
    if (times.logical !== null) fact("logical date", moment(times.logical));
    fact("tasks", number(data.size.tasks) + (data.size.instances > data.size.tasks ? ` (${plural(data.size.instances, "instance")})` : ""));
    if (data.params.length) long("params", data.params.map(([name, value]) => `${name}=${value}`).join("  "));
    if (data.tags.length) fact("tags", data.tags.join(", "));
    if (data.file) long("file", data.file);
    if (data.description) long("about", data.description);
    const notes = byId("notes");
    if (isRun && times.end === null) {
      data.notes.unshift(`The run was not over when this page was made, ${localText(times.made)}.`);
    }
    data.notes.forEach((note) => notes.append(el("p", {}, note)));
    notes.hidden = !data.notes.length;
  }

  // The list of tasks, the search and the legend

  const chosen = new Set(); // states; all when it is empty
  let wanted = "";
  const isShown = (task) =>
    (!wanted || task.search.includes(wanted)) && (!chosen.size || [...chosen].some((state) => task.counts[state]));

  function showLegend() {
    const legend = byId("legend");
    data.order.filter((state) => root.counts[state]).forEach((state) => {
      const chip = button(`${state} ${number(root.counts[state])}`, () => {
        if (!chosen.delete(state)) chosen.add(state);
        chip.setAttribute("aria-pressed", String(chosen.has(state)));
        legend.toggleAttribute("data-some", chosen.size > 0);
        filterChanged();
      }, { at: { "aria-pressed": "false" }, title: `Only tasks with ${state} instances` });
      legend.append(paint(chip, state));
    });
    legend.hidden = !legend.children.length;
  }

  let listed = SHOWN_AT_ONCE;
  function showTasks() {
    const list = byId("tasks");
    const found = tasks.filter(isShown);
    list.replaceChildren(
      ...found.slice(0, listed).map((task) => {
        const one = task.mapped ? null : task.instances[0];
        const took = one ? tookText(lengthOf(latestOf(one))) : "";
        const name = task.mapped && isRun ? `${task.id} [${number(task.size)}]` : task.id;
        const made = button("", () => open({ task }), { title: [task.id, countsText(task.counts)].filter(Boolean).join("\n") });
        made.dataset.task = task.place;
        made.append(paint(el("span", { class: "dot", at: { "aria-hidden": "true" } }), task.state));
        made.append(el("span", { class: "name" }, name), el("span", { class: "took" }, took || (task.mapped ? "" : task.note)));
        made.setAttribute("aria-label", `${name}, ${task.mapped ? countsText(task.counts) : stateWords(task.state)} ${took}`);
        return el("li", {}, made);
      })
    );
    const more = byId("more-tasks");
    more.hidden = found.length <= listed && found.length > 0;
    more.replaceChildren(
      found.length ? `${number(found.length - listed)} more. Search, or ` : tasks.length ? "No such task." : "The dag has no tasks.",
      found.length > listed ? button("list them", () => { listed = Infinity; showTasks(); }, { class: "link" }) : ""
    );
    markCurrent();
  }
  function markCurrent() {
    document.querySelectorAll("#tasks button").forEach((made) => {
      if (current && Number(made.dataset.task) === current.task.place) made.setAttribute("aria-current", "true");
      else made.removeAttribute("aria-current");
    });
  }
  function filterChanged() {
    listed = SHOWN_AT_ONCE;
    showTasks();
    fadeGraph();
    fadeBars();
    if (!byId("tries-view").hidden) showTries();
  }
  let searching = 0;
  byId("search").addEventListener("input", () => {
    clearTimeout(searching);
    searching = setTimeout(() => {
      wanted = byId("search").value.trim().toLowerCase();
      filterChanged();
    }, 120);
  });
  byId("search").addEventListener("keydown", (event) => {
    const first = byId("tasks").querySelector("button");
    if (event.key === "Enter" && first) {
      clearTimeout(searching);
      wanted = byId("search").value.trim().toLowerCase();
      filterChanged();
      byId("tasks").querySelector("button")?.click();
    } else if (event.key === "ArrowDown" && first) {
      event.preventDefault();
      first.focus();
    }
  });
  byId("tasks").addEventListener("keydown", (event) => {
    const step = { ArrowDown: "nextElementSibling", ArrowUp: "previousElementSibling" }[event.key];
    const next = step && event.target.closest("li")?.[step]?.querySelector("button");
    if (next) {
      event.preventDefault();
      next.focus();
    }
  });

  // One task, or one instance of a mapped one

  let current = null; // {task, instance}
  let openedFrom = null;

  function open(what) {
    const task = what.task || tasks[what.instance.task];
    const instance = what.instance || (task.mapped ? null : task.instances[0] || null);
    if (!current) openedFrom = document.activeElement;
    current = { task, instance };
    const detail = byId("detail");
    const before = detail.hidden;
    detail.hidden = false;
    detail.replaceChildren(...(instance ? instanceDetail(task, instance) : taskDetail(task)));
    detail.scrollTop = 0;
    if (what.focus !== false) detail.focus({ preventScroll: true });
    markCurrent();
    selectInGraph(task, instance, before);
  }
  function close() {
    if (!current) return;
    current = null;
    byId("detail").hidden = true;
    byId("detail").replaceChildren();
    markCurrent();
    if (cy) {
      cy.elements().unselect();
      cy.edges().removeClass("near");
      refit();
    }
    if (openedFrom && openedFrom.isConnected) openedFrom.focus({ preventScroll: true });
    openedFrom = null;
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (event.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName)) {
      event.preventDefault();
      byId("search").focus();
    }
  });

  const heading = (name) =>
    el("div", { class: "top" }, el("h2", {}, name), button("✕", close, { at: { "aria-label": "Close" }, title: "Close (Esc)" }));
  const taskLink = (place) => button(tasks[place].id, () => open({ task: tasks[place] }), { class: "link" });
  function links(places) {
    const made = el("span", {});
    places.slice(0, 30).forEach((place, nth) => made.append(nth ? ", " : "", taskLink(place)));
    if (places.length > 30) made.append(` and ${number(places.length - 30)} more`);
    return made;
  }
  function facts(pairs) {
    const list = el("dl", {});
    pairs.filter(([, value]) => value !== null && value !== "" && value !== undefined).forEach(([name, value]) =>
      list.append(el("dt", {}, name), el("dd", {}, value))
    );
    return list;
  }
  const edges = (task) => [
    ["upstream", task.up.length ? links(task.up) : null],
    ["downstream", task.down.length ? links(task.down) : null],
    ["trigger rule", task.rule],
  ];

  function taskDetail(task) {
    const made = [heading(task.mapped && isRun ? `${task.id} [${number(task.size)}]` : task.id)];
    const line = el("div", { class: "line" });
    data.order.filter((state) => task.counts[state]).forEach((state) =>
      line.append(badge(state, `${number(task.counts[state])} ${state}`))
    );
    if (!isRun) line.append(el("span", { class: "dim" }, [task.mapped ? "mapped" : "", task.note].filter(Boolean).join(", ")));
    if (task.mapped && task.instances.length) {
      line.append(button(expanded.has(task) ? "Collapse in the graph" : "Expand in the graph", () => {
        toggleMapped(task);
        open({ task });
      }));
    }
    made.push(line, facts([
      ["started", task.start === null ? null : moment(task.start)],
      ["took", task.start !== null && task.end !== null ? tookText(task.end - task.start) : null],
      ...edges(task),
    ]));
    if (task.instances.length) {
      const some = task.instances.length < task.size;
      made.push(
        el("h3", {}, some ? `${number(task.instances.length)} of ${number(task.size)} instances, what went wrong first` : "Instances"),
        el("table", {}, el("tbody", {}, ...task.instances.map((one) =>
          el("tr", {},
            el("td", {}, button(`[${one.index}${one.label ? " " + one.label : ""}]`, () => open({ instance: one }), { class: "link" })),
            el("td", {}, badge(one.state)),
            el("td", { class: "number" }, tookText(lengthOf(latestOf(one)))),
            el("td", { class: "wide" }, firstLine(latestOf(one)?.error || ""))
          ))))
      );
    } else if (task.size && isRun) {
      made.push(el("p", { class: "dim" }, "The instances of this task are not in this page."));
    }
    return made;
  }
  const firstLine = (text) => {
    const line = text.trimEnd().split("\n").pop();
    return line.length > 160 ? line.slice(0, 157) + "..." : line;
  };

  function instanceDetail(task, one) {
    const latest = latestOf(one);
    const made = [heading(nameOf(one))];
    const line = el("div", { class: "line" }, badge(one.state), latest?.reason ? el("span", { class: "dim" }, latest.reason) : null);
    if (one.index >= 0) line.append(button(`All ${number(task.size)} instances`, () => open({ task })));
    made.push(line);
    if (latest?.error) made.push(el("h3", {}, "Error"), el("pre", { class: "error" }, latest.error));
    made.push(facts([
      ["started", latest && latest.start !== null ? moment(latest.start) : null],
      ["ended", latest && latest.end !== null ? moment(latest.end) : null],
      ["took", tookText(lengthOf(latest))],
      ["due", one.due === null ? null : moment(one.due)],
      ["try", latest && latest.number > 0 ? String(latest.number) : null],
      ["slot", latest && latest.slot !== null ? String(latest.slot) : null],
      ["pool", one.pool],
      ["reschedules", one.reschedules ? number(one.reschedules) : null],
      ["most memory", one.memory === null ? null : `${(one.memory / 1048576).toFixed(0)} MiB`],
      ...edges(task),
    ]));
    if (one.tries.length > 1) {
      made.push(el("h3", {}, plural(one.tries.length, "try").replace("trys", "tries") + (one.tries_cut ? " (the last ones)" : "")), el("table", {}, el("tbody", {}, ...one.tries.map((a) =>
        el("tr", {},
          el("td", { class: "number" }, String(a.number)),
          el("td", {}, badge(a.state), a.reason ? el("span", { class: "dim" }, ` ${a.reason}`) : null),
          el("td", { class: "when" }, moment(a.start)),
          el("td", { class: "number" }, tookText(lengthOf(a))),
          el("td", { class: "wide" }, firstLine(a.error || ""))
        )))));
    }
    if (one.xcoms.length) {
      made.push(el("h3", {}, "XComs" + (one.xcoms_cut ? ` (the first ${one.xcoms.length})` : "")));
      one.xcoms.forEach(([key, size, text]) =>
        made.push(el("div", { class: "xcom" }, el("span", { class: "mono" }, key), el("span", { class: "dim" }, `  ${size}`), el("pre", {}, text)))
      );
    }
    if (isRun) made.push(...logDetail(one));
    return made;
  }
  function logDetail(one) {
    if (!one.log.length) {
      return [el("h3", {}, "Log"), el("p", { class: "dim" }, one.log_cut ? "Not in this page, which would be too large." : "Nothing was logged.")];
    }
    const made = el("pre", { class: "log", at: { tabindex: "0", "aria-label": "Log" } });
    let before = one.log[0];
    one.log.forEach((line) => {
      const [number, at, level, logger, message] = line;
      if (number !== before[0]) made.append(el("span", { class: "try" }, `try ${number}\n`));
      // The lines of one record, such as a traceback, have one head.
      const goesOn = line !== before && line.slice(0, 4).every((part, nth) => part === before[nth]);
      before = line;
      const bad = level === "ERROR" || level === "CRITICAL" || level === "WARNING";
      const head = [level, logger].filter(Boolean).join(" ");
      if (!goesOn) made.append(el("span", { class: "at", title: utc(at) }, localText(at, true).slice(11) + " "));
      if (!goesOn && head) made.append(el("span", { class: bad ? "bad head" : "at" }, head + " "));
      made.append(el("span", bad ? { class: "bad" } : {}, message + "\n"));
    });
    const title = `Log${one.log_cut ? `: the last ${plural(one.log.length, "line")}` : ""}`;
    return [el("h3", {}, title), made];
  }

  // The graph

  let cy = null;
  let worker = null;
  let touched = false; // whether somebody moved the picture, which then stays where it is
  const measure = document.createElement("canvas").getContext("2d");
  const FONT = getComputedStyle(document.body).fontFamily;

  function shortened(text, most) {
    return text.length <= most ? text : `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}`;
  }
  /** The width and height of a box around lines of text. */
  function sized(node) {
    measure.font = `12px ${FONT}`;
    const widest = Math.max(...node.label.split("\n").map((line) => measure.measureText(line).width));
    node.width = Math.ceil(Math.max(64, widest + 22));
    node.height = 42;
    return node;
  }
  function words(task) {
    if (!isRun) return task.note;
    if (task.mapped) return countsText(task.counts);
    return [task.state, tookText(lengthOf(latestOf(task.instances[0] || { tries: [] }))) || task.note].filter(Boolean).join("  ");
  }
  const label = (first, second) => [shortened(first, 34), second ? shortened(second, 44) : ""].filter(Boolean).join("\n");

  /** Gives each cell its place around the middle of a grid; returns the size of that. */
  function inGrid(cells) {
    const across = data.direction === "TD" ? Math.min(6, cells.length) : Math.ceil(cells.length / Math.min(8, cells.length));
    const [width, height, gap] = [Math.max(...cells.map((cell) => cell.width)), cells[0].height, 12];
    const down = Math.ceil(cells.length / across);
    cells.forEach((cell, nth) => {
      cell.width = width;
      cell.offset = {
        x: ((nth % across) - (across - 1) / 2) * (width + gap),
        y: (Math.floor(nth / across) - (down - 1) / 2) * (height + gap),
      };
    });
    return { width: across * (width + gap) + 40, height: down * (height + gap) + 44 };
  }

  /** What is to be seen, with what is collapsed as one node: nodes with sizes, edges between them. */
  function visible() {
    const nodes = [];
    const boxOf = (group) => (group === root || !group ? null : `g${group.place}`);
    const outermostClosed = (group) => {
      let found = null;
      for (let up = group; up && up !== root; up = up.parent) if (closed.has(up)) found = up;
      return found;
    };
    groups.forEach((group) => {
      if (outermostClosed(group.parent)) return;
      const parent = boxOf(group.parent);
      const name = group.parent !== root && group.id.startsWith(group.parent.id + ".") ? group.id.slice(group.parent.id.length + 1) : group.id;
      if (closed.has(group)) {
        const second = isRun ? countsText(group.counts) : "";
        nodes.push(sized({ id: boxOf(group), parent, kind: "group", state: urgent(group.counts), label: label(`▸ ${name} · ${plural(group.size, "task")}`, second), what: group.place }));
      } else {
        nodes.push({ id: boxOf(group), parent, kind: "box", state: urgent(group.counts), label: `▾ ${shortened(name, 40)}`, what: group.place });
      }
    });
    const standsFor = [];
    tasks.forEach((task) => {
      const hidden = outermostClosed(task.group);
      if (hidden) {
        standsFor.push(boxOf(hidden));
        return;
      }
      const id = `t${task.place}`;
      const parent = boxOf(task.group);
      standsFor.push(id);
      const prefix = task.group !== root ? task.group.id + "." : "";
      const name = prefix && task.id.startsWith(prefix) ? task.id.slice(prefix.length) : task.id;
      const shown = task.mapped ? `${name} [${isRun ? number(task.size) : ""}]` : name;
      const more = { kind: task.mapped ? "mapped" : "task", state: task.state, what: task.place };
      if (!expanded.has(task)) {
        nodes.push(sized({ id, parent, ...more, label: label(shown, words(task)) }));
        return;
      }
      const drawn = task.instances.slice(0, INSTANCES_DRAWN);
      const cells = drawn.map((one) => {
        const took = tookText(lengthOf(latestOf(one)));
        return sized({ id: `i${one.place}`, parent: id, kind: "instance", state: one.state, what: one.place, label: label(`[${one.index}${one.label ? " " + one.label : ""}]`, [one.state, took].filter(Boolean).join("  ")) });
      });
      if (drawn.length < task.size) {
        cells.push(sized({ id: `r${task.place}`, parent: id, kind: "rest", state: "", what: task.place, label: `${number(task.size - drawn.length)} more` }));
      }
      nodes.push({ id, parent, ...more, kind: "opened", label: `▾ ${shortened(shown, 40)}`, ...inGrid(cells) }, ...cells);
    });
    const edges = new Map();
    tasks.forEach((task) =>
      task.up.forEach((up) => {
        const [from, to] = [standsFor[up], standsFor[task.place]];
        if (from === to) return;
        const words = data.labels[`${up} ${task.place}`] || "";
        const known = edges.get(`${from} ${to}`);
        if (!known) edges.set(`${from} ${to}`, { from, to, label: words });
        else if (words && !known.label) known.label = words;
      })
    );
    return { nodes, edges: [...edges.values()] };
  }

  /**
   * The library's layers for what is visible: centres of nodes by id. Runs here or in a worker, knows nothing else.
   */
  function arrange({ nodes, edges, direction, ranker, quick }) {
    /* global dagre */
    // Around a box it leaves half of both distances: room for its padding inside, and for its name outside.
    const gaps = nodes.some((node) => !node.width) ? { nodesep: 26, edgesep: 34, ranksep: 60 } : { nodesep: 16, edgesep: 10, ranksep: 54 };
    const laid = (how) => {
      const graph = new dagre.graphlib.Graph({ compound: true });
      graph.setGraph({ rankdir: direction === "TD" ? "TB" : "LR", ranker: how, ...gaps });
      graph.setDefaultEdgeLabel(() => ({}));
      nodes.forEach((node) => graph.setNode(node.id, { width: node.width || 10, height: node.height || 10 }));
      nodes.forEach((node) => node.parent && graph.setParent(node.id, node.parent));
      edges.forEach(({ from, to }) => graph.setEdge(from, to));
      dagre.layout(graph, { disableOptimalOrderHeuristic: quick });
      return graph;
    };
    let graph;
    try {
      graph = laid(ranker);
    } catch (error) {
      // Its better rankers walk trees as deep as the graph has nodes: more than the stack holds where code is not compiled yet.
      if (!(error instanceof RangeError)) throw error;
      graph = laid("longest-path");
    }
    const places = {};
    nodes.forEach((node) => {
      const { x, y } = graph.node(node.id);
      if (node.width) places[node.id] = { x, y }; // boxes are as large as what is in them
    });
    return places;
  }

  /** Something to look at while the library works: each node as far along as its longest way from a beginning. */
  function inColumns({ nodes, edges }) {
    const across = data.direction === "TD";
    const leaves = nodes.filter((node) => node.width);
    const next = new Map();
    const waiting = new Map(nodes.map((node) => [node.id, 0]));
    edges.forEach(({ from, to }) => {
      next.set(from, [...(next.get(from) || []), to]);
      waiting.set(to, waiting.get(to) + 1);
    });
    const rank = new Map();
    const ready = nodes.filter((node) => !waiting.get(node.id)).map((node) => node.id);
    ready.forEach((id) => rank.set(id, 0));
    for (const id of ready) {
      for (const to of next.get(id) || []) {
        rank.set(to, Math.max(rank.get(to) || 0, rank.get(id) + 1));
        waiting.set(to, waiting.get(to) - 1);
        if (!waiting.get(to)) ready.push(to);
      }
    }
    const columns = [];
    leaves.forEach((node) => {
      const nth = rank.get(node.id) ?? 0;
      (columns[nth] = columns[nth] || []).push(node);
    });
    return inLines(columns.map((column) => column || []), across);
  }
  /** Centres for columns of nodes, each centred; rows for the direction TD. */
  function inLines(columns, across) {
    const places = {};
    let along = 0;
    columns.forEach((column) => {
      const depth = Math.max(0, ...column.map((node) => (across ? node.height : node.width)));
      const total = column.reduce((sum, node) => sum + (across ? node.width : node.height) + 14, 0);
      let place = -total / 2;
      column.forEach((node) => {
        const size = (across ? node.width : node.height) + 14;
        places[node.id] = across ? { x: place + size / 2, y: along + depth / 2 } : { x: along + depth / 2, y: place + size / 2 };
        place += size;
      });
      along += depth + 90;
    });
    return places;
  }
  /**
   * The library's order without its gaps, where most of a large picture would be empty: it keeps long edges straight
   * at any cost of room.
   */
  function squeezed(nodes, places) {
    const across = data.direction === "TD";
    if (nodes.some((node) => !node.width)) return places;
    const layers = new Map();
    let [low, high] = [Infinity, -Infinity];
    nodes.forEach((node) => {
      const { x, y } = places[node.id];
      const [along, place] = across ? [y, x] : [x, y];
      low = Math.min(low, place);
      high = Math.max(high, place);
      layers.set(Math.round(along), [...(layers.get(Math.round(along)) || []), node]);
    });
    const columns = [...layers.entries()].sort((a, b) => a[0] - b[0]).map(([, column]) =>
      column.sort((a, b) => (across ? places[a.id].x - places[b.id].x : places[a.id].y - places[b.id].y)));
    const tallest = Math.max(...columns.map((column) => column.reduce((sum, node) => sum + (across ? node.width : node.height) + 14, 0)));
    return high - low > (nodes.length > LARGE ? 1.4 : 2.5) * tallest && columns.length > 1 ? inLines(columns, across) : places;
  }

  function graphStyle() {
    const dark = isDark();
    const read = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    const [ink, dim, ground, raised, accent] = ["--ink", "--dim", "--ground", "--raised", "--accent"].map(read);
    const base = {
      "font-family": FONT, "font-size": 12, "min-zoomed-font-size": 6, "text-wrap": "wrap", "text-max-width": 600,
      "line-height": 1.25, label: "data(label)",
    };
    const styles = [
      { selector: "node", style: { ...base, shape: "round-rectangle", "text-valign": "center", "text-halign": "center", "border-width": 1.2, "background-color": raised, "border-color": dark ? "#6b6b76" : "#a8a8b1", color: ink, "overlay-opacity": 0 } },
      { selector: "node[width]", style: { width: "data(width)", height: "data(height)" } },
      { selector: ":parent", style: { "text-valign": "top", "text-halign": "center", "text-margin-y": -3, padding: 14, "background-color": raised, "background-opacity": dark ? 0.55 : 0.7, "border-color": dim, "border-opacity": 0.55, color: dim } },
      { selector: "node[kind = 'group']", style: { "border-width": 4, "border-style": "double" } },
      { selector: "node[kind = 'mapped']", style: { ghost: "yes", "ghost-offset-x": 4, "ghost-offset-y": 4, "ghost-opacity": 0.45 } },
      { selector: "node[kind = 'rest']", style: { "border-style": "dashed", color: dim } },
      { selector: "edge", style: { width: 1.3, "line-color": dark ? "#5b5b66" : "#b4b4bd", "target-arrow-color": dark ? "#5b5b66" : "#b4b4bd", "target-arrow-shape": "triangle", "arrow-scale": 0.8, "curve-style": "straight", "overlay-opacity": 0 } },
      { selector: "edge[curve]", style: { "curve-style": "unbundled-bezier", "control-point-distances": "data(bends)", "control-point-weights": "0.25 0.75", "edge-distances": "endpoints", "source-endpoint": data.direction === "TD" ? "180deg" : "90deg", "target-endpoint": data.direction === "TD" ? "0deg" : "270deg" } },
      { selector: "edge[label]", style: { label: "data(label)", "font-family": FONT, "font-size": 11, "min-zoomed-font-size": 6, color: dim, "text-background-color": ground, "text-background-opacity": 0.9, "text-background-padding": 2 } },
    ];
    data.order.forEach((state) => {
      const [fill, border, text] = colours(state);
      styles.push({ selector: `node[state = '${state}'][width]`, style: { "background-color": fill, "border-color": border, color: text } });
    });
    if (tasks.length > LARGE) styles.push({ selector: "node[width]", style: { "border-width": 3 } }); // seen from afar
    styles.push({ selector: "node:selected", style: { "border-width": 4, "border-color": accent } });
    styles.push({ selector: ".faded", style: { opacity: 0.16 } });
    styles.push({ selector: ".near", style: { width: 2.4, "line-color": accent, "target-arrow-color": accent, opacity: 1 } });
    return styles;
  }
  function restyle() {
    cy.style().fromJson(graphStyle()).update();
  }
  function say(text) {
    byId("graph-note").textContent = text;
    byId("graph-note").hidden = !text;
  }

  /** Draw what is visible anew. `keep`: the id of a node that stays where it is on the screen. */
  function drawGraph(keep = null) {
    const seen = visible();
    const anchor = keep && cy.getElementById(keep).nonempty() ? { ...cy.getElementById(keep).renderedPosition() } : null;
    const count = seen.nodes.length;
    const flat = seen.nodes.filter((node) => !node.offset);
    cy.batch(() => {
      cy.elements().remove();
      cy.add(seen.nodes.map(({ id, parent, kind, state, label, what, width, height }) => ({
        group: "nodes", data: { id, kind, state, label, what, ...(parent ? { parent } : {}), ...(width && kind !== "opened" ? { width, height } : {}) },
      })));
      cy.add(seen.edges.map(({ from, to, label }, nth) => ({ group: "edges", data: { id: `e${nth}`, source: from, target: to, ...(label ? { label } : {}) } })));
    });
    if (worker) worker.terminate();
    worker = null;
    say("");
    const finish = (places, fit) => {
      cy.batch(() => seen.nodes.forEach(({ id, parent, kind, offset }) => {
        if (offset) cy.getElementById(id).position({ x: places[parent].x + offset.x, y: places[parent].y + offset.y });
        else if (kind !== "opened" && places[id]) cy.getElementById(id).position(places[id]);
      }));
      bend(count);
      fadeGraph();
      if (current) selectInGraph(current.task, current.instance, false, false);
      if (anchor && cy.getElementById(keep).nonempty()) {
        const now = cy.getElementById(keep).renderedPosition();
        cy.panBy({ x: anchor.x - now.x, y: anchor.y - now.y });
      } else if (fit) fitGraph();
    };
    const job = { nodes: flat, edges: seen.edges, direction: data.direction, ranker: count <= SMALL ? "network-simplex" : "tight-tree", quick: count > LARGE };
    if (count <= SMALL && seen.edges.length <= 2 * SMALL) {
      finish(squeezed(flat, arrange(job)), true);
      window.__drawn = performance.now();
      return;
    }
    finish(inColumns(job), true);
    window.__first = performance.now();
    if (count > MOST_ARRANGED) {
      say(`${plural(count, "node")} are too many to be untangled: they stand in columns.`);
      window.__drawn = performance.now();
      return;
    }
    say(`Untangling ${plural(count, "node")}…`);
    arrangeInWorker(job, (places, error) => {
      say(error ? "The graph could not be untangled: it stands in columns." : "");
      if (places) finish(squeezed(flat, places), !touched);
      window.__drawn = performance.now();
    });
  }
  function arrangeInWorker(job, done) {
    let url = null;
    try {
      const glue = `;${arrange.toString()};onmessage = (event) => postMessage(arrange(event.data));`;
      url = URL.createObjectURL(new Blob([byId("dagre").textContent + glue], { type: "text/javascript" }));
      worker = new Worker(url);
    } catch {
      // No workers here: the page stands still meanwhile.
      setTimeout(() => {
        let places = null;
        try {
          places = arrange(job);
        } catch (error) {
          console.warn(error);
        }
        done(places, !places);
      }, 50);
      return;
    }
    const mine = worker;
    const end = (places, error) => {
      mine.terminate();
      URL.revokeObjectURL(url);
      if (worker === mine) {
        worker = null;
        done(places, error);
      }
    };
    mine.onmessage = (event) => end(event.data, false);
    mine.onerror = (event) => {
      event.preventDefault();
      end(null, true);
    };
    mine.postMessage(job);
  }
  /** Edges as curves that leave and arrive along the direction, where there are few enough to follow them. */
  function bend(count) {
    if (count > 400) return;
    const across = data.direction === "TD";
    cy.batch(() => cy.edges().forEach((edge) => {
      const [from, to] = [edge.source(), edge.target()];
      const [a, b] = [from.position(), to.position()];
      const [dx, dy] = across
        ? [b.x - a.x, b.y - to.outerHeight() / 2 - a.y - from.outerHeight() / 2]
        : [b.x - to.outerWidth() / 2 - a.x - from.outerWidth() / 2, b.y - a.y];
      const [along, side] = across ? [dy, dx] : [dx, dy];
      const length = Math.hypot(dx, dy);
      if (from.isParent() || to.isParent() || along < 10 || length < 1 || Math.abs(side) < 1) return;
      // How far from the straight line, square to it, a point lies that went a quarter of the way without turning.
      const off = (0.25 * along * side) / length;
      const sign = across ? 1 : -1;
      edge.data({ curve: 1, bends: `${(sign * off).toFixed(1)} ${(-sign * off).toFixed(1)}` });
    }));
  }
  function fitGraph() {
    touched = false;
    cy.resize();
    cy.fit(undefined, 30);
    if (cy.zoom() > 1.15) {
      cy.zoom(1.15);
      cy.center();
    }
    // A picture that is far too long is begun at its beginning, at a size at which shapes can be told.
    const least = 0.11;
    if (cy.zoom() < least && cy.nodes().nonempty()) {
      const box = cy.elements().boundingBox();
      cy.zoom(least);
      const pan = { x: 30 - box.x1 * least, y: 30 - box.y1 * least };
      if (box.h * least < cy.height()) pan.y = (cy.height() - (box.y1 + box.y2) * least) / 2;
      else if (box.w * least < cy.width()) {
        pan.x = (cy.width() - (box.x1 + box.x2) * least) / 2;
        pan.y = (cy.height() - (box.y1 + box.y2) * least) / 2;
      }
      cy.pan(pan);
    }
  }
  /** The room has changed. */
  function refit() {
    if (!cy || byId("graph-view").hidden) return;
    cy.resize();
    if (!touched) fitGraph();
  }
  function fadeGraph() {
    if (!cy) return;
    const all = !wanted && !chosen.size;
    cy.batch(() => {
      cy.nodes().forEach((node) => {
        const kind = node.data("kind");
        if (kind === "box" || kind === "opened") return;
        let shown = all;
        if (!all && kind === "group") shown = tasks.some((task) => isShown(task) && isInside(task, groups[node.data("what")]));
        else if (!all && kind === "instance") shown = isShown(tasks[data.instances[node.data("what")].task]) && (!chosen.size || chosen.has(node.data("state")));
        else if (!all) shown = isShown(tasks[node.data("what")]);
        node.toggleClass("faded", !shown);
      });
      cy.edges().toggleClass("faded", !all);
    });
  }
  function isInside(task, group) {
    for (let up = task.group; up; up = up.parent) if (up === group) return true;
    return false;
  }
  /** The node that shows a task or an instance now: itself, or what it is collapsed into. */
  function nodeOf(task, instance) {
    let id = instance && cy.getElementById(`i${instance.place}`).nonempty() ? `i${instance.place}` : `t${task.place}`;
    if (cy.getElementById(id).empty()) {
      for (let up = task.group; up && up !== root; up = up.parent) if (closed.has(up)) id = `g${up.place}`;
    }
    return cy.getElementById(id);
  }
  function selectInGraph(task, instance, resized, pan = true) {
    if (!cy || byId("graph-view").hidden) return;
    if (resized) refit();
    const node = nodeOf(task, instance);
    cy.batch(() => {
      cy.elements().unselect();
      cy.edges().removeClass("near");
      node.select();
      if (!node.isParent()) node.connectedEdges().addClass("near");
    });
    if (!pan || node.empty()) return;
    const { x, y } = node.renderedPosition();
    if (x < 40 || y < 40 || x > cy.width() - 40 || y > cy.height() - 40 || cy.zoom() < 0.3) {
      touched = true;
      const zoom = Math.max(cy.zoom(), 0.6);
      cy.stop().animate({ zoom, center: { eles: node } }, { duration: still() ? 0 : 180 });
    }
  }
  const still = () => window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  function toggleGroup(group) {
    if (!closed.delete(group)) closed.add(group);
    drawGraph(`g${group.place}`);
    showTools();
  }
  function toggleMapped(task) {
    if (!expanded.delete(task)) expanded.add(task);
    if (byId("graph-view").hidden) showTab("graph");
    drawGraph(`t${task.place}`);
    showTools();
  }
  function startGraph() {
    cy = cytoscape({
      container: byId("graph"), elements: [], style: graphStyle(), layout: { name: "preset" }, minZoom: 0.01, maxZoom: 4,
      hideEdgesOnViewport: tasks.length > LARGE, textureOnViewport: tasks.length > LARGE, pixelRatio: tasks.length > LARGE ? 1 : "auto",
      boxSelectionEnabled: false, autoungrabify: true, selectionType: "single",
    });
    cy.on("tap", "node", (event) => {
      const { kind, what } = event.target.data();
      if (kind === "group" || kind === "box") toggleGroup(groups[what]);
      else if (kind === "instance") open({ instance: data.instances[what] });
      else open({ task: tasks[what] });
    });
    cy.on("dbltap", "node[kind = 'mapped'], node[kind = 'opened']", (event) => {
      const task = tasks[event.target.data("what")];
      if (event.target.data("kind") === "opened" || task.instances.length) toggleMapped(task);
    });
    cy.on("mouseover", "node", () => { byId("graph").style.cursor = "pointer"; });
    cy.on("mouseout", "node", () => { byId("graph").style.cursor = ""; });
    cy.on("dragpan scrollzoom pinchzoom", () => { touched = true; });
    new ResizeObserver(refit).observe(byId("graph"));
    if (tasks.length) drawGraph();
    else say("The dag has no tasks.");
    window.__cy = cy; // for those who want to look closer from the console, and for tests
  }

  // The timeline

  let zoom = 1;
  let waits = null;
  let bars = [];

  function openBar(bar) {
    const task = tasks[bar.task];
    const instance = task.instances.find((one) => one.index === bar.index);
    open(instance ? { instance } : { task });
  }
  function showTimeline() {
    const view = byId("timeline-view");
    const time = data.timeline;
    bars = [];
    if (!time || !time.lanes.length) {
      view.replaceChildren(el("p", { class: "empty" }, isRun ? "Nothing has begun yet." : "The dag has not run."));
      return;
    }
    const total = time.lanes.reduce((sum, lane) => sum + lane.bars.length, 0);
    if (waits === null) waits = total <= WAITS_SHOWN_UP_TO;
    const length = Math.max(1, time.end - time.start);
    const grid = el("div", { class: "time" });
    const axis = el("div", { class: "axis" });
    grid.append(el("div", { class: "lane-name corner" }, "since the start"), axis);
    const made = [];
    time.lanes.forEach((lane) => {
      const row = el("div", { class: "lane" });
      grid.append(el("div", { class: "lane-name" }, lane.name), row);
      lane.bars.forEach((bar) => {
        const end = bar.end === null ? time.end : bar.end;
        const left = (100 * (bar.start - time.start)) / length;
        const waited = bar.ready === null ? 0 : bar.start - bar.ready;
        if (waits && waited > 0) {
          const wait = el("div", { class: "wait" });
          wait.style.left = `${(100 * (bar.ready - time.start)) / length}%`;
          wait.style.width = `${(100 * waited) / length}%`;
          row.append(wait);
        }
        const title = [
          bar.name + (bar.number > 1 ? `, try ${bar.number}` : ""), bar.state + (bar.reason ? ` (${bar.reason})` : ""),
          `${localText(bar.start)}, took ${tookText(end - bar.start)}${bar.end === null ? " so far" : ""}`,
          waited > 0 ? `could have begun ${tookText(waited)} before` : "", bar.critical ? "on the critical path" : "",
        ].filter(Boolean).join("\n");
        const piece = button("", () => openBar(bar), { class: `bar${bar.critical ? " critical" : ""}${bar.end === null ? " goes-on" : ""}`, title, at: { "aria-label": title.replaceAll("\n", ", ") } });
        piece.style.left = `${left}%`;
        piece.style.width = `${(100 * (end - bar.start)) / length}%`;
        paint(piece, bar.state);
        row.append(piece);
        made.push({ bar, piece, share: (end - bar.start) / length });
      });
    });
    const path = el("div", { class: "path" });
    if (time.path.length) {
      path.append(el("b", {}, "Critical path "), el("span", { class: "dim" }, "(ringed): "));
      time.path.slice(0, 60).forEach((step, nth) => path.append(nth ? " → " : "", button(step.name, () => openBar(step))));
      if (time.path.length > 60) path.append(` and ${number(time.path.length - 60)} more`);
    }
    if (time.left_out) path.append(el("p", { class: "dim" }, `${plural(time.left_out, "bar")} left out: those of the critical path, failures and the longest are shown.`));
    const layOut = () => {
      const width = Math.max(300, view.clientWidth - grid.firstChild.getBoundingClientRect().width - 30) * zoom;
      grid.style.gridTemplateColumns = `max-content ${width}px`;
      const step = niceStep((length / width) * 110);
      axis.replaceChildren(...[...Array(Math.floor(length / step) + 1).keys()].map((nth) => {
        const tick = el("span", { class: "tick", title: utc(time.start + nth * step) }, tookText(nth * step));
        tick.style.left = `${(100 * nth * step) / length}%`;
        return tick;
      }));
      made.forEach(({ bar, piece, share }) => {
        const room = share * width;
        piece.classList.toggle("thin", room < 14);
        piece.textContent = room > 26 ? bar.name : "";
      });
    };
    view.replaceChildren(path, grid);
    bars = made;
    layTimeline = layOut;
    layOut();
    fadeBars();
  }
  let layTimeline = () => {};
  function niceStep(ms) {
    for (const step of [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5]) {
      if (step >= ms) return step;
    }
    return Math.ceil(ms / 864e5) * 864e5;
  }
  function zoomTimeline(factor) {
    const view = byId("timeline-view");
    const middle = (view.scrollLeft + view.clientWidth / 2) / Math.max(1, view.scrollWidth);
    zoom = Math.min(256, Math.max(1, zoom * factor));
    layTimeline();
    view.scrollLeft = middle * view.scrollWidth - view.clientWidth / 2;
  }
  byId("timeline-view").addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoomTimeline(event.deltaY < 0 ? 1.25 : 0.8);
  }, { passive: false });
  function fadeBars() {
    const all = !wanted && !chosen.size;
    bars.forEach(({ bar, piece }) =>
      piece.classList.toggle("faded", !all && !(isShown(tasks[bar.task]) && (!chosen.size || chosen.has(bar.state)))));
  }

  // The list of tries

  const allTries = data.instances.flatMap((one) =>
    one.tries.filter((a) => a.number > 0).map((a) => ({ one, a, name: nameOf(one) })));
  const COLUMNS = [
    ["Task", (row) => row.name.toLowerCase()],
    ["Try", (row) => row.a.number],
    ["State", (row) => data.urgency.indexOf(row.a.state)],
    ["Slot", (row) => row.a.slot],
    ["Started", (row) => row.a.start],
    ["Took", (row) => lengthOf(row.a)],
    ["Error", (row) => firstLine(row.a.error || "")],
  ];
  let sorted = { column: 4, down: false };
  let rows = SHOWN_AT_ONCE;
  function showTries() {
    const view = byId("tries-view");
    const key = COLUMNS[sorted.column][1];
    const missing = (value) => value === null || value === "";
    const found = allTries.filter((row) => isShown(tasks[row.one.task]) && (!chosen.size || chosen.has(row.a.state)));
    found.sort((left, right) => {
      const [a, b] = [key(left), key(right)];
      if (missing(a) || missing(b)) return missing(a) - missing(b); // what there is not stands at the end, either way
      return (a < b ? -1 : a > b ? 1 : left.a.number - right.a.number) * (sorted.down ? -1 : 1);
    });
    if (!allTries.length) {
      view.replaceChildren(el("p", { class: "empty" }, isRun ? "Nothing has begun yet." : "The dag has not run."));
      return;
    }
    const head = el("tr", {}, ...COLUMNS.map(([name], nth) => {
      const arrow = nth === sorted.column ? (sorted.down ? " ▾" : " ▴") : "";
      const cell = el("th", { at: { scope: "col", "aria-sort": nth !== sorted.column ? "none" : sorted.down ? "descending" : "ascending" } });
      cell.append(button(name + arrow, () => {
        sorted = { column: nth, down: nth === sorted.column ? !sorted.down : nth === 5 };
        showTries();
        view.querySelectorAll("thead button")[nth].focus();
      }));
      return cell;
    }));
    const body = found.slice(0, rows).map(({ one, a, name }) =>
      el("tr", {},
        el("td", { class: "wide" }, button(name, () => open({ instance: one }), { class: "link" })),
        el("td", { class: "number" }, a.number ? String(a.number) : ""),
        el("td", {}, badge(a.state), a.reason ? el("span", { class: "dim" }, ` ${a.reason}`) : null),
        el("td", { class: "number" }, a.slot === null ? "" : String(a.slot)),
        el("td", { class: "when" }, moment(a.start)),
        el("td", { class: "number" }, tookText(lengthOf(a))),
        el("td", { class: "wide" }, firstLine(a.error || ""))
      ));
    const top = view.scrollTop;
    view.replaceChildren(el("table", {}, el("thead", {}, head), el("tbody", {}, ...body)));
    if (!found.length) view.append(el("p", { class: "empty" }, "No such try."));
    if (found.length > rows) {
      view.append(el("p", { class: "empty" }, `${number(found.length - rows)} more. `, button("Show more", () => { rows += 1000; showTries(); })));
    }
    view.scrollTop = top;
  }

  // The three views

  const VIEWS = ["graph", "timeline", "tries"];
  let tab = "graph";
  function showTab(name) {
    tab = name;
    VIEWS.forEach((one) => {
      byId(`${one}-view`).hidden = one !== name;
      byId(`tab-${one}`).setAttribute("aria-selected", String(one === name));
      byId(`tab-${one}`).tabIndex = one === name ? 0 : -1;
    });
    if (name === "timeline") showTimeline();
    if (name === "tries") showTries();
    if (name === "graph" && cy) {
      refit();
      if (current) selectInGraph(current.task, current.instance, false);
    }
    showTools();
  }
  function showTools() {
    const tools = byId("tools");
    tools.replaceChildren();
    if (tab === "graph" && cy) {
      const by = (factor) => () => { touched = true; cy.zoom({ level: cy.zoom() * factor, renderedPosition: { x: cy.width() / 2, y: cy.height() / 2 } }); };
      if (expanded.size) tools.append(button("Collapse mapped", () => { expanded.clear(); drawGraph(); showTools(); }));
      if (groups.length) {
        tools.append(button(closed.size ? "Expand groups" : "Collapse groups", () => {
          if (closed.size) closed.clear();
          else groups.forEach((group) => closed.add(group));
          drawGraph();
          showTools();
        }));
      }
      tools.append(button("−", by(0.8), { title: "Smaller" }), button("+", by(1.25), { title: "Larger" }), button("Fit", fitGraph, { title: "Show all of it" }));
    } else if (tab === "timeline" && data.timeline && data.timeline.lanes.length) {
      const box = el("input", { at: { type: "checkbox" }, on: { change: () => { waits = box.checked; showTimeline(); } } });
      box.checked = waits;
      tools.append(el("label", { title: "From when it could have begun" }, box, "waits"));
      tools.append(button("−", () => zoomTimeline(1 / 1.6), { title: "Shorter (Ctrl and wheel)" }), button("+", () => zoomTimeline(1.6), { title: "Longer (Ctrl and wheel)" }), button("Fit", () => zoomTimeline(0)));
    }
  }
  VIEWS.forEach((name, nth) => {
    const made = byId(`tab-${name}`);
    made.addEventListener("click", () => showTab(name));
    made.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: 2 }[event.key];
      if (!step) return;
      const other = VIEWS[(nth + step) % 3];
      showTab(other);
      byId(`tab-${other}`).focus();
    });
  });
  new ResizeObserver(() => tab === "timeline" && layTimeline()).observe(byId("timeline-view"));

  applyTheme();
  showHead();
  showLegend();
  showTasks();
  showTab("graph");
  // The frame and the list are painted before the graph, which takes longer.
  requestAnimationFrame(() => setTimeout(() => {
    startGraph();
    showTools();
  }));
})();
