// The page's script: collects moves, asks the server for one answer at a time (the latest), and puts panels in place.
"use strict";
(function () {
  let moves = {};            // texts by control, "~octaves" while a slider moves
  let asking = false, waiting = false;
  let input = null;          // when the browser last took an input
  let movedAt = null;        // when the oldest move that is not yet answered was made
  let settled = null;        // timer: a quiet moment after the last move
  let pushed = null;         // the query of the newest entry of the history
  let held = null;           // what the pointer holds
  let typing = null;         // the field with a text that is not yet entered
  let notice = "";           // what was wrong with the address
  let told = "";             // what the last move did beside itself
  let answer = null;
  const drawn = {};          // what panels have in them
  const byId = (id) => document.getElementById(id);
  const SLID = "~", AS_GIVEN = "as the scenario has it";

  async function post(path, body) {
    const reply = await fetch("/" + path, {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body), cache: "no-store"});
    if (!reply.ok) throw new Error(await reply.text());
    return reply.json();
  }

  function fill(id, html) {  // what has not changed is not laid out again
    if (drawn[id] === html) return;
    drawn[id] = html;
    byId(id).innerHTML = html;
  }

  function say(text) { byId("status").textContent = text; }

  // ---- from a move to its answer --------------------------------------------------------------------------------

  function ask() {
    if (movedAt === null) movedAt = input === null ? performance.now() : input;
    input = null;
    clearTimeout(settled);
    if (asking) { waiting = true; return; }
    asking = true;
    waiting = false;
    const since = movedAt, sent = Object.assign({}, moves);
    movedAt = null;
    post("answer", {moves: sent}).then((found) => {
      draw(found, sent, waiting);
      requestAnimationFrame(() => setTimeout(() => {  // once it is painted
        performance.measure("explore", {start: since, end: performance.now()});
      }));
    }).catch(() => {
      problem("The server does not answer: is kinesim explore still running?");
    }).finally(() => {
      asking = false;
      if (waiting) ask(); else settled = setTimeout(settle, 300);
    });
  }

  function draw(found, sent, more) {
    const errors = found.errors || {};
    for (const row of document.querySelectorAll(".wrong")) {
      const key = row.id.slice("wrong-".length), text = errors[key] || "";
      if (row.textContent !== text) row.textContent = text;
      const box = byId("row-" + key), field = byId("text-" + key);
      box.classList.toggle("bad", text !== "");
      if (field) field.setAttribute("aria-invalid", text !== "" ? "true" : "false");
      if (text !== "") box.closest("details").open = true;
    }
    problem(errors[""] || notice);
    const bad = Object.keys(errors).length > 0;
    byId("results").classList.toggle("stale", bad);
    byId("do-run").disabled = bad;
    byId("do-yaml").disabled = bad;
    byId("do-command").disabled = bad;
    if (bad) {
      say("Not possible as it is; what is shown is from before.");
      controls(found, more);
      address(found.query);
      return;
    }
    say(told);
    answer = found;
    for (const [id, html] of Object.entries(found.panels)) fill(id, html);
    byId("where").textContent = found.where;
    for (const key of Object.keys(sent)) {  // what was a slider's position is a text now, unless it has moved on
      if (moves[key] === sent[key] && key in found.moves) moves[key] = found.moves[key];
    }
    controls(found, more);
    for (const [key, sizes] of Object.entries(found.possible)) {
      for (const option of byId("pick-" + key).options) {
        const fits = option.value === "" || sizes.includes(option.value);
        const text = fits ? option.value || AS_GIVEN : option.value + " (not with the rest)";
        if (option.textContent !== text) option.textContent = text;
      }
    }
    address(found.query);
  }

  // Texts, sliders and choices as the answer has them, but for what moves on meanwhile.
  function controls(found, more) {
    for (const [key, [text, octaves]] of Object.entries(found.sliders)) {
      const field = byId("text-" + key), slider = byId("slide-" + key);
      const sliding = key in moves && moves[key].startsWith(SLID);
      if (!sliding && typing !== field && field.value !== text) field.value = text;
      if (!sliding && !more && held !== slider && slider.value !== String(octaves)) slider.value = octaves;
      if (slider.getAttribute("aria-valuetext") !== text) slider.setAttribute("aria-valuetext", text);
    }
    for (const [key, value] of Object.entries(found.choices)) {
      const pick = byId("pick-" + key);
      if (!more && pick.value !== value) pick.value = value;
    }
  }

  function problem(text) {
    byId("problem").textContent = text;
    byId("problem").hidden = text === "";
  }

  // Once nothing has moved for a moment: an entry of the history, and what takes longer.
  function settle() {
    if (pushed !== null && location.search !== pushed) {
      const now = location.pathname + location.search;
      history.replaceState(null, "", location.pathname + pushed);
      history.pushState(null, "", now);
    }
    pushed = location.search;
    if (answer === null || byId("results").classList.contains("stale")) return;
    const query = answer.query;
    post("elastic", {moves: answer.moves}).then((found) => {
      if (found.panels && answer.query === query && !asking) fill("elastic", found.panels.elastic);
    }).catch(() => {});
  }

  function address(query) {
    const search = query ? "?" + query : "";
    if (search !== location.search) history.replaceState(null, "", location.pathname + search);
  }

  function fromAddress() {
    moves = {};
    told = "";
    pushed = location.search;
    post("parse", {query: location.search}).then((found) => {
      moves = found.moves || {};
      notice = Object.values(found.errors || {}).join("; ");  // an address that is none: from the start
      ask();
    }).catch(() => problem("The server does not answer: is kinesim explore still running?"));
  }

  function moved(id, value) {
    const part = id.slice(0, id.indexOf("-")), key = id.slice(id.indexOf("-") + 1), text = value.trim();
    if (part === "slide") moves[key] = SLID + text;
    else if (text === "") delete moves[key];
    else moves[key] = text;
    if (id === "pick-scenario") moves = text ? {scenario: text} : {};
    notice = "";
    told = "";
    if (id === "pick-gpu") {
      const gone = (answer ? answer.figures : []).filter((name) => name in moves);
      for (const name of gone) delete moves[name];
      const labels = gone.map((name) => document.querySelector(`label[for="text-${name}"]`).textContent);
      if (gone.length > 0) told = "Choosing a GPU takes all of its own figures: " + labels.join(", ") + " set back.";
    }
    ask();
  }

  // ---- the whole simulation -------------------------------------------------------------------------------------

  let run = null;
  function buttons() {
    byId("do-run").hidden = run !== null;
    byId("do-cancel").hidden = run === null;
  }

  function start() {
    run = "";
    buttons();
    post("run", {moves: answer.moves}).then((found) => {
      if (!found.id) throw new Error(found.problem);
      if (run === "") run = found.id; else { post("cancel", {id: found.id}); return; }
      watch();
    }).catch((error) => { run = null; buttons(); byId("simulated").innerHTML = ""; problem(error.message); });
  }

  function watch() {
    const id = run;
    if (!id) return;
    post("progress", {id: id}).then((found) => {
      if (run !== id) return;
      byId("simulated").innerHTML = found.panel;
      if (found.running) { setTimeout(watch, 300); return; }
      run = null;
      buttons();
      say("The simulation has ended; its result is above the roofline.");
    }).catch(() => { run = null; buttons(); problem("The simulation was lost: is kinesim explore still running?"); });
  }

  function cancel() {
    const id = run;
    run = null;
    buttons();
    byId("simulated").innerHTML = "";
    if (id) post("cancel", {id: id}).catch(() => {});
    say("The simulation was cancelled.");
  }

  async function copy(text, what) {
    try {
      await navigator.clipboard.writeText(text);
      say(what + " copied.");
    } catch (refused) {
      const dialog = document.createElement("dialog"), area = document.createElement("textarea");
      const close = document.createElement("button");
      area.value = text; area.rows = 24; area.cols = 90; area.readOnly = true;
      area.setAttribute("aria-label", what);
      close.textContent = "Close";
      close.onclick = () => dialog.close();
      dialog.onclose = () => dialog.remove();
      dialog.append(area, close);
      document.body.append(dialog);
      dialog.showModal();
      area.select();
      say(what + ": the browser does not let it be copied by a button; it is selected.");
    }
  }

  const actions = {
    run: start, cancel: cancel,
    yaml: () => post("yaml", {moves: answer.moves}).then((found) => copy(found.yaml, "YAML"))
      .catch(() => problem("The server does not answer: is kinesim explore still running?")),
    command: () => copy(answer.command, "Command"),
    link: () => copy(location.href, "Link"),
    reset: () => { moves = {}; told = ""; ask(); },
  };

  document.addEventListener("input", (event) => {
    if (event.target.type === "range") { input = event.timeStamp; moved(event.target.id, event.target.value); }
    if (event.target.type === "text") typing = event.target;
  });
  document.addEventListener("change", (event) => {
    if (event.target.type === "text") typing = null;
    if (event.target.type === "text" || event.target.tagName === "SELECT") {
      input = event.timeStamp;
      moved(event.target.id, event.target.value);
    }
  });
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  document.querySelector(".actions").addEventListener("click", (event) => {
    const key = event.target.id.slice("do-".length);
    if (key in actions && (answer !== null || key === "reset")) actions[key]();
  });
  window.addEventListener("pointerdown", (event) => { held = event.target; });
  window.addEventListener("pointerup", () => { held = null; });
  window.addEventListener("popstate", fromAddress);
  fromAddress();
})();
