"use strict";
// The page of a review. All that it shows comes from its own server, by turns of the queue; texts are set as text.

const $ = (id) => document.getElementById(id);
const all = (what) => [...document.querySelectorAll(what)];
const views = $("views"), stages = all(".stage"), pair = document.body.classList.contains("pair");
const KEEP = 3; // turns around the one that is shown
let who = "", turns = 0, answered = new Set(), kept = new Map(), wish = 0; // wish: the turn that was asked for last
let now = null; // the turn that is shown, as the server has it
let form = {}, saved = false, tool = "", draft = [], cursor = [0.5, 0.5], byKeys = false, zoom = 1, since = 0;

// ---- the server

async function ask(path, body) {
  let reply;
  try {
    reply = await fetch(path, body && { method: "POST", body: JSON.stringify(body) });
  } catch {
    throw new Error("Not saved: the server cannot be reached. Start it again and open its new link.");
  }
  const values = (reply.headers.get("content-type") || "").includes("json") ? await reply.json() : { error: await reply.text() };
  if (!reply.ok) throw new Error(values.error || reply.statusText);
  return values;
}

async function picture(path, kind) {
  const image = new Image();
  image.className = kind;
  image.alt = kind === "image" ? "The image that is judged" : "";
  image.draggable = false;
  image.src = path;
  await image.decode();
  return image;
}

const imageOf = (turn, window) => `image/${turn.item}?low=${window[0]}&high=${window[1]}`;

function load(item) { // each turn once; the next one is here before it is asked for
  if (!kept.has(item)) {
    const loading = (async () => {
      const turn = await ask(`turn/${item}?reviewer=${encodeURIComponent(who)}`);
      const sides = turn.sides.map((own, side) => Promise.all([
        picture(imageOf(turn, turn.window), "image"), picture(`map/${item}/${side}`, "map"),
        own.mean ? picture(`mean/${item}/${side}`, "mean") : null,
      ]));
      return { turn, pictures: await Promise.all(sides) };
    })();
    loading.catch(() => kept.delete(item));
    kept.set(item, loading);
  }
  return kept.get(item);
}

// ---- a turn

async function show(item) {
  wish = item;
  try {
    const { turn, pictures } = await load(item);
    if (wish === item) put(turn, pictures);
  } catch (error) {
    say(error.message, true);
  }
  for (const old of kept.keys()) if (Math.abs(old - item) > KEEP) kept.delete(old);
  for (const next of [item + 1, item + 2]) if (next < turns) load(next).catch(() => {});
}

function put(turn, pictures) {
  now = turn;
  saved = turn.answer !== null;
  const left = JSON.parse(sessionStorage.getItem("draft") || "{}");
  const own = turn.answer || (left.item === turn.item && left.who === who ? left : {});
  form = { verdict: own.verdict || "", reason: own.reason || "", note: own.note || "", shapes: own.shapes || [] };
  stages.forEach((stage, side) => {
    stage.querySelectorAll("img").forEach((old) => old.remove());
    stage.prepend(...pictures[side].slice(0, 2));
  });
  $("means").hidden = pictures.every((each) => !each[2]);
  $("means").lastElementChild.replaceChildren(...pictures.map((each) => each[2]).filter(Boolean));
  $("class").textContent = turn.class;
  $("note").value = form.note;
  const [low, high] = turn.range, span = high - low || 1;
  Object.assign($("centre"), { min: low, max: high });
  Object.assign($("width"), { min: span / 500, max: span });
  setWindow(turn.window, false);
  pick("");
  const empty = turn.sides.map((side, i) => side.empty && (pair ? ["left", "right"][i] : "this")).filter(Boolean);
  say(empty.length ? `The network marks nothing: ${empty.join(" and ")} map is all zero.` : "");
  if (saved || turn.prediction) reveal();
  since = performance.now();
  fit();
  refresh();
  document.body.dataset.turn = turn.item;
}

function refresh() {
  const marked = { verdict: form.verdict, reason: form.reason, tool };
  for (const [kind, value] of Object.entries(marked))
    all(`.${kind}`).forEach((button) => button.setAttribute("aria-pressed", button.dataset[kind] === value));
  $("where").textContent = `Turn ${now.item + 1} of ${turns}, ${answered.size} answered`;
  Object.assign($("progress"), { max: turns, value: answered.size });
  $("save-text").textContent = saved ? "Next" : "Save";
  $("back").disabled = now.item === 0;
  $("on").disabled = now.item + 1 >= turns;
  const count = form.shapes.length;
  const help = { "": "", box: "Drag a box.", polygon: "Click corners; the first one again ends it." };
  $("drawn").textContent = `${count === 1 ? "1 shape" : `${count} shapes`} drawn. ${help[tool]}`;
  draw();
}

function say(text, bad = false) {
  $("said").textContent = text;
  $("said").classList.toggle("bad", bad);
}

function reveal() {
  const names = pair ? ["Left: ", "Right: "] : [""];
  const told = (now.prediction || []).map((text, i) => `${names[i]}${text}`).join("; ");
  say(`${saved ? `Saved: ${now.answer.verdict}${now.answer.reason && `, ${now.answer.reason}`}. ` : ""}Prediction: ${told}.`);
}

function changed() { // what is not saved yet outlives a reload
  saved = false;
  sessionStorage.setItem("draft", JSON.stringify({ ...form, item: now.item, who }));
  refresh();
}

async function save() {
  if (!form.verdict) return say(pair ? "Left, right or unsure?" : "Right, wrong or unsure?", true);
  const known = now.prediction !== null, item = now.item;
  const seconds = Math.min((performance.now() - since) / 1000, 1e6);
  try {
    const turn = await ask("answer", { ...form, reason: form.verdict === "wrong" ? form.reason : "", reviewer: who, item, seconds });
    sessionStorage.removeItem("draft");
    answered.add(item);
    kept.get(item)?.then((entry) => { entry.turn = turn; });
    if (now.item !== item) return;
    Object.assign(now, turn);
    form.reason = turn.answer.reason;
    saved = true;
    refresh();
    reveal();
    if (answered.size === turns) say(`${$("said").textContent} All ${turns} turns are answered. Thank you.`);
    else if (known) next();
  } catch (error) {
    say(error.message, true);
  }
}

function next() {
  if (now.item + 1 < turns) show(now.item + 1);
  else firstOpen();
}

function firstOpen() {
  for (let item = 0; item < turns; item++) if (!answered.has(item)) return show(item);
  say(`All ${turns} turns are answered. Thank you.`);
}

async function undo() {
  try {
    const { item } = await ask("undo", { reviewer: who });
    if (item === null) return say("There is no answer to take back.");
    kept.delete(item);
    sessionStorage.removeItem("draft");
    await begin(item);
    say(`Taken back: turn ${item + 1}.`);
  } catch (error) {
    say(error.message, true);
  }
}

function decide(verdict) {
  form.verdict = verdict;
  changed();
  if (verdict !== "wrong") return save();
  say("What is wrong? 1 to 6, or N for a note; Enter saves.");
}

function because(reason) {
  form.reason = form.reason === reason ? "" : reason;
  form.verdict = "wrong";
  changed();
  if (form.reason === "other") $("note").focus();
}

const go = () => (saved ? next() : save());

// ---- drawing, in shares of the image's width and height

function pick(name) {
  tool = tool === name ? "" : name;
  views.dataset.tool = tool;
  draft = [];
  byKeys = false;
  if (now) refresh();
}

function finish() {
  const points = draft, box = tool === "box";
  draft = [];
  const across = points.map((p) => p[0]), down = points.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...across), Math.max(...across), Math.min(...down), Math.max(...down)];
  if (points.length < (box ? 2 : 3) || x1 - x0 < 0.004 || y1 - y0 < 0.004) return refresh();
  form.shapes = [...form.shapes, { kind: tool, points: box ? [[x0, y0], [x1, y1]] : points }];
  changed();
}

function corner(point) { // set one
  if (tool === "polygon" && draft.length > 2 && near(point, draft[0])) return finish();
  draft.push(point);
  if (tool === "box" && draft.length === 2) finish();
  else draw();
}

function near(a, b) {
  const { width, height } = stages[0].getBoundingClientRect();
  return Math.hypot((a[0] - b[0]) * width, (a[1] - b[1]) * height) < 12;
}

function line(points, kind, closed) {
  const one = document.createElementNS("http://www.w3.org/2000/svg", closed ? "polygon" : "polyline");
  one.setAttribute("points", points.map((p) => p.join(",")).join(" "));
  one.setAttribute("class", kind);
  return one;
}

const rectangle = ([[x0, y0], [x1, y1]]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

function draw() {
  const [x, y] = cursor, pending = draft.length ? [...draft, cursor] : [];
  for (const svg of all(".drawing")) {
    const lines = form.shapes.map((s) => line(s.kind === "box" ? rectangle(s.points) : s.points, "shape", true));
    if (pending.length) lines.push(tool === "box" ? line(rectangle(pending), "shape", true) : line(pending, "shape", false));
    if (tool && byKeys) lines.push(line([[x, 0], [x, 1]], "cross"), line([[0, y], [1, y]], "cross"));
    svg.replaceChildren(...lines);
  }
}

const inside = (value) => Math.min(1, Math.max(0, value));

function at(event) {
  const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
  return [inside((event.clientX - left) / width), inside((event.clientY - top) / height)];
}

for (const svg of all(".drawing")) {
  svg.addEventListener("pointerdown", (event) => {
    if (!tool || event.button) return;
    event.preventDefault();
    byKeys = false;
    cursor = at(event);
    if (tool === "box") {
      svg.setPointerCapture(event.pointerId);
      draft = [cursor];
    } else corner(cursor);
  });
  svg.addEventListener("pointermove", (event) => {
    if (!draft.length) return;
    cursor = at(event);
    draw();
  });
  svg.addEventListener("pointerup", (event) => {
    if (tool === "box" && draft.length && !byKeys) {
      draft.push(at(event));
      finish();
    }
  });
  svg.addEventListener("pointercancel", () => { draft = []; draw(); });
  svg.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    enlarge(event.deltaY < 0 ? 1.2 : 1 / 1.2);
  }, { passive: false });
}

function drawByKey(event) { // whether the key was one of drawing
  const step = event.shiftKey ? 0.05 : 0.01;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
  if (!move && event.key !== " " && event.key !== "Escape" && !(event.key === "Enter" && draft.length > 2)) return false;
  byKeys = true;
  if (move) cursor = cursor.map((value, axis) => inside(value + move[axis]));
  if (event.key === "Escape") pick("");
  else if (event.key === "Enter") finish();
  else if (event.key === " ") corner(cursor);
  draw();
  return true;
}

// ---- the view

function fit() {
  const box = stages[0].parentElement, scale = Math.min(box.clientWidth / now.width, box.clientHeight / now.height) * zoom;
  for (const stage of stages) Object.assign(stage.style, { width: `${now.width * scale}px`, height: `${now.height * scale}px` });
}

function enlarge(by) {
  const boxes = stages.map((stage) => stage.parentElement);
  const middles = boxes.map((b) => [(b.scrollLeft + b.clientWidth / 2) / b.scrollWidth, (b.scrollTop + b.clientHeight / 2) / b.scrollHeight]);
  zoom = Math.min(16, Math.max(1, zoom * by));
  fit();
  boxes.forEach((b, i) => b.scrollTo(middles[i][0] * b.scrollWidth - b.clientWidth / 2, middles[i][1] * b.scrollHeight - b.clientHeight / 2));
}

function setOpacity(value) {
  $("opacity").value = value;
  $("opacity-value").textContent = `${$("opacity").value} %`;
  views.style.setProperty("--opacity", $("opacity").value / 100);
}

function setWindow([low, high], ask = true) {
  Object.assign($("centre"), { value: (low + high) / 2 });
  Object.assign($("width"), { value: high - low });
  windowed(ask);
}

let waiting = false;
function windowed(ask = true) { // one picture is on its way at most, the last window counts
  for (const name of ["centre", "width"]) $(`${name}-value`).textContent = Number(Number($(name).value).toPrecision(4));
  if (!ask || waiting) return;
  const turn = now, key = $("centre").value + $("width").value, [centre, width] = [+$("centre").value, +$("width").value];
  waiting = true;
  picture(imageOf(turn, [centre - width / 2, centre + width / 2]), "image").then((image) => {
    if (turn === now) all(".stage .image").forEach((old) => { old.src = image.src; });
  }).finally(() => {
    waiting = false;
    if (turn === now && key !== $("centre").value + $("width").value) windowed();
  });
}

function reset() {
  zoom = 1;
  setOpacity(45);
  setWindow(now.window);
  fit();
}

// ---- who, keys and buttons

async function begin(item) {
  const state = await ask(`state?reviewer=${encodeURIComponent(who)}`);
  turns = state.turns;
  answered = new Set(state.answered);
  if (item !== undefined) return show(item);
  let first = 0;
  while (answered.has(first) && first + 1 < turns) first++;
  return show(first);
}

async function start(name) {
  who = name;
  localStorage.setItem("reviewer", name);
  $("reviewer").textContent = name;
  kept = new Map();
  try {
    await begin();
    if ($("who").open) $("who").close();
  } catch (error) {
    say(error.message, true);
  }
}

$("who").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("name").value.trim()) start($("name").value.trim());
});

const press = (id, what) => $(id).addEventListener("click", what);
press("rename", () => $("who").showModal());
press("save", () => go());
press("undo", () => undo());
press("remove", () => { if (draft.length) draft.pop(); else form.shapes = form.shapes.slice(0, -1); changed(); });
press("hide", () => $("hide").setAttribute("aria-pressed", views.classList.toggle("hidden")));
press("larger", () => enlarge(1.5));
press("smaller", () => enlarge(1 / 1.5));
press("reset", () => reset());
press("back", () => show(now.item - 1));
press("on", () => show(now.item + 1));
press("open", () => firstOpen());
for (const button of all(".verdict")) button.addEventListener("click", () => decide(button.dataset.verdict));
for (const button of all(".reason")) button.addEventListener("click", () => because(button.dataset.reason));
for (const button of all(".tool")) button.addEventListener("click", () => pick(button.dataset.tool));
for (const button of all("button")) button.addEventListener("click", (event) => { if (event.detail) button.blur(); }); // else Enter presses it again
$("note").addEventListener("input", () => { form.note = $("note").value; changed(); });
$("opacity").addEventListener("input", () => setOpacity($("opacity").value));
for (const name of ["centre", "width"]) $(name).addEventListener("input", () => windowed());
addEventListener("resize", () => now && fit());

addEventListener("keydown", (event) => {
  if (!now || $("who").open || event.ctrlKey || event.altKey || event.metaKey) return;
  const target = event.target, writes = target.matches("textarea, input");
  if (event.key === "Escape" && writes) return target.blur();
  if (writes || !$("keys").checked) return;
  if (target.matches("button, summary") && (event.key === " " || event.key === "Enter")) return;
  const key = event.key.length === 1 ? event.key.toUpperCase() : event.key;
  const button = document.querySelector(`button[data-key="${CSS.escape(key)}"]`);
  if (tool && drawByKey(event)) event.preventDefault();
  else if (key === "Enter") { event.preventDefault(); go(); }
  else if (key === "N") { event.preventDefault(); $("note").focus(); }
  else if (key === "[" || key === "]") setOpacity(+$("opacity").value + (key === "]" ? 5 : -5));
  else if (button && !button.disabled) { event.preventDefault(); button.click(); }
});

setOpacity(45);
const known = localStorage.getItem("reviewer");
if (known) start(known);
else $("who").showModal();
$("name").value = known || "";
