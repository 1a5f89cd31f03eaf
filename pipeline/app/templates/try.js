
// --- Try: pictures that are dropped, pasted, chosen or seen by the camera -----------------

const IMAGES = /\.(jpe?g|jpe|jfif|png|webp|bmp|gif|tiff?)$/i;
const MOST_PICTURES = 500;

function startTrying() {
  const drop = byId("drop"), answers = byId("answers"), tried = byId("tried");
  let waiting = [], done = 0, failed = 0, asked = 0, busy = 0, leftOut = 0;

  function say() {
    const more = leftOut ? `; ${count(leftOut, "file")} left out (no pictures, not to be read, or more than ${MOST_PICTURES} at once: pipeline predict takes folders of any size)` : "";
    const not = failed ? `, ${failed.toLocaleString("en")} not` : "";
    tried.textContent = asked ? `${(done - failed).toLocaleString("en")} of ${count(asked, "picture")} classified${not}${more}` : more.slice(2);
  }

  function take(files) {
    const pictures = files.filter((file) => file.type.startsWith("image/") || IMAGES.test(file.name));
    const room = Math.max(0, MOST_PICTURES - waiting.length);
    leftOut += files.length - Math.min(pictures.length, room);
    asked += Math.min(pictures.length, room);
    waiting.push(...pictures.slice(0, room));
    say();
    while (busy < 2 && waiting.length) work();
  }

  async function work() {
    busy += 1;
    for (let file = waiting.shift(); file; file = waiting.shift()) {
      const card = make("li");
      answers.prepend(card);
      while (answers.children.length > MOST_PICTURES) answers.lastChild.remove();
      await answer(card, file);
      done += 1;
      say();
    }
    busy -= 1;
  }

  async function answer(card, file) {
    const name = file.path || file.webkitRelativePath || file.name || "pasted picture";
    const picture = make("img", { alt: name });
    const frame = make("div", { className: "picture" }, picture);
    card.append(make("div", { className: "box" }, frame), make("p", { className: "path" }, name));
    picture.addEventListener("error", () => preview(picture, file), { once: true });
    picture.src = URL.createObjectURL(file);
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
    try {
      const found = await post("predict?similar=6", file);
      if (found.error) throw new Error(found.error);
      const heading = make("h3", {}, found.label);
      card.append(heading, make("ul", { className: "shares" }, ...shares(found)), heatMap(frame, file, found.label));
      if (found.similar) card.append(similarImages(found.similar));
    } catch (error) {
      failed += 1;
      card.append(make("p", { className: "error" }, `Not classified: ${error.message}`));
    }
  }

  /** Browsers show no TIFF: the program can. */
  async function preview(picture, file) {
    try {
      picture.src = URL.createObjectURL(await (await ask("preview", { method: "POST", body: file })).blob());
    } catch {
      picture.closest(".box").remove();
    }
  }

  function heatMap(frame, file, label) {
    const words = make("span", { className: "quiet", role: "status" });
    let overlay;
    const button = make("button", { type: "button", "aria-pressed": "false", onclick: press }, "heat map");
    async function press() {
      if (!overlay) {
        button.disabled = true;
        try {
          const drawn = await post(`map?class=${encodeURIComponent(label)}`, file);
          if (!drawn.map) throw new Error("no part of the picture counts more than another");
          overlay = make("img", { className: "map", src: drawn.map, alt: "", hidden: true });
          frame.append(overlay);
          words.dataset.text = drawn.where
            ? `orange speaks for ${label}, most of it ${drawn.where}; blue against`
            : `blue speaks against ${label}; nothing speaks for it`;
        } catch (error) {
          words.textContent = error.message;
          return;
        } finally {
          button.disabled = false;
        }
      }
      overlay.hidden = !overlay.hidden;
      button.setAttribute("aria-pressed", String(!overlay.hidden));
      words.textContent = overlay.hidden ? "" : words.dataset.text;
    }
    return make("p", { className: "buttons" }, button, words);
  }

  // What is dropped beside the box would otherwise replace the page.
  for (const type of ["dragover", "drop"]) addEventListener(type, (event) => event.preventDefault());
  addEventListener("dragover", () => drop.classList.add("over"));
  for (const type of ["dragleave", "drop"]) addEventListener(type, () => drop.classList.remove("over"));
  addEventListener("drop", async (event) => {
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const files = [...event.dataTransfer.files];
    location.hash = "try";
    take(entries.some((entry) => entry?.isDirectory) ? (await Promise.all(entries.filter(Boolean).map(filesIn))).flat() : files);
  });
  addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length) {
      location.hash = "try";
      take(files);
    }
  });
  for (const input of [byId("files"), byId("folder")]) {
    input.addEventListener("change", () => {
      take([...input.files]);
      input.value = "";
    });
  }
  startCamera(take);
}

/** All files in a folder that was dropped, and in those below it; a file that cannot be read is an empty one. */
async function filesIn(entry) {
  const path = entry.fullPath.slice(1), files = [];
  if (entry.isFile) {
    const file = await new Promise((resolve) => entry.file(resolve, () => resolve(new File([], entry.name))));
    return [Object.assign(file, { path })];
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve) => reader.readEntries(resolve, () => resolve(null)));
    if (!some) files.push([new File([], entry.name)]); // the rest of the folder, left out
    if (!some?.length) return files.flat();
    files.push(...(await Promise.all(some.map(filesIn))));
  }
}

function startCamera(take) {
  const button = byId("camera"), video = byId("video"), canvas = document.createElement("canvas");
  let stream, opening = false, running = false;

  function frame() {
    const scale = Math.min(1, 640 / Math.max(video.videoWidth, video.videoHeight));
    canvas.width = scale * video.videoWidth;
    canvas.height = scale * video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
  }

  async function watch() {
    let rate = 0;
    while (running) {
      const started = performance.now();
      try {
        const found = await post("predict", await frame());
        byId("live-label").textContent = found.error ?? found.label;
        byId("live-shares").replaceChildren(...(found.error ? [] : shares(found)));
        const now = 1000 / (performance.now() - started);
        rate = rate ? 0.8 * rate + 0.2 * now : now;
        byId("live-rate").textContent = `${rate.toFixed(1)} pictures a second`;
      } catch (error) {
        byId("live-label").textContent = error.message;
        stop();
      }
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  }

  function stop() {
    running = false;
    for (const track of stream?.getTracks() ?? []) track.stop();
    button.setAttribute("aria-pressed", "false");
    byId("live").hidden = true;
  }

  button.addEventListener("click", async () => {
    if (opening) return undefined; // the browser still asks whether it may
    if (running) return stop();
    if (!navigator.mediaDevices) {
      byId("tried").textContent = "This browser gives the camera only to pages of localhost.";
      return undefined;
    }
    opening = true;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 640 } } });
      video.srcObject = stream;
      await video.play();
    } catch (error) {
      byId("tried").textContent = `There is no camera to use: ${error.message}`;
      return stop();
    } finally {
      opening = false;
    }
    running = true;
    button.setAttribute("aria-pressed", "true");
    byId("live").hidden = false;
    return watch();
  });
  byId("take").addEventListener("click", async () => {
    const now = new Date().toTimeString().slice(0, 8);
    take([new File([await frame()], `camera ${now}.jpg`, { type: "image/jpeg" })]);
  });
}

if (byId("try")) startTrying();
