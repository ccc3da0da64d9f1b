// The page of an agent: what it says comes over SSE, what is asked of it goes by POST.
const $ = (id) => document.getElementById(id);
const PAGE = 4096;
const SAMPLES_MAX = 600;
const MAP_INTERVAL_MS = 400;

let token = new URLSearchParams(location.hash.slice(1)).get("token")
  ?? sessionStorage.getItem("token");
if (location.hash.includes("token=")) history.replaceState(null, "", location.pathname);
if (token) sessionStorage.setItem("token", token);

const histories = new Map(); // of migrations, by id
let news = null;
let chosen = null; // the guest that is looked at
let actedOn = null; // the guest that a dialog is about

// --- numbers ------------------------------------------------------------------------------------

function figures(value, unit) {
  const places = value >= 9.95 || Number.isInteger(value) ? 0 : 1;
  return `${value.toFixed(places)}\u00a0${unit}`;
}
function bytes(n) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(4, Math.max(0, Math.floor(Math.log2(Math.max(n, 1)) / 10)));
  return figures(n / 1024 ** power, units[power]);
}
const rate = (n) => `${bytes(n)}/s`;
function time(us) {
  if (us < 1000) return `${us.toFixed(0)}\u00a0µs`;
  if (us < 1e6) return figures(us / 1e3, "ms");
  if (us < 6e7) return figures(us / 1e6, "s");
  return `${Math.floor(us / 6e7)}\u00a0min ${Math.floor(us / 1e6) % 60}\u00a0s`;
}

// --- the agent ----------------------------------------------------------------------------------

function headers(more = {}) {
  return token ? { Authorization: `Bearer ${token}`, ...more } : more;
}

async function order(path, body) {
  const answer = await fetch(path, {
    method: "POST", headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify(body),
  });
  const said = (await answer.text()).trim();
  if (!answer.ok) throw new Error(said || `the agent answered ${answer.status}`);
  return said;
}

async function listen() {
  for (;;) {
    try {
      const answer = await fetch("events", { headers: headers() });
      if (answer.status === 401) await login();
      else if (!answer.ok) throw new Error((await answer.text()).trim());
      else await read(answer.body);
    } catch (error) {
      trouble(`The agent is not heard: ${error.message}`);
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

async function read(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("it has ended");
    pending += value;
    const parts = pending.split("\n\n");
    pending = parts.pop();
    const data = parts.map((part) => part.replace(/^data: /, "")).filter((part) => part[0] === "{");
    if (data.length) { trouble(null); take(JSON.parse(data.at(-1))); }
  }
}

function login() {
  return new Promise((done) => {
    $("login").onclose = () => {
      token = $("token").value.trim();
      sessionStorage.setItem("token", token);
      done();
    };
    $("login").showModal();
  });
}

function trouble(why) {
  $("trouble").hidden = !why;
  $("trouble").textContent = why ?? "";
}

// --- what is seen -------------------------------------------------------------------------------

function take(next) {
  news = next;
  for (const one of news.moving) remember(one);
  const moves = new Set(news.moving.map((one) => one.id));
  for (const id of histories.keys()) if (!moves.has(id)) histories.delete(id);
  if (!news.guests.some((guest) => guest.uuid === chosen)) chosen = null;
  chosen ??= news.moving[0]?.guest_uuid ?? null;
  draw();
}

/** Keeps samples over time: every second one goes when there are many. */
function remember(one) {
  const kept = histories.get(one.id) ?? { samples: [], setback: null };
  histories.set(one.id, kept);
  const last = kept.samples.at(-1);
  // What is not known yet is not drawn.
  const now = { us: one.elapsed_us, sent: one.bytes_on_wire, dirty: one.dirty_rate ?? null,
    pending: one.rounds.length ? one.pages_pending * PAGE : null,
    rounds: one.rounds.length, lanes: one.lanes };
  if (last && now.us <= last.us) return;
  if (last && last.rounds > 0 && now.pending > last.pending) kept.setback = setback(one, last, now);
  now.rate = last ? (now.sent - last.sent) / (now.us - last.us) * 1e6 : one.bandwidth ?? 0;
  now.laneRates = one.lanes.map((lane) => {
    const before = last?.lanes.find((other) => other.lane === lane.lane)?.bytes ?? 0;
    return last ? (lane.bytes - before) / (now.us - last.us) * 1e6 : 0;
  });
  kept.samples.push(now);
  if (kept.samples.length > SAMPLES_MAX) kept.samples = kept.samples.filter((_, at) => at % 2);
}

/** There is more to send than a moment ago: that has a reason. */
function setback(one, last, now) {
  const round = one.rounds.at(-2);
  if (now.rounds > last.rounds && round?.dirty_after) {
    const written = bytes(round.dirty_after * PAGE);
    return `the guest wrote ${written} again while round ${round.round} was sent`;
  }
  const grown = bytes(now.pending - last.pending);
  return `${grown} go again: rewritten by the guest, or not acknowledged`;
}

function draw() {
  const held = document.activeElement;
  const line = held.closest("li");
  drawAll();
  // What had the focus may be gone: the keyboard goes on where it was, and nothing is done by a key
  // that was meant for it.
  if (held.isConnected && !held.closest("[hidden]")) return;
  (line?.isConnected ? line.querySelector(".name") : $("ended-title")).focus();
}

function drawAll() {
  const { host } = news;
  $("address").textContent = host.address;
  const [free, limit] = [host.memory_free_bytes, host.memory_limit_bytes];
  $("host").textContent = `${bytes(free)} free of ${bytes(limit)}; `
    + `moving ${host.migrations_out} out, ${host.migrations_in} in`;
  fill($("guests"), news.guests, (guest) => guest.uuid, makeGuest, drawGuest);
  $("no-guests").hidden = news.guests.length > 0;
  fill($("ended"), news.ended, (one) => one.id, makeEnded, drawEnded);
  $("no-ended").hidden = news.ended.length > 0;
  drawMoving();
}

/** Keeps elements that are there, so that the focus stays where it is. */
function fill(list, items, key, make, show) {
  const old = new Map([...list.children].map((element) => [element.dataset.key, element]));
  items.forEach((item, at) => {
    const element = old.get(key(item)) ?? make(item);
    element.dataset.key = key(item);
    old.delete(key(item));
    if (list.children[at] !== element) list.insertBefore(element, list.children[at] ?? null);
    show(element, item);
  });
  old.forEach((element) => element.remove());
}

function element(name, kind, text = "") {
  const made = document.createElement(name);
  made.className = kind;
  made.textContent = text;
  return made;
}

function button(text, action) {
  const made = element("button", "", text);
  made.type = "button";
  made.addEventListener("click", action);
  return made;
}

function makeGuest(guest) {
  const line = element("li", "");
  const of = (kind) => element("span", kind);
  const name = of("name");
  name.tabIndex = -1;
  line.append(name, of("state"), of("remark"),
    button("Move…", () => openMove(guest)), button("Cancel", () => cancel(guest)),
    button("Decide…", () => openResolve(guest)),
    button("Look", () => { chosen = guest.uuid; draw(); $("moving").scrollIntoView(); }));
  return line;
}

function drawGuest(line, guest) {
  const [name, state, remark, move, stop, decide, look] = line.children;
  const moving = news.moving.find((one) => one.guest_uuid === guest.uuid);
  name.textContent = guest.name;
  state.textContent = guest.state;
  state.className = `state ${guest.state.replace(" ", "-")}`;
  remark.textContent = moving ? progress(moving) : `${bytes(guest.memory_bytes)} ${guest.kind}`
    + (guest.remark ? `, ${guest.remark}` : "");
  const words = [[move, "Move"], [stop, "Cancel"], [decide, "Decide"], [look, "Look at"]];
  for (const [control, word] of words) {
    control.setAttribute("aria-label", `${word} ${guest.name}`);
  }
  move.hidden = guest.state !== "running" || !may("order");
  stop.hidden = !moving || !may("order");
  decide.hidden = !["in doubt", "paused"].includes(guest.state) || !may("manage");
  look.hidden = !moving || guest.uuid === chosen;
}

/** Whether this page has a right; each has those before it. */
function may(right) {
  const rights = ["look", "order", "manage"];
  return rights.indexOf(right) <= rights.indexOf(news.may);
}

function percent(one) {
  return one.pages_total ? Math.floor((1 - one.pages_pending / one.pages_total) * 100) : 0;
}

function progress(one) {
  const way = one.direction === "in" ? `from ${one.peer}` : `to ${one.peer}`;
  const back = histories.get(one.id)?.setback;
  const left = `${percent(one)}\u00a0%, ${bytes(one.pages_pending * PAGE)} to go`;
  return `${way}, ${one.phase}: ${left}${back ? ` ↺ ${back}` : ""}`;
}

function makeEnded(one) {
  const line = element("li", "");
  const of = (kind) => element("span", kind);
  const report = element("a", "", "Report");
  report.href = `report/${one.id}`;
  report.target = "_blank";
  report.addEventListener("click", (event) => {
    // A link shows no token: what it leads to comes as a file.
    if (token) { event.preventDefault(); download(one); }
  });
  line.append(of("name"), of("state"), of("remark"), report);
  return line;
}

function drawEnded(line, one) {
  const [name, state, remark, report] = line.children;
  name.textContent = one.guest;
  state.textContent = one.outcome;
  state.className = `state ${one.outcome.replace(" ", "-")}`;
  const still = one.downtime_us ? `stood still for ${time(one.downtime_us)}` : one.reason;
  const way = one.direction === "in" ? "from" : "to";
  const when = new Date(one.ended_at_ms).toLocaleString();
  remark.textContent = [`${way} ${one.peer}`, still, when].filter(Boolean).join(", ");
  report.setAttribute("aria-label", `Report of ${one.guest}, ${when}`);
}

async function download(one) {
  const answer = await fetch(`report/${one.id}`, { headers: headers() });
  const link = element("a", "");
  link.href = URL.createObjectURL(await answer.blob());
  link.download = `whimbrel-${one.id}.html`;
  link.click();
  URL.revokeObjectURL(link.href);
}

// --- a moving guest -----------------------------------------------------------------------------

function drawMoving() {
  const one = news.moving.find((moving) => moving.guest_uuid === chosen);
  $("moving").hidden = !one;
  if (!one) return;
  const kept = histories.get(one.id);
  const out = one.direction !== "in";
  $("moving-title").textContent = `${one.guest} ${out ? "→" : "←"} ${one.peer}`;
  $("stage").textContent = `${stage(one)}, ${time(one.elapsed_us)}`;
  $("setback").hidden = !kept.setback;
  $("setback").textContent = `↺ ${kept.setback}`;
  const forecast = one.downtime_forecast_us;
  const tiles = [["landed", `${percent(one)} %`], ["left to send", bytes(one.pages_pending * PAGE)],
    ["on the wire", bytes(one.bytes_on_wire)],
    ["downtime, if now", forecast == null ? "too early" : time(forecast)],
    ["downtime allowed", one.downtime_limit_us == null ? "–" : time(one.downtime_limit_us)],
    ["throttled", `${one.throttle_percent} %`]];
  fill($("tiles"), tiles, ([label]) => label, ([label]) => {
    const tile = element("div", "");
    tile.append(element("dt", "", label), element("dd", ""));
    return tile;
  }, (tile, [, said]) => { tile.children[1].textContent = said; });
  $("heat").hidden = !out;
  const now = kept.samples.at(-1);
  const most = Math.max(1, ...kept.samples.map((sample) => Math.max(sample.rate, sample.dirty)));
  curves($("rates"), kept.samples, [["sent", "rate"], ["dirt", "dirty"]], most, rate(most));
  $("rate-sent").textContent = rate(now.rate);
  const known = one.dirty_rate != null;
  $("rate-dirty").textContent = known ? rate(now.dirty) : "(known after the first round)";
  const whole = Math.max(1, ...kept.samples.map((sample) => sample.pending));
  curves($("left"), kept.samples, [["dirt", "pending"]], whole, bytes(whole));
  $("left-now").textContent = bytes(one.pages_pending * PAGE);
  drawRounds(one);
  drawLanes(one, now);
  $("no-events").hidden = one.events.length > 0;
  fill($("events"), one.events, (event) => `${event.us} ${event.said}`, () => element("li", ""),
    (line, event) => line.replaceChildren(element("span", "", time(event.us)), event.said));
}

function stage(one) {
  const round = one.rounds.at(-1);
  return one.phase === "pre-copy" && round ? `pre-copy, round ${round.round}` : one.phase;
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
  if (text !== undefined) made.textContent = text;
  return made;
}

function curves(chart, samples, series, most, label) {
  const last = Math.max(1, samples.at(-1).us);
  const point = (sample, of) =>
    `${(sample.us / last * 396 + 2).toFixed(1)},${(146 - sample[of] / most * 126).toFixed(1)}`;
  const lines = series.map(([kind, of]) =>
    svg("polyline", { class: kind, points: samples
      .filter((sample) => sample[of] != null).map((sample) => point(sample, of)).join(" ") }));
  chart.replaceChildren(svg("line", { class: "mark", x1: 0, x2: 400, y1: 20, y2: 20 }),
    svg("text", { x: 4, y: 14 }, samples.length > 1 ? label : "no figures yet"),
    svg("text", { x: 396, y: 14, "text-anchor": "end" }, time(last)), ...lines);
}

function drawRounds(one) {
  const rounds = one.rounds.slice(-12);
  const dirty = (round) => round.dirty_after * PAGE;
  const most = Math.max(1, ...rounds.map((round) => Math.max(round.bytes, dirty(round))));
  const step = 396 / Math.max(rounds.length, 6);
  const bars = rounds.flatMap((round, at) => {
    const x = 2 + at * step;
    const bar = (kind, value, shift) => svg("rect", { class: kind, x: x + shift, width: step * 0.4,
      y: 132 - value / most * 112, height: value / most * 112 });
    return [bar("sent", round.bytes, 0), bar("dirt", dirty(round), step * 0.42),
      svg("text", { x: x + step * 0.4, y: 145, "text-anchor": "middle" }, round.round)];
  });
  const label = most > 1 ? bytes(most) : "no figures yet";
  $("rounds").replaceChildren(svg("text", { x: 4, y: 14 }, label), ...bars);
}

function drawLanes(one, now) {
  const lanes = one.lanes.slice(0, 8);
  const most = Math.max(1, ...now.laneRates);
  const height = 146 / Math.max(lanes.length, 4);
  const bars = lanes.flatMap((lane, at) => {
    const y = 2 + at * height;
    const said = lane.open ? rate(now.laneRates[at] ?? 0) : `closed after ${bytes(lane.bytes)}`;
    return [svg("text", { x: 4, y: y + height / 2 + 4 }, `lane ${lane.lane}`),
      svg("rect", { class: "sent", x: 52, y: y + height * 0.2, height: height * 0.6,
        width: lane.open ? (now.laneRates[at] ?? 0) / most * 230 : 0 }),
      svg("text", { x: 290, y: y + height / 2 + 4 }, said)];
  });
  $("lanes").replaceChildren(...bars);
  const hidden = one.lanes.length - lanes.length;
  $("lanes-hidden").textContent = hidden ? `and ${hidden} more` : "";
}

// --- the heat map -------------------------------------------------------------------------------

async function lookAtMemory() {
  const one = news?.moving.find((moving) => moving.guest_uuid === chosen);
  if (!one || one.direction === "in" || document.hidden) return;
  const answer = await fetch(`map/${one.guest_uuid}`, { headers: headers() });
  if (answer.status === 200) drawMap((await answer.json()).cells);
}

function drawMap(cells) {
  if (!cells) return;
  const canvas = $("map");
  const wide = Math.max(200, canvas.clientWidth);
  const columns = Math.ceil(Math.sqrt(cells.length * wide / 170));
  const rows = Math.ceil(cells.length / columns);
  const size = wide / columns;
  const scale = window.devicePixelRatio || 1;
  canvas.width = wide * scale;
  canvas.height = rows * size * scale;
  canvas.style.height = `${rows * size}px`;
  const brush = canvas.getContext("2d");
  brush.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const [clean, dirty, flight, landed] = ["--line", "--dirty", "--flight", "--landed"].map(colour);
  const counts = { clean: 0, dirty: 0, flight: 0, landed: 0 };
  const gap = size > 4 ? 1 : 0;
  [...cells].forEach((cell, at) => {
    const [x, y] = [at % columns * size, Math.floor(at / columns) * size];
    const paint = (fill, alpha) => {
      brush.fillStyle = fill;
      brush.globalAlpha = alpha;
      brush.fillRect(x, y, size - gap, size - gap);
    };
    if (cell === ".") { counts.clean += 1; paint(clean, 1); return; }
    if (cell === ">") { counts.flight += 1; paint(flight, 1); return; }
    if (cell === "=") { counts.landed += 1; paint(landed, 1); return; }
    counts.dirty += 1;
    paint(clean, 1);
    paint(dirty, 0.35 + cell / 8 * 0.65);
  });
  const share = (count) => `${Math.round(count / cells.length * 100)} %`;
  const said = `dirty ${share(counts.dirty)}, in flight ${share(counts.flight)}, `
    + `landed ${share(counts.landed)}, clean ${share(counts.clean)} of ${cells.length} pieces`;
  $("map-said").textContent = said;
  canvas.setAttribute("aria-label", `memory: ${said}`);
}

// --- what is asked of the agent -----------------------------------------------------------------

function openMove(guest) {
  actedOn = guest.uuid;
  $("move-title").textContent = `Move ${guest.name} while it runs`;
  $("move-said").textContent = "";
  $("move").showModal();
  $("destination").focus();
}

function openResolve(guest) {
  actedOn = guest.uuid;
  $("resolve-title").textContent = `Who has ${guest.name}?`;
  $("resolve-said").textContent = "";
  $("resolve").showModal();
}

/** Carries an order out, and leaves the dialog open with the reason if it is refused. */
function submits(dialog, said, path, body) {
  $(dialog).querySelector("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const yes = $(`${dialog}-yes`);
    yes.disabled = true;
    try {
      await order(path, body());
      $(dialog).close();
    } catch (error) {
      $(said).textContent = error.message;
    } finally {
      yes.disabled = false;
    }
  });
  $(`${dialog}-no`).addEventListener("click", () => $(dialog).close());
}

submits("move", "move-said", "migrate", () => {
  chosen = actedOn;
  return { guest: actedOn, destination: $("destination").value.trim(),
    downtime_ms: Number($("downtime").value), policy: $("policy").value };
});
submits("resolve", "resolve-said", "resolve", () => {
  const decision = document.querySelector("input[name=decision]:checked").value;
  return { guest: actedOn, decision, peer_is_off: decision === "run-here" };
});

async function cancel(guest) {
  try {
    await order("cancel", { guest: guest.uuid });
  } catch (error) {
    trouble(error.message);
  }
}

setInterval(() => lookAtMemory().catch(() => {}), MAP_INTERVAL_MS);
listen();
