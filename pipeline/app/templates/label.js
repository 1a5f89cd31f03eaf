
// --- Label: one picture after another -----------------------------------------------------

function startLabelling() {
  const picture = byId("question"), failed = byId("label-error");
  let seen, now, reviewing = false, sending = Promise.resolve();
  const done = new Set(); // answered here, perhaps not confirmed yet
  const ahead = new Map();

  const WHY = {
    typical: "typical of many images",
    unsure: "the classifier is least sure of it",
    suspicious: "its label may be wrong",
    skipped: "skipped before",
  };

  function load(number) {
    if (!ahead.has(number)) {
      const loaded = new Image();
      loaded.src = image(number, "picture");
      ahead.set(number, loaded);
      if (ahead.size > 30) ahead.delete(ahead.keys().next().value);
    }
    return ahead.get(number).src;
  }

  function show(question) {
    now = question;
    byId("question-box").hidden = !question;
    byId("skip").disabled = !question;
    if (!question) {
      byId("why").textContent = reviewing ? "No more suspicious labels." : "Every image has a label.";
      byId("question-name").textContent = "";
      return;
    }
    picture.src = load(question.number);
    picture.alt = `Which class is this? ${question.name}`;
    byId("question-name").textContent = question.name;
    const label = question.label ? `; now ${question.label}` : "";
    byId("why").textContent = `${WHY[question.why]}${label}`;
    for (const button of byId("classes").children) {
      button.classList.toggle("suggested", button.dataset.name === question.suggested && question.why === "suspicious");
    }
  }

  const open = () => seen.questions.filter((question) => !done.has(question.number));

  /** Show what the program told; the picture that is being looked at stays. */
  function take(told, again) {
    seen = told;
    reviewing = told.questions[0]?.why === "suspicious" || (reviewing && !told.questions.length);
    showClasses();
    const waiting = open();
    if (again !== undefined) show({ ...(waiting.find((q) => q.number === again) ?? { number: again, name: "taken back", label: "", suggested: "", why: "skipped" }) });
    else if (!now || done.has(now.number) || !told.questions.some((q) => q.number === now.number)) show(waiting[0]);
    waiting.forEach((question) => load(question.number));
    byId("progress").textContent = `${count(told.labelled, "image")} labelled, ${told.unlabelled.toLocaleString("en")} without a label; ${count(told.answered, "answer")} kept since the start.`;
    for (const button of byId("classes").children) button.lastChild.textContent = (told.counts[button.dataset.name] ?? 0).toLocaleString("en");
    const [share, low, high] = told.accuracy;
    byId("accuracy").textContent = share === undefined
      ? "The accuracy is shown from 10 labels of two classes on."
      : `Accuracy in cross-validation: ${share.toFixed(3)} (95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}). Hard images come first, so new images are classified rather better.`;
    drawCurve(told.history);
    byId("may-stop").hidden = !told.may_stop;
    byId("may-stop").textContent = told.may_stop ? "You may stop: the last 50 labels changed nothing." : "";
    byId("label-file").textContent = told.file;
    byId("undo").disabled = !told.answered;
    byId("end-review").hidden = !reviewing;
    byId("review").hidden = reviewing;
    if (told.unwritten) failed.textContent = `The file cannot be written: ${told.unwritten}. The labels are safe in its journal.`;
  }

  function showClasses() {
    const names = [...byId("classes").children].map((button) => button.dataset.name);
    if (names.join("\n") === seen.classes.join("\n")) return;
    byId("classes").replaceChildren(...seen.classes.map((name, place) => {
      const key = place < 9 ? make("kbd", {}, String(place + 1)) : null;
      const button = make("button", { type: "button", onclick: () => answer(name) }, key, ` ${name} `, make("small"));
      if (key) button.setAttribute("aria-keyshortcuts", String(place + 1));
      button.dataset.name = name;
      return button;
    }));
  }

  /** Send one thing after another; what fails is said, and its picture comes back. */
  function send(what, body, number) {
    failed.textContent = "";
    sending = sending.then(async () => {
      try {
        const told = await post(`label/${what}`, JSON.stringify(body));
        done.delete(number);
        take(told, what === "undo" && told.again !== null ? told.again : undefined);
        return told;
      } catch (error) {
        done.delete(number);
        failed.textContent = `Not kept: ${error.message}`;
        if (number !== undefined) show(seen.questions.find((q) => q.number === number));
        return null;
      }
    });
    return sending;
  }

  /** The next picture is there at once: the answer is kept meanwhile. */
  function answer(label) {
    if (!now) return;
    const { number } = now;
    done.add(number);
    show(open()[0]);
    send("answer", { number, label }, number);
  }

  function skip() {
    if (!now) return;
    const { number } = now;
    done.add(number);
    show(open()[0]);
    send("skip", { number }, number);
  }
  const undo = () => send("undo", {});

  byId("skip").addEventListener("click", skip);
  byId("undo").addEventListener("click", undo);
  byId("review").addEventListener("click", async () => {
    byId("why").textContent = "looking for suspicious labels …";
    now = undefined;
    const told = await send("review", {});
    if (told && !told.suspicious) byId("why").textContent = "No label is suspicious.";
  });
  byId("end-review").addEventListener("click", () => {
    now = undefined;
    reviewing = false;
    send("review", { end: true });
  });
  byId("new-class").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("class-name").value.trim();
    if (!name) return;
    byId("class-name").value = "";
    byId("class-name").blur();
    if (now) answer(name);
  });
  addEventListener("keydown", (event) => {
    if (byId("label").hidden || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const name = /^[1-9]$/.test(event.key) ? seen?.classes[event.key - 1] : undefined;
    if (name !== undefined) answer(name);
    else if (event.key.toLowerCase() === "z") undo();
    else if (event.key.toLowerCase() === "s") skip();
  });

  function drawCurve(history) {
    const curve = byId("curve");
    curve.toggleAttribute("hidden", history.length < 2);
    if (history.length < 2) return;
    const first = history[0][0], last = Math.max(history.at(-1)[0], first + 1);
    const lowest = Math.min(...history.map((point) => point[2]));
    const x = (n) => 30 + (260 * (n - first)) / (last - first);
    const y = (share) => 8 + (66 * (1 - share)) / Math.max(1 - lowest, 0.01);
    const line = (at, points) => points.map((point) => `${x(point[0]).toFixed(1)},${y(point[at]).toFixed(1)}`);
    const draw = (tag, attributes, text) => {
      const shape = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      shape.textContent = text ?? "";
      return shape;
    };
    curve.replaceChildren(
      draw("polygon", { class: "band", points: [...line(2, history), ...line(3, history).reverse()].join(" ") }),
      draw("polyline", { class: "line", points: line(1, history).join(" ") }),
      draw("text", { x: 0, y: 12 }, "1.0"),
      draw("text", { x: 0, y: 78 }, lowest.toFixed(2)),
      draw("text", { x: 30, y: 88 }, `${first} labels`),
      draw("text", { x: 290, y: 88, "text-anchor": "end" }, `${last}`));
  }

  const refresh = async () => take(await askJson("label"));
  refresh().catch((error) => { failed.textContent = error.message; });
  // Another window may have answered.
  whenAlive.push(() => {
    if (!byId("label").hidden) sending = sending.then(refresh).catch(() => {});
  });
}

if (byId("label")) whenShown.label = () => {
  delete whenShown.label;
  startLabelling();
};
