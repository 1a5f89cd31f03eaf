"use strict";

// What all parts of the page need: asking the program, making elements, one part at a time.

const byId = (id) => document.getElementById(id);

/** Make an element: properties, then children; `on...` are listeners, `aria-...` attributes. */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Ask the program; what it refuses is an error with its reason. */
async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    byId("stopped").hidden = false;
    throw new Error("the program has stopped");
  }
  byId("stopped").hidden = answer.status !== 403 && answer.status !== 421;
  if (answer.ok) return answer;
  const text = await answer.text();
  let reason = text;
  try {
    const { error, fix } = JSON.parse(text);
    reason = fix ? `${error} (${fix})` : error;
  } catch { /* it is plain text */ }
  throw Object.assign(new Error(reason), { status: answer.status });
}
const askJson = async (path, options) => (await ask(path, options)).json();
const post = (path, body) => askJson(path, { method: "POST", body });

const count = (number, name) => `${number.toLocaleString("en")} ${name}${number === 1 ? "" : "s"}`;
const image = (number, kind = "thumbnail") => `images/${number}/${kind}`;

// The address that opened the page cannot be used again.
if (location.search) history.replaceState(null, "", location.pathname + location.hash);

// A program that has been stopped is noticed also while nothing is asked of it.
const whenAlive = [];
setInterval(async () => {
  if (document.hidden) return;
  try {
    const state = await askJson("state");
    for (const listener of whenAlive) listener(state);
  } catch { /* the page says so */ }
}, 2000);

// One part of the page at a time.
const parts = [...document.querySelectorAll("main > section")];
const whenShown = {};
function showPart() {
  const wanted = parts.find((part) => `#${part.id}` === location.hash) ?? parts[0];
  for (const part of parts) part.hidden = part !== wanted;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  whenShown[wanted.id]?.();
}
addEventListener("hashchange", showPart);
queueMicrotask(showPart);

/** The probabilities of an answer as bars, the likeliest first. */
function shares(answer) {
  const limit = answer.threshold;
  const names = Object.keys(answer.probabilities);
  const likeliest = names.sort((a, b) => answer.probabilities[b] - answer.probabilities[a]);
  const positive = limit && Object.keys(answer.probabilities).sort()[limit.positive];
  return likeliest.slice(0, 5).map((name) => {
    const p = answer.probabilities[name];
    const fill = make("div", { className: "fill" });
    fill.style.width = `${100 * p}%`;
    const track = make("div", { className: "track", "aria-hidden": "true" }, fill);
    if (name === positive) {
      const mark = make("div", { className: "limit", title: `threshold ${limit.value.toFixed(3)}` });
      mark.style.left = `${100 * limit.value}%`;
      track.append(mark);
    }
    return make("li", {}, make("span", {}, name), track, make("span", {}, p.toFixed(3)));
  });
}

/** Small pictures of images that are like another. */
function similarImages(similar, onpress) {
  return make("ul", { className: "similar", "aria-label": "Most similar images" },
    ...similar.map((other) => {
      const title = `${other.path}\n${other.label}, ${other.split}, distance ${other.distance}`;
      const picture = make("img", { src: image(other.number), alt: `${other.label}: ${other.path}`, title, loading: "lazy" });
      const inside = [picture, make("span", {}, other.label)];
      return make("li", {}, ...(onpress
        ? [make("button", { type: "button", onclick: () => onpress(other.number) }, ...inside)]
        : inside));
    }));
}
