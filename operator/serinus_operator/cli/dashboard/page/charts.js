// Charts: the server sends SVG, this shows what lies under the pointer or the arrow keys. A `read` event carries it in words.

import { h } from "./draw.js";

const $ = (id) => document.getElementById(id);

// Puts charts under a title, in place of what was there.
export function group(title, found) {
  const id = `charts-${title.split(" ")[0].toLowerCase()}`;
  let section = $(id);
  if (!section)
    $("charts").append(
      (section = h("section", { id, hidden: true }, h("h2", {}, title), h("div", { class: "charts" }))),
    );
  section.hidden = !found.length;
  const box = section.lastChild;
  for (const figure of [...box.children]) if (!found.some((chart) => figure.id === chart.id)) figure.remove();
  for (const chart of found) {
    let figure = $(chart.id);
    if (!figure)
      box.append(
        (figure = readable(h("figure", { id: chart.id, tabindex: "0", role: "img" }, h("figcaption"), h("div")))),
      );
    figure.setAttribute("aria-label", chart.says);
    figure.chart = chart;
    const svg =
      chart.svg &&
      document.importNode(new DOMParser().parseFromString(chart.svg, "image/svg+xml").documentElement, true);
    figure.lastChild.replaceChildren(svg || h("p", { class: "missing" }, "nothing yet"));
    caption(figure, chart.last, "");
    if (figure.reads != null) read(figure, figure.reads);
  }
}

function caption(figure, values, when) {
  const { title, limit } = figure.chart;
  figure.firstChild.replaceChildren(
    h("strong", {}, title),
    ...Object.entries(values).map(([role, value]) =>
      h("span", { class: `last ${role}` }, role === "evidence" ? value : `${role} ${value}`),
    ),
    limit ? h("span", { class: "limit" }, limit) : "",
    when ? h("span", { class: "at" }, when) : "",
  );
}

// Shows the points nearest to x, a share of the chart's width.
function read(figure, x) {
  const svg = figure.querySelector("svg");
  if (!svg) return;
  const values = {};
  let when = "";
  svg.querySelectorAll(".dot.on").forEach((dot) => dot.classList.remove("on"));
  const shift = svg.querySelector(".plot").transform.baseVal[0].matrix.e;
  const away = (dot) => Math.abs(dot.cx.baseVal.value + shift - x * svg.viewBox.baseVal.width);
  for (const series of svg.querySelectorAll(".plot.overlay .series")) {
    const dots = [...series.querySelectorAll(".dot")];
    if (!dots.length) continue;
    const nearest = dots.reduce((best, dot) => (away(dot) <= away(best) ? dot : best));
    nearest.classList.add("on");
    const [, instant, value] = nearest.parentElement.querySelector(".value").textContent.match(/^(.*?): (.*)$/);
    values[series.classList[1]] = value;
    when = `${instant} UTC`;
  }
  figure.reads = x;
  if (when) caption(figure, values, when);
}

function readable(figure) {
  const stop = () => {
    delete figure.reads;
    figure.querySelectorAll(".dot.on").forEach((dot) => dot.classList.remove("on"));
    caption(figure, figure.chart.last, "");
  };
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
    const shown = [...figure.firstChild.children].slice(1).map((each) => each.textContent);
    figure.dispatchEvent(
      new CustomEvent("read", { bubbles: true, detail: `${figure.chart.title}: ${shown.join(", ")}` }),
    );
  });
  return figure;
}
