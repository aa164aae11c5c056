// The page: asks its server every two seconds, draws what changed, and sends commands. It decides nothing.

import { group } from "./charts.js";
import { facts, h, key, listed, now, past } from "./draw.js";

const LOOK_MS = 2000;
const CHARTS_MS = 5000;
const SAID_MS = 12000;
const $ = (id) => document.getElementById(id);
const KEYS = { promote: "p", pause: "h", resume: "h", abort: "a", retry: "t" };
const QUESTIONS = {
  promote: ["Promote", (r) => `Step ${r.step} (${now(r)}) ends here, whatever it waits for, and the rollout goes on.`],
  pause: ["Pause", (r) => `The rollout holds at step ${r.step} (${now(r)}), with the canary at ${r.weight.desired} %.`],
  resume: ["Resume", (r) => `The rollout goes on at step ${r.step} (${now(r)}).`],
  abort: ["Abort", (r) => `Model version ${r.canary.version} is withdrawn, and stays so until somebody retries it.`],
  retry: ["Retry", () => "The rejected target starts again at its first step."],
};
const state = {
  token: token(),
  etag: "",
  said: null,
  releases: [],
  readOnly: false,
  problem: "",
  open: "",
  busy: false,
  lost: false,
};

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
      lookCloser();
    }
    live("live");
  } catch (error) {
    live("no answer", true);
    trouble(
      error instanceof TypeError
        ? "The page's server does not answer: is `kubectl modelrelease dashboard` still running?"
        : error.message,
    );
    state.etag = "";
  }
}

async function send(release, verb) {
  const seen = release.canary ? { revision: release.canary.revision, step: release.step } : {};
  say(`${verb}: asked, waiting for the operator …`);
  state.busy = true;
  draw();
  try {
    const { body } = await ask(`/api/releases/${key(release)}/command`, {
      method: "POST",
      body: JSON.stringify({ verb, ...seen }),
    });
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

function fill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.id : "";
  parent.replaceChildren(...children.flat().filter(Boolean));
  if (focused) ($(focused) ?? $("content")).focus({ preventScroll: true });
}

function draw() {
  const release = state.releases.find((each) => key(each) === state.open);
  const gone = state.open && state.etag && !release;
  trouble(state.problem || (gone && `There is no release ${state.open} (any more).`));
  $("list").hidden = Boolean(release);
  $("detail").hidden = !release;
  document.title = release ? `${release.name}: ${release.phase} · Serinus` : "Releases · Serinus";
  if (release) {
    fill($("facts"), facts(release, buttons(release)));
    fill($("past"), past(release));
    return;
  }
  const none = h("p", { class: "empty" }, "No ModelRelease here: -n names another namespace, -A shows all.");
  const known = state.etag && !state.problem;
  fill($("list"), h("h1", {}, "Releases"), state.releases.length ? listed(state.releases) : known && none);
}

function buttons(release) {
  if (state.readOnly || !release.verbs.length) return null;
  const one = (verb) => {
    const primary = verb === "promote" && "primary";
    const onclick = () => confirm(release, verb);
    const attributes = { id: verb, type: "button", class: primary, disabled: state.busy, onclick };
    return h("button", { ...attributes, "aria-keyshortcuts": KEYS[verb] }, QUESTIONS[verb][0]);
  };
  return h(
    "div",
    { id: "commands", class: "buttons", role: "group", "aria-label": "Commands" },
    release.verbs.map(one),
  );
}

async function lookCloser() {
  const open = state.open;
  if (!open || document.hidden) return;
  const columns = Math.max(1, Math.floor(($("detail").clientWidth + 12) / (21 * 15 + 12)));
  const width = Math.round(($("detail").clientWidth - 12 * (columns - 1)) / columns - 24);
  try {
    const { body } = await ask(`/api/releases/${open}/charts?width=${width}`);
    if (open !== state.open) return;
    const groups = [
      ["Rollout and evidence against the canary", body.rollout],
      ["Canary against stable", body.compared],
    ];
    for (const [title, found] of groups) group(title, found);
    let note = $("missing");
    if (!note) $("charts").append((note = h("p", { id: "missing", class: "missing" })));
    note.textContent = body.missing && `Latency, confidence and drift: ${body.missing}`;
  } catch {
    /* look() tells of it */
  }
}

// --- people

function confirm(release, verb) {
  const [title, text] = QUESTIONS[verb];
  $("confirm-title").textContent = `${title} ${release.name}?`;
  $("confirm-text").textContent = text(release);
  $("confirm-yes").textContent = title;
  $("confirm-yes").onclick = () => {
    $("confirm").close();
    send(release, verb);
  };
  $("confirm").showModal();
  $("confirm-no").focus();
}

function say(text, quietly = false) {
  clearTimeout(state.said);
  $("said").classList.toggle("skip", quietly); // read out, not shown: the caption shows it
  $("said").textContent = text;
  state.said = setTimeout(() => {
    $("said").textContent = "";
  }, SAID_MS);
}

function trouble(text) {
  $("problem").textContent = text || "";
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
  lookCloser();
  const focus = state.open ? $("back") : $(`open-${before}`);
  if (before !== state.open) (focus ?? $("content")).focus();
  scrollTo(0, 0);
}

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]") || event.target.matches("input")) return;
  if (event.key === "Escape" && state.open) location.hash = "#/";
  if (!$("letters").checked) return;
  if (event.key === "?") $("keys").showModal();
  const release = state.releases.find((each) => key(each) === state.open);
  if (release) {
    const verb = release.verbs.find((each) => KEYS[each] === event.key);
    if (verb) $(verb)?.click();
  } else if (event.key === "j" || event.key === "k") {
    const links = [...$("list").querySelectorAll("a")];
    const index = links.indexOf(document.activeElement);
    links[event.key === "j" ? Math.min(index + 1, links.length - 1) : Math.max(index - 1, 0)]?.focus();
  }
}

$("help").addEventListener("click", () => $("keys").showModal());
$("keys-close").addEventListener("click", () => $("keys").close());
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("letters").checked = localStorage.getItem("letters") !== "no";
$("letters").addEventListener("change", () => localStorage.setItem("letters", $("letters").checked ? "yes" : "no"));
addEventListener("read", (event) => say(event.detail, true));
addEventListener("hashchange", route);
addEventListener("keydown", pressed);
addEventListener("resize", () => {
  clearTimeout(state.sized);
  state.sized = setTimeout(lookCloser, 200);
});

async function forever(task, everyMs) {
  await task();
  setTimeout(() => forever(task, everyMs), everyMs);
}
await look();
route();
forever(look, LOOK_MS);
forever(lookCloser, CHARTS_MS);
