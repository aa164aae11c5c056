// A release as elements. Everything here follows from what the server said; nothing is remembered and nothing is asked.

export function h(tag, attributes = {}, ...children) {
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

export const key = (release) => `${release.namespace}/${release.name}`;
export const now = (release) => release.steps[release.step - 1]?.label ?? "";
const at = (instant) => instant.slice(0, 16).replace("T", " ");
const number = (value) =>
  value >= 1000 ? Math.round(value).toLocaleString("en") : Number(value.toPrecision(3)).toString();

// Roles are written out, because a narrow screen lays the tables out as blocks.
function table(name, label, heads, rows) {
  const head = heads.map((text) => h("th", { scope: "col", role: "columnheader" }, text));
  return h(
    "table",
    { class: name, role: "table", "aria-label": label },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, rows),
  );
}

const row = (...cells) => h("tr", { role: "row" }, cells);
const cell = (name, ...content) => h("td", { role: "cell", class: name }, ...content);

export function listed(releases) {
  const heads = ["Release", "Phase", "Stable → canary", "Weight", "Step", "Verdict"];
  const rows = releases.map((release) => {
    const [path, verdict] = [key(release), (release.canary && release.verdict) || "–"];
    const link = h("a", { id: `open-${path}`, href: `#/${path}` }, release.name);
    const line = row(
      cell("where", link, h("div", { class: "what" }, `${release.namespace} · ${release.model}`)),
      cell("is", h("span", { class: `phase ${release.phase}` }, release.phase)),
      cell("versions", versions(release)),
      cell("weighs", weight(release)),
      cell("goes", track(release)),
      cell("says", h("span", { class: verdict }, verdict)),
    );
    line.classList.toggle("rests", !release.canary);
    return line;
  });
  return table("releases", "Releases", heads, rows);
}

function versions({ stable, canary }) {
  const one = (role, revision) => h("span", { class: role }, `version ${revision.version}`);
  if (stable && canary) return [one("stable", stable), " → ", one("canary", canary)];
  return [stable ? one("stable", stable) : canary ? one("canary", canary) : "–"];
}

function weight({ weight, canary }) {
  const label = canary ? `canary ${weight.desired} % wanted, ${weight.achieved} % achieved` : "all on stable";
  const attributes = { class: canary ? "bar" : "bar idle", role: "img", "aria-label": label, title: label };
  const bar = h("span", { ...attributes, "--share": `${weight.desired}%` }, h("i"));
  return h("span", { class: "weight" }, bar, canary ? `${weight.desired} %` : "–");
}

function track(release) {
  if (!release.canary) return h("span", { class: "what" }, release.phase === "Healthy" ? "at rest" : release.message);
  const label = release.canary.ending ? "withdraw" : `${release.step}/${release.steps.length} ${now(release)}`;
  return [
    h(
      "ol",
      { class: "track", "aria-hidden": "true" },
      release.steps.map((step) => h("li", { class: step.state, title: step.label })),
    ),
    h("span", { class: "what" }, label),
  ];
}

export function facts(release, commands) {
  const said = release.answer
    ? `Last command: ${release.answer.verb}, ${release.answer.outcome} (${at(release.answer.at)} UTC)`
    : "";
  return [
    h("a", { id: "back", class: "back soft", href: "#/" }, "← all releases"),
    h(
      "div",
      { class: "head" },
      h("h1", { id: "name" }, release.name),
      h("span", { class: `phase ${release.phase}` }, release.phase),
      h("span", { class: "soft" }, `${release.namespace} · ${release.model}`),
    ),
    h("p", { class: "message" }, release.message),
    release.conditions.map((each) =>
      h("p", { class: "message Degraded" }, `${each.type}: ${each.message || each.reason}`),
    ),
    commands,
    said && h("p", { class: "soft" }, said),
    h(
      "div",
      { class: "sides" },
      side("stable", release.stable),
      release.canary && side("canary", release.canary, weight(release)),
    ),
    h("h2", {}, release.canary ? "Steps" : "Steps of the next rollout"),
    h(
      "ol",
      { class: "steps" },
      release.steps.map((step) =>
        h("li", { class: step.state, "aria-current": step.state === "now" && "step" }, step.label),
      ),
    ),
    release.gates.length > 0 && [h("h2", {}, "Gates"), gates(release)],
  ].flat(2);
}

function side(role, revision, share) {
  if (!revision)
    return h("section", { class: `side ${role}` }, h("h2", {}, role), h("p", { class: "version" }, "none yet"));
  const held = revision.ending ? `, withdrawn: ${revision.ending}` : revision.paused && ", held by a command";
  return h(
    "section",
    { class: `side ${role}` },
    h("h2", {}, role),
    h("p", { class: "version" }, `version ${revision.version}`),
    share,
    h("p", { class: "soft" }, `${revision.ready} ready`, held),
    h("p", { class: "soft mono" }, `revision ${revision.revision}, space ${revision.space}`),
  );
}

function gates(release) {
  const rows = release.gates.map((gate) =>
    row(
      cell("", gate.name, gate.dryRun && h("span", { class: "soft" }, " (dry run)")),
      cell(gate.verdict, gate.verdict),
      cell("proof", gate.needed > 0 && proof(gate)),
      cell("why", gate.message, gate.alert && h("strong", { class: "Paused" }, ` ${gate.alert}`)),
    ),
  );
  return table("gates", "Gates", ["Gate", "Verdict", "Evidence", "Why"], rows);
}

// Evidence is a factor: its bar is logarithmic, from a hundredth to what the gate needs.
function proof({ evidence, needed, verdict }) {
  const share = Math.min(1, Math.max(0, Math.log(Math.max(evidence, 0.01) / 0.01) / Math.log(needed / 0.01)));
  return [
    h("span", { class: `bar ${verdict}`, "aria-hidden": "true", "--share": `${share * 100}%` }, h("i")),
    `${number(evidence)} of ${number(needed)}`,
  ];
}

export function past({ history: rollouts, cost }) {
  const rows = rollouts.map((each) =>
    row(
      cell("", `version ${each.version}`),
      cell(each.result, each.result),
      cell("soft", `${at(each.endedAt)}, took ${span(new Date(each.endedAt) - new Date(each.startedAt))}`),
      cell("why", each.reason),
    ),
  );
  const heads = ["Model", "Result", "Ended (UTC)", "Reason"];
  return [...costs(cost), rows.length && h("h2", {}, "History"), rows.length && table("past", "History", heads, rows)];
}

// What each version has used, newest first.
function costs({ currency, versions }) {
  const money = (value) => (value == null ? "–" : `${value.toLocaleString("en")} ${currency}`);
  const hours = ({ gpuHours, cpuPodHours }) =>
    [gpuHours && `${gpuHours} GPU h`, cpuPodHours && `${cpuPodHours} CPU pod h`].filter(Boolean).join(", ") || "–";
  const rows = versions
    .toReversed()
    .map((each) =>
      row(
        cell("", `version ${each.version}`),
        cell("proof", hours(each)),
        cell("proof", money(each.price)),
        cell("soft", `${number(each.requests)} requests, ${number(each.tokens)} tokens`),
        cell("soft", each.perThousand == null ? "" : `${money(each.perThousand)} a thousand requests`),
      ),
    );
  const heads = ["Model", "Held", "Cost", "Answered", "Rate"];
  return rows.length ? [h("h2", {}, "Cost"), table("past", "Cost", heads, rows)] : [];
}

function span(milliseconds) {
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 120) return `${seconds} s`;
  return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3600)} h`;
}
