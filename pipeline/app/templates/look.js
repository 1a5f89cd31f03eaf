
// --- Look: all images, as a map and as a grid ---------------------------------------------

const SHAPES = 4, COLOURS = 8;
const AT_ONCE = 200; // pictures that a list shows before more are asked for

async function startLooking() {
  const points = byId("points"), over = byId("over"), looked = byId("looked");
  const selected = new Set();
  let all, spots, colours, view = { scale: 1, x: 0, y: 0 }, width = 1, height = 1, at = -1, lasso = [];

  const say = (text) => { looked.textContent = text; };
  say("loading the images …");
  try {
    all = await askJson("images");
  } catch (error) {
    say(error.message);
    return;
  }
  say(count(all.names.length, "image"));
  const columns = all.colours;
  // While images are labelled, these change.
  const changing = all.more.includes("label so far") ? ["class", "split", "label so far"] : [];
  byId("colour").append(
    ...[...Object.keys(columns), ...all.more].map((name) => make("option", { value: name }, name)));
  byId("colour").addEventListener("change", (event) => colourBy(event.target.value));

  // --- Colours -----------------------------------------------------------------------------

  async function colourBy(kind) {
    if (!columns[kind] || changing.includes(kind)) {
      say(`working out: ${kind} …`);
      try {
        columns[kind] = await askJson(`column?kind=${encodeURIComponent(kind)}`);
        if (spots) say(count(all.names.length, "image"));
      } catch (error) {
        say(error.message);
        if (byId("colour").value !== kind) return undefined;
        if (!columns[kind]) {
          byId("colour").value = "class";
          return colourBy("class");
        }
      }
      if (byId("colour").value !== kind) return undefined; // another was chosen meanwhile
    }
    colours = columns[kind];
    const sizes = new Array(colours.names.length).fill(0);
    for (const name of colours.of) sizes[name] += 1;
    byId("legend").replaceChildren(...colours.names.map((name, place) => {
      const key = make("canvas", { width: 28, height: 28, "aria-hidden": "true" });
      const drawing = key.getContext("2d");
      drawing.fillStyle = colour(place);
      drawing.beginPath();
      mark(drawing, place, 14, 14, 9);
      drawing.fill();
      const press = () => select(numbers().filter((number) => colours.of[number] === place), true);
      const text = `${name} (${sizes[place].toLocaleString("en")})`;
      return make("li", {}, make("button", { type: "button", onclick: press }, key, text));
    }));
    draw();
    showGrid();
    return undefined;
  }

  const numbers = () => all.names.map((_, number) => number);
  const colour = (place) => getComputedStyle(document.body).getPropertyValue(
    all.plain.includes(colours.names[place]) ? "--quiet" : `--c${place % COLOURS}`);

  function mark(drawing, place, x, y, r) {
    const shape = Math.floor(place / COLOURS) % SHAPES;
    if (shape === 0) {
      drawing.moveTo(x + r, y);
      drawing.arc(x, y, r, 0, 7);
    } else if (shape === 1) {
      drawing.rect(x - r, y - r, 2 * r, 2 * r);
    } else {
      const up = shape === 2 ? r : -r;
      drawing.moveTo(x, y - up);
      drawing.lineTo(x + r, y + up);
      drawing.lineTo(x - r, y + up);
      drawing.closePath();
    }
  }

  // --- Map ---------------------------------------------------------------------------------

  function place(number) {
    const [x, y] = spots[number], margin = 12;
    return [
      margin + (width - 2 * margin) * ((x - view.x) * view.scale),
      margin + (height - 2 * margin) * ((y - view.y) * view.scale),
    ];
  }

  function fit(canvas) {
    const ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const drawing = canvas.getContext("2d");
    drawing.setTransform(ratio, 0, 0, ratio, 0, 0);
    return drawing;
  }

  function draw() {
    ({ clientWidth: width, clientHeight: height } = byId("map"));
    if (!width || !colours || !spots) return;
    const drawing = fit(points);
    const r = Math.max(1.5, Math.min(5, 250 / Math.sqrt(all.names.length))) * Math.min(2, Math.sqrt(view.scale));
    // In turns, so that no colour hides the others.
    const members = colours.names.map(() => []);
    for (const number of numbers()) members[colours.of[number]].push(number);
    drawing.globalAlpha = 0.8;
    const most = Math.max(...members.map((those) => those.length)), turns = Math.min(most, 50);
    for (let turn = 0; turn < turns; turn += 1) {
      members.forEach((those, name) => {
        drawing.fillStyle = colour(name);
        drawing.beginPath();
        for (let at = turn; at < those.length; at += turns) mark(drawing, name, ...place(those[at]), r);
        drawing.fill();
      });
    }
    drawOver();
  }

  function drawOver() {
    if (!spots) return;
    const drawing = fit(over);
    drawing.strokeStyle = getComputedStyle(document.body).color;
    drawing.lineWidth = 1.5;
    drawing.beginPath();
    for (const number of selected) {
      const [x, y] = place(number);
      drawing.moveTo(x + 6, y);
      drawing.arc(x, y, 6, 0, 7);
    }
    drawing.stroke();
    if (at >= 0) {
      const [x, y] = place(at);
      drawing.lineWidth = 3;
      drawing.beginPath();
      drawing.arc(x, y, 10, 0, 7);
      drawing.stroke();
    }
    if (lasso.length > 1) {
      drawing.lineWidth = 1.5;
      drawing.setLineDash([5, 4]);
      drawing.beginPath();
      for (const point of lasso) drawing.lineTo(...point);
      drawing.closePath();
      drawing.stroke();
    }
  }

  function nearest(x, y, most) {
    if (!spots) return -1;
    let best = -1, least = most * most;
    for (const number of numbers()) {
      const [px, py] = place(number);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < least) [best, least] = [number, distance];
    }
    return best;
  }

  /** The image that lies next in a direction. */
  function next(dx, dy) {
    if (at < 0) return nearest(width / 2, height / 2, Infinity);
    const [x, y] = place(at);
    let best = at, least = Infinity;
    for (const number of numbers()) {
      const [px, py] = place(number);
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (number !== at && along > 0 && along + 3 * aside < least) [best, least] = [number, along + 3 * aside];
    }
    return best;
  }

  function zoom(factor, x = width / 2, y = height / 2) {
    const scale = Math.min(50, Math.max(1, view.scale * factor));
    const fx = (x - 12) / (width - 24), fy = (y - 12) / (height - 24);
    const shift = (from, f) => Math.min(1 - 1 / scale, Math.max(0, from + f / view.scale - f / scale));
    view = { scale, x: shift(view.x, fx), y: shift(view.y, fy) };
    draw();
  }

  const isInView = ([x, y]) => x >= 0 && y >= 0 && x <= width && y <= height;

  function keepInView(number) {
    if (!spots) return;
    if (isInView(place(number))) return;
    const [px, py] = spots[number], half = 0.5 / view.scale;
    const shift = (from) => Math.min(1 - 2 * half, Math.max(0, from - half));
    view = { ...view, x: shift(px), y: shift(py) };
    draw();
  }

  const inside = (event) => {
    const box = over.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  over.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    over.setPointerCapture(event.pointerId);
    lasso = [inside(event)];
  });
  over.addEventListener("pointermove", (event) => {
    const [x, y] = inside(event);
    if (lasso.length) {
      lasso.push([x, y]);
      drawOver();
      return;
    }
    const number = nearest(x, y, 16);
    if (number >= 0 && number !== at) pointAt(number);
  });
  over.addEventListener("pointerup", (event) => {
    if (!lasso.length) return;
    const drawn = lasso;
    lasso = [];
    if (!spots) return;
    if (drawn.length < 4) {
      const number = nearest(...inside(event), 16);
      if (number >= 0) toggle(number);
      drawOver();
      return;
    }
    select(numbers().filter((number) => isInside(place(number), drawn)), event.shiftKey);
  });
  over.addEventListener("pointercancel", () => {
    lasso = [];
    drawOver();
  });
  over.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8, ...inside(event));
  }, { passive: false });
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  over.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const centre = spots && at >= 0 && isInView(place(at)) ? place(at) : [];
    if (moves[event.key]) pointAt(next(...moves[event.key]));
    else if (event.key === " " && at >= 0) toggle(at);
    else if (event.key === "Enter" && at >= 0) showSimilar(at);
    else if (event.key === "+") zoom(1.5, ...centre);
    else if (event.key === "-") zoom(1 / 1.5, ...centre);
    else if (event.key === "0") zoom(0);
    else return;
    event.preventDefault();
  });
  byId("larger").addEventListener("click", () => zoom(1.5));
  byId("smaller").addEventListener("click", () => zoom(1 / 1.5));
  byId("whole").addEventListener("click", () => zoom(0));

  // --- One image ---------------------------------------------------------------------------

  function pointAt(number) {
    if (number < 0) return;
    at = number;
    keepInView(number);
    drawOver();
    about(number);
  }

  function about(number) {
    const terms = Object.entries(columns).map(([kind, column]) =>
      make("div", {}, make("dt", {}, kind), make("dd", {}, column.names[column.of[number]])));
    const picture = make("img", { src: image(number, "picture"), alt: `picture of ${all.names[number]}` });
    picture.addEventListener("error", () => picture.replaceWith(make("p", { className: "quiet" }, "there is no picture")));
    byId("about").replaceChildren(
      picture,
      make("p", { className: "path" }, all.names[number]),
      make("dl", {}, ...terms),
      make("p", { className: "buttons" },
        make("button", { type: "button", onclick: () => showSimilar(number) }, "similar images"),
        make("button", { type: "button", onclick: () => toggle(number), "aria-pressed": String(selected.has(number)), id: "select-this" }, "select")));
  }

  async function showSimilar(number) {
    if (at !== number) pointAt(number);
    try {
      const similar = await askJson(`${image(number, "similar")}?count=20`);
      if (at !== number) return;
      byId("about").querySelector(".similar")?.remove();
      byId("about").append(similarImages(similar, pointAt));
    } catch (error) {
      say(error.message);
    }
  }

  // --- Selection ---------------------------------------------------------------------------

  function select(some, add) {
    if (!add) selected.clear();
    for (const number of some) selected.add(number);
    showSelection();
  }

  function toggle(number) {
    if (!selected.delete(number)) selected.add(number);
    pointAt(number);
    showSelection();
  }

  function showSelection() {
    byId("selected").textContent = selected.size ? `${count(selected.size, "image")} selected` : "no image is selected";
    byId("save").disabled = byId("clear").disabled = !selected.size;
    showPictures(byId("selection"), [...selected].sort((a, b) => a - b), (number) => pointAt(number));
    for (const button of byId("grid").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(selected.has(Number(button.dataset.number))));
    }
    drawOver();
  }

  byId("clear").addEventListener("click", () => select([], false));
  byId("save").addEventListener("click", async () => {
    try {
      const answer = await ask("selection", { method: "POST", body: JSON.stringify([...selected].sort((a, b) => a - b)) });
      const link = make("a", { href: URL.createObjectURL(await answer.blob()), download: "selection.csv" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      const leftOut = Number(answer.headers.get("left-out"));
      say(leftOut ? `saved; ${count(leftOut, "image")} without a label left out` : "saved");
    } catch (error) {
      say(error.message);
    }
  });

  // --- Grid --------------------------------------------------------------------------------

  /** Fill a list with pictures, as far as it is scrolled. */
  function showPictures(list, some, press, pressed) {
    let shown = 0;
    const end = make("li", { "aria-hidden": "true" });
    const more = () => {
      for (const number of some.slice(shown, shown + AT_ONCE)) {
        const picture = make("img", { src: image(number), alt: all.names[number], title: all.names[number], loading: "lazy" });
        const button = make("button", { type: "button", onclick: () => press(number) }, picture);
        button.dataset.number = number;
        button.style.borderBottomColor = colour(colours.of[number]);
        if (pressed) button.setAttribute("aria-pressed", String(selected.has(number)));
        end.before(make("li", {}, button));
      }
      shown += AT_ONCE;
      if (shown >= some.length) end.remove();
    };
    list.replaceChildren(end);
    more();
    new IntersectionObserver((seen) => {
      if (seen.some((entry) => entry.isIntersecting) && end.isConnected) more();
    }, { root: list, rootMargin: "400px" }).observe(end);
  }

  function showGrid() {
    if (!byId("grid").hidden) showPictures(byId("grid"), byColour(), toggle, true);
  }
  const byColour = () => numbers().sort((a, b) => colours.of[a] - colours.of[b] || a - b);

  function showAs(grid) {
    byId("grid").hidden = !grid;
    byId("map").hidden = byId("zoom").hidden = grid;
    byId("as-grid").setAttribute("aria-pressed", String(grid));
    byId("as-map").setAttribute("aria-pressed", String(!grid));
    if (grid) showGrid();
    else draw();
  }
  let chosen = false;
  for (const [id, grid] of [["as-map", false], ["as-grid", true]]) {
    byId(id).addEventListener("click", () => {
      chosen = true;
      showAs(grid);
    });
  }

  new ResizeObserver(draw).observe(byId("map"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  await colourBy("class");
  say("laying the images out, which takes some seconds the first time …");
  const meanwhile = setTimeout(() => chosen || showAs(true), 500);
  try {
    spots = await askJson("points");
    say(count(all.names.length, "image"));
    clearTimeout(meanwhile);
    if (chosen) draw();
    else showAs(false);
  } catch (error) {
    say(error.message);
    showAs(true);
  }
}

/** Whether a point lies within a line that was drawn around. */
function isInside([x, y], drawn) {
  let within = false;
  drawn.forEach(([x1, y1], place) => {
    const [x2, y2] = drawn.at(place - 1);
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
  });
  return within;
}

if (byId("look")) whenShown.look = () => {
  delete whenShown.look;
  startLooking();
};
