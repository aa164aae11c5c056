// The page: asks its server every two seconds, draws what changed, and sends commands. It decides nothing.

const LOOK_MS = 2000, CHARTS_MS = 5000, SAID_MS = 12000;
const $ = (id) => document.getElementById(id);
const KEYS = { p: "promote", a: "abort", t: "retry" };
const QUESTIONS = {
  promote: ["Promote", (r) => `Step ${r.step} (${now(r)}) ends here, whatever it waits for, and the rollout goes on.`],
  pause: ["Pause", (r) => `The rollout holds at step ${r.step} (${now(r)}), with the canary at ${r.weight.desired} %.`],
  resume: ["Resume", (r) => `The rollout goes on at step ${r.step} (${now(r)}).`],
  abort: ["Abort", (r) => `Model version ${r.canary.version} is withdrawn and all requests go to ${r.stable ? `version ${r.stable.version}` : "nobody"}. It stays rejected until somebody retries it.`],
  retry: ["Retry", () => "The rejected target starts again at its first step."],
};
const state = { token: token(), etag: "", said: null, releases: [], readOnly: false, problem: "", open: "", busy: false, lost: false };

// --- the server

function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem("token", given); // of this tab alone
    history.replaceState(null, "", "/");
  }
  return given || sessionStorage.getItem("token") || "";
}

async function ask(path, options = {}) {
  const headers = { authorization: `Bearer ${state.token}`, ...options.headers };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.status === 304) return { etag: state.etag };
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return { body, etag: answer.headers.get("etag") };
}

async function look() {
  try {
    const { body, etag } = await ask("/api/releases", { headers: { "if-none-match": state.etag } });
    if (body) {
      Object.assign(state, { etag, releases: body.releases, readOnly: body.readOnly, problem: body.problem });
      $("where").textContent = body.where + (body.readOnly ? " · read only" : "");
      $("prometheus").textContent = body.prometheus;
    }
    if (body || state.lost) {
      draw();
      charts();
    }
    live("live");
  } catch (error) {
    live("no answer", true);
    trouble(error instanceof TypeError ? "The page's server does not answer: is `kubectl modelrelease dashboard` still running?" : error.message);
    state.etag = "";
  }
}

async function send(release, verb) {
  const seen = release.canary ? { revision: release.canary.revision, step: release.step } : {};
  say(`${verb}: asked, waiting for the operator …`);
  state.busy = true;
  draw();
  try {
    const { body } = await ask(`/api/releases/${key(release)}/command`, { method: "POST", body: JSON.stringify({ verb, ...seen }) });
    say(`${verb}: ${body.outcome}`);
  } catch (error) {
    say(`${verb}: ${error.message}`);
  }
  state.busy = false;
  state.etag = "";
  await look();
  draw();
}

// --- drawing

function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== false));
  return element;
}

function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  parent.replaceChildren(...children.flat().filter(Boolean));
  if (focused) ($(focused) ?? $("content")).focus({ preventScroll: true });
}

const key = (release) => `${release.namespace}/${release.name}`;
const now = (release) => release.steps[release.step - 1]?.label ?? "";
const at = (instant) => instant.slice(0, 16).replace("T", " ");
const number = (value) => (value >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString());

function draw() {
  const release = state.releases.find((each) => key(each) === state.open);
  const gone = state.open && state.etag && !release;
  trouble(state.problem || (gone && `There is no release ${state.open} (any more).`));
  $("list").hidden = Boolean(release);
  $("detail").hidden = !release;
  document.title = release ? `${release.name}: ${release.phase} · Serinus` : "Releases · Serinus";
  if (!release) fill($("list"), h("h1", {}, "Releases"), state.releases.length ? listed() : state.etag && !state.problem && h("p", { class: "empty" }, "No ModelRelease here: -n names another namespace, -A shows all."));
  else {
    fill($("facts"), facts(release));
    fill($("past"), past(release));
  }
}

function listed() {
  const heads = ["Release", "Phase", "Stable → canary", "Weight", "Step", "Verdict"].map((text) => h("th", { scope: "col", role: "columnheader" }, text));
  const row = (release) =>
    h("tr", { role: "row", class: release.canary ? "rolls" : "rests" },
      h("td", { role: "cell", class: "where" }, h("a", { id: `open-${key(release)}`, href: `#/${key(release)}` }, release.name), h("div", { class: "what" }, `${release.namespace} · ${release.model}`)),
      h("td", { role: "cell", class: "is" }, h("span", { class: `phase ${release.phase}` }, release.phase)),
      h("td", { role: "cell", class: "versions" }, versions(release)),
      h("td", { role: "cell", class: "weighs" }, weight(release)),
      h("td", { role: "cell", class: "goes" }, track(release)),
      h("td", { role: "cell", class: "says" }, h("span", { class: release.verdict }, release.canary ? release.verdict || "–" : "–")));
  return h("table", { class: "releases", role: "table", "aria-label": "Releases" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), h("tbody", { role: "rowgroup" }, state.releases.map(row)));
}

function versions({ stable, canary }) {
  const one = (role, revision) => h("span", { class: role }, `version ${revision.version}`);
  if (stable && canary) return [one("stable", stable), " → ", one("canary", canary)];
  return [stable ? one("stable", stable) : canary ? one("canary", canary) : "–"];
}

function weight({ weight, canary }) {
  const says = canary ? `${weight.desired} %` : "–";
  const label = canary ? `canary ${weight.desired} % wanted, ${weight.achieved} % achieved` : "all on stable";
  return h("span", { class: "weight" }, h("span", { class: `bar${canary ? "" : " idle"}`, role: "img", "aria-label": label, title: label, "--share": `${weight.desired}%` }, h("i")), says);
}

function track(release) {
  if (!release.canary) return h("span", { class: "what" }, release.phase === "Healthy" ? "at rest" : release.message);
  const label = release.canary.ending ? "withdraw" : `${release.step}/${release.steps.length} ${now(release)}`;
  return [h("ol", { class: "track", "aria-hidden": "true" }, release.steps.map((step) => h("li", { class: step.state, title: step.label }))), h("span", { class: "what" }, label)];
}

function facts(release) {
  const said = release.answer ? `Last command: ${release.answer.verb}, ${release.answer.outcome} (${at(release.answer.at)} UTC)` : "";
  return [
    h("a", { id: "back", class: "back soft", href: "#/" }, "← all releases"),
    h("div", { class: "head" }, h("h1", { id: "name" }, release.name), h("span", { class: `phase ${release.phase}` }, release.phase), h("span", { class: "soft" }, `${release.namespace} · ${release.model}`)),
    h("p", { class: "message" }, release.message),
    release.conditions.map((each) => h("p", { class: "message Degraded" }, `${each.type}: ${each.message || each.reason}`)),
    buttons(release),
    said && h("p", { class: "soft" }, said),
    h("div", { class: "sides" }, side("stable", release.stable), release.canary && side("canary", release.canary, weight(release))),
    h("h2", {}, release.canary ? "Steps" : "Steps of the next rollout"),
    h("ol", { class: "steps" }, release.steps.map((step) => h("li", { class: step.state, "aria-current": step.state === "now" && "step" }, step.label))),
    release.gates.length > 0 && [h("h2", {}, "Gates"), gates(release)],
  ].flat(2);
}

function buttons(release) {
  if (state.readOnly || !release.verbs.length) return null;
  const letters = { ...Object.fromEntries(Object.entries(KEYS).map(([letter, verb]) => [verb, letter])), pause: "h", resume: "h" };
  const one = (verb) => h("button", { id: verb, type: "button", class: verb === "promote" && "primary", disabled: state.busy, "aria-keyshortcuts": letters[verb], onclick: () => confirm(release, verb) }, QUESTIONS[verb][0]);
  return h("div", { id: "commands", class: "buttons", role: "group", "aria-label": "Commands" }, release.verbs.map(one));
}

function side(role, revision, share) {
  if (!revision) return h("section", { class: `side ${role}` }, h("h2", {}, role), h("p", { class: "version" }, "none yet"));
  const more = [revision.ending && `withdrawn: ${revision.ending}`, revision.paused && "held by a command"].filter(Boolean).join(", ");
  return h("section", { class: `side ${role}` }, h("h2", {}, role), h("p", { class: "version" }, `version ${revision.version}`), share,
    h("p", { class: "soft" }, `${revision.ready} ready`, more && `, ${more}`), h("p", { class: "soft mono" }, `revision ${revision.revision}, space ${revision.space}`));
}

function gates(release) {
  const row = (gate) => h("tr", { role: "row" },
    h("td", { role: "cell" }, gate.name, gate.dryRun && h("span", { class: "soft" }, " (dry run)")),
    h("td", { role: "cell", class: gate.verdict }, gate.verdict),
    h("td", { role: "cell", class: "proof" }, gate.needed > 0 && proof(gate)),
    h("td", { role: "cell" }, h("p", { class: "message" }, gate.message, gate.alert && h("strong", { class: "Paused" }, ` ${gate.alert}`))));
  const heads = ["Gate", "Verdict", "Evidence", "Why"].map((text) => h("th", { scope: "col", role: "columnheader" }, text));
  return h("table", { class: "gates", role: "table", "aria-label": "Gates" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), h("tbody", { role: "rowgroup" }, release.gates.map(row)));
}

// Evidence is a factor: its bar is logarithmic, from a hundredth to what the gate needs.
function proof({ evidence, needed, verdict }) {
  const share = Math.min(1, Math.max(0, Math.log(Math.max(evidence, 0.01) / 0.01) / Math.log(needed / 0.01)));
  return [h("span", { class: `bar ${verdict}`, "aria-hidden": "true", "--share": `${share * 100}%` }, h("i")), `${number(evidence)} of ${number(needed)}`];
}

function past({ history: rollouts }) {
  if (!rollouts.length) return null;
  const took = (each) => { const s = Math.round((new Date(each.endedAt) - new Date(each.startedAt)) / 1000); return s < 120 ? `${s} s` : s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`; };
  const row = (each) => h("tr", { role: "row" }, h("td", { role: "cell" }, `version ${each.version}`), h("td", { role: "cell", class: each.result }, each.result),
    h("td", { role: "cell", class: "soft" }, `${at(each.endedAt)}, took ${took(each)}`), h("td", { role: "cell" }, each.reason));
  const heads = ["Model", "Result", "Ended (UTC)", "Reason"].map((text) => h("th", { scope: "col", role: "columnheader" }, text));
  return [h("h2", {}, "History"), h("table", { class: "past", role: "table", "aria-label": "History" }, h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, heads)), h("tbody", { role: "rowgroup" }, rollouts.map(row)))];
}

// --- charts: the server sends SVG, this page shows what lies under the pointer or the arrow keys

async function charts() {
  const open = state.open;
  if (!open || document.hidden) return;
  const columns = Math.max(1, Math.floor(($("detail").clientWidth + 12) / (21 * 15 + 12)));
  const width = Math.round(($("detail").clientWidth - 12 * (columns - 1)) / columns - 24);
  try {
    const { body } = await ask(`/api/releases/${open}/charts?width=${width}`);
    if (open !== state.open) return;
    const groups = [["Rollout and evidence against the canary", body.rollout], ["Canary against stable", body.compared]];
    for (const [title, found] of groups) group(title, found);
    let note = $("missing");
    if (!note) $("charts").append((note = h("p", { id: "missing", class: "missing" })));
    note.textContent = body.missing && `Latency, confidence and drift: ${body.missing}`;
  } catch { /* look() tells of it */ }
}

function group(title, found) {
  const id = `charts-${title.split(" ")[0].toLowerCase()}`;
  let section = $(id);
  if (!section) $("charts").append((section = h("section", { id, hidden: true }, h("h2", {}, title), h("div", { class: "charts" }))));
  section.hidden = !found.length;
  const box = section.lastChild;
  for (const figure of [...box.children]) if (!found.some((chart) => figure.id === chart.id)) figure.remove();
  for (const chart of found) {
    let figure = $(chart.id);
    if (!figure) box.append((figure = readable(h("figure", { id: chart.id, tabindex: "0", role: "img" }, h("figcaption"), h("div")))));
    figure.setAttribute("aria-label", chart.says);
    figure.chart = chart;
    const svg = chart.svg && document.importNode(new DOMParser().parseFromString(chart.svg, "image/svg+xml").documentElement, true);
    figure.lastChild.replaceChildren(svg || h("p", { class: "missing" }, "nothing yet"));
    caption(figure, chart.last, "");
    if (figure.reads != null) read(figure, figure.reads);
  }
}

function caption(figure, values, when) {
  const { title, limit } = figure.chart;
  figure.firstChild.replaceChildren(h("strong", {}, title), ...Object.entries(values).map(([role, value]) => h("span", { class: `last ${role}` }, role === "evidence" ? value : `${role} ${value}`)),
    limit ? h("span", { class: "limit" }, limit) : "", when ? h("span", { class: "at" }, when) : "");
}

// Shows the points nearest to x, a share of the chart's width.
function read(figure, x) {
  const svg = figure.querySelector("svg"), values = {};
  let when = "";
  if (!svg) return;
  svg.querySelectorAll(".dot.on").forEach((dot) => dot.classList.remove("on"));
  const plot = svg.querySelector(".plot.overlay");
  for (const series of plot.querySelectorAll(".series")) {
    let nearest = null;
    for (const dot of series.querySelectorAll(".dot")) if (!nearest || Math.abs(dot.cx.baseVal.value - offset(svg, x)) <= Math.abs(nearest.cx.baseVal.value - offset(svg, x))) nearest = dot;
    if (!nearest) continue;
    nearest.classList.add("on");
    const [, instant, value] = nearest.parentElement.querySelector(".value").textContent.match(/^(.*?): (.*)$/);
    values[series.classList[1]] = value;
    when = `${instant} UTC`;
  }
  figure.reads = x;
  if (when) caption(figure, values, when);
}

const offset = (svg, x) => x * svg.viewBox.baseVal.width - svg.querySelector(".plot").transform.baseVal[0].matrix.e;

function readable(figure) {
  const stop = () => { delete figure.reads; figure.querySelectorAll(".dot.on").forEach((dot) => dot.classList.remove("on")); caption(figure, figure.chart.last, ""); };
  figure.addEventListener("pointermove", (event) => {
    const box = figure.lastChild.getBoundingClientRect();
    read(figure, (event.clientX - box.left) / box.width);
  });
  figure.addEventListener("pointerleave", stop);
  figure.addEventListener("blur", stop);
  figure.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    read(figure, Math.min(1, Math.max(0, (figure.reads ?? 1) + way / 50)));
    say(`${figure.chart.title}: ${[...figure.firstChild.children].slice(1).map((each) => each.textContent).join(", ")}`, true);
  });
  return figure;
}

// --- people

function confirm(release, verb) {
  const [title, text] = QUESTIONS[verb];
  $("confirm-title").textContent = `${title} ${release.name}?`;
  $("confirm-text").textContent = text(release);
  $("confirm-yes").textContent = title;
  $("confirm-yes").onclick = () => { $("confirm").close(); send(release, verb); };
  $("confirm").showModal();
  $("confirm-no").focus();
}

function say(text, quietly = false) {
  clearTimeout(state.said);
  $("said").classList.toggle("skip", quietly); // read out, not shown: the caption shows it
  $("said").textContent = text;
  state.said = setTimeout(() => { $("said").textContent = ""; }, SAID_MS);
}

function trouble(text) {
  $("problem").textContent = text ?? "";
  $("problem").hidden = !text;
}

function live(text, lost = false) {
  if ($("live").textContent !== text) $("live").textContent = text;
  $("live").classList.toggle("lost", lost);
  state.lost = lost;
}

function route() {
  state.token = token(); // the address of a server that was started anew may be opened in the same tab
  const before = state.open;
  state.open = location.hash.startsWith("#/") ? decodeURIComponent(location.hash.slice(2)) : "";
  if (before !== state.open) $("charts").replaceChildren();
  draw();
  charts();
  const focus = state.open ? $("back") : $(`open-${before}`);
  if (before !== state.open) (focus ?? $("content")).focus();
  scrollTo(0, 0);
}

function pressed(event) {
  const typing = event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") || event.target.matches("input");
  if (typing) return;
  if (event.key === "Escape" && state.open) location.hash = "#/";
  if (!$("letters").checked) return;
  if (event.key === "?") $("keys").showModal();
  const release = state.releases.find((each) => key(each) === state.open);
  if (release) {
    const verb = event.key === "h" ? release.verbs.find((each) => each === "pause" || each === "resume") : KEYS[event.key];
    if (verb) $(verb)?.click();
  } else if (event.key === "j" || event.key === "k") {
    const links = [...$("list").querySelectorAll("a")], index = links.indexOf(document.activeElement);
    links[event.key === "j" ? Math.min(index + 1, links.length - 1) : Math.max(index - 1, 0)]?.focus();
  }
}

$("help").addEventListener("click", () => $("keys").showModal());
$("keys-close").addEventListener("click", () => $("keys").close());
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("letters").checked = localStorage.getItem("letters") !== "no";
$("letters").addEventListener("change", () => localStorage.setItem("letters", $("letters").checked ? "yes" : "no"));
addEventListener("hashchange", route);
addEventListener("keydown", pressed);
addEventListener("resize", () => { clearTimeout(state.sized); state.sized = setTimeout(charts, 200); });

async function forever(task, everyMs) {
  await task();
  setTimeout(() => forever(task, everyMs), everyMs);
}
await look();
route();
forever(look, LOOK_MS);
forever(charts, CHARTS_MS);
