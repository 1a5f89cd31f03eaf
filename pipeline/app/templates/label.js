
// --- Label: one picture after another -----------------------------------------------------

function startLabelling() {
  const picture = byId("question"), failed = byId("label-error");
  let seen, now, reviewing = false, waiting = false, sending = Promise.resolve();
  const done = new Set(); // questions that were left here, and are not confirmed yet
  let answers = []; // of this window, for taking back
  let returned = []; // questions to be asked again, before all others
  const ahead = new Map();

  const WHY = {
    typical: "typical of many images",
    unsure: "the classifier is least sure of it",
    suspicious: "its label may be wrong",
    skipped: "skipped before",
    undone: "taken back",
  };
  const FAILED = { answer: "Not kept", undo: "Not taken back" };
  const UNSEEN = "This picture cannot be shown, so it cannot be labelled: skip it.";

  function load({ number, digest }) {
    const address = `${image(number, "picture")}?${digest}`;
    if (!ahead.has(address)) {
      const loaded = new Image();
      loaded.src = address;
      ahead.set(address, loaded);
      if (ahead.size > 30) ahead.delete(ahead.keys().next().value);
    }
    return address;
  }

  /** Show another picture. Only the person who looks at one has it changed, by a key or a button. */
  function show(question) {
    now = question;
    byId("question-box").hidden = !question;
    byId("skip").disabled = !question;
    if (!question) {
      byId("why").textContent = reviewing ? "No more suspicious labels." : "Every image has a label.";
      byId("question-name").textContent = "";
      picture.removeAttribute("src");
      return;
    }
    returned = returned.filter((other) => other.number !== question.number);
    picture.src = load(question);
    picture.alt = `Which class is this? ${question.name}`;
    byId("question-name").textContent = question.name;
    const label = question.label ? `; now ${question.label}` : "";
    byId("why").textContent = `${WHY[question.why]}${label}`;
    for (const button of byId("classes").children) {
      button.classList.toggle("suggested", button.dataset.name === question.suggested && question.why === "suspicious");
    }
  }
  picture.addEventListener("error", () => {
    ahead.delete(picture.getAttribute("src"));
    if (now) byId("why").textContent = UNSEEN;
  });

  /** Whether the picture is there to be looked at: what nobody saw is not labelled. */
  const ready = () => now && picture.complete && picture.naturalWidth > 0;

  function open() {
    const left = new Set([...done].map((question) => question.number));
    return [...returned, ...seen.questions].filter((question) => !left.has(question.number));
  }
  const askAgain = (question) => { returned = [question, ...returned]; };

  /** The picture that is looked at was labelled elsewhere: it stays, and the next key goes on. */
  function overtake(reason) {
    now.overtaken = true;
    byId("why").textContent = `${reason}. Any answer goes on to the next picture.`;
  }

  /** Take in what the program told; the picture that is being looked at stays. */
  function take(told) {
    seen = told;
    reviewing = told.questions[0]?.why === "suspicious" || (reviewing && !told.questions.length);
    showClasses();
    if (!now && !waiting) show(open()[0]);
    open().forEach(load);
    byId("progress").textContent = `${count(told.labelled, "image")} labelled, ${told.unlabelled.toLocaleString("en")} without a label; ${count(told.answered, "answer")} kept since the start.`;
    for (const button of byId("classes").children) button.lastChild.textContent = (told.counts[button.dataset.name] ?? 0).toLocaleString("en");
    const [share, low, high] = told.accuracy;
    byId("accuracy").textContent = share === undefined
      ? "The accuracy is shown from 10 labels of two classes on."
      : `Accuracy in cross-validation: ${share.toFixed(3)} (95 % interval ${low.toFixed(3)} to ${high.toFixed(3)}).${told.added ? " Hard images come first, so new images are classified rather better." : ""}`;
    drawCurve(told.history);
    byId("may-stop").hidden = !told.may_stop;
    byId("may-stop").textContent = told.may_stop ? "You may stop: the last 50 labels changed nothing." : "";
    byId("label-file").textContent = told.file;
    byId("undo").disabled = !answers.length;
    byId("end-review").hidden = !reviewing;
    byId("review").hidden = reviewing;
    byId("unwritten").textContent = told.unwritten ? `The file cannot be written: ${told.unwritten}. The labels are safe in its journal.` : "";
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

  /** Send one thing after another; what fails is said until something that is sent later succeeds. */
  function send(what, body, question, given) {
    const before = failed.textContent;
    sending = sending.then(async () => {
      if (what === "undo" && given.failed) return refresh(); // there is nothing to take back
      try {
        const told = await post(`label/${what}`, JSON.stringify(body));
        done.delete(question);
        if (what === "review") waiting = false;
        if (failed.textContent === before) failed.textContent = "";
        take(told);
        if (told.again && told.again.number === now?.number) show(told.again);
        return told;
      } catch (error) {
        done.delete(question);
        if (what === "review") waiting = false;
        failed.textContent = `${FAILED[what] ?? "Not done"}: ${error.message}`;
        return refused(what, question, given, error.status === 409);
      }
    }).catch(() => null);
    return sending;
  }

  /** What somebody else labelled meanwhile is not asked again; what could not be kept is. */
  function refused(what, question, given, overtaken) {
    if (what === "answer") {
      given.failed = true;
      answers = answers.filter((other) => other !== given);
    }
    if (what === "undo" && !overtaken) answers.push(given);
    byId("undo").disabled = !answers.length;
    if (what === "undo" && now === question) overtake("Its answer was not taken back");
    else if (question && what !== "undo" && !overtaken && now?.number !== question.number) askAgain(question);
    if (!now) show(open()[0]);
    return overtaken ? refresh() : null;
  }

  /** The next picture is there at once: the answer is kept meanwhile. */
  function leave(what, more) {
    const question = now, { number, digest } = question;
    if (question.overtaken) {
      show(open().find((other) => other.number !== number));
      return;
    }
    done.add(question);
    const given = { question, ...more };
    if (what === "answer") answers.push(given);
    byId("undo").disabled = !answers.length;
    show(open()[0]);
    send(what, { number, digest, ...more }, question, given);
  }
  const answer = (label) => { if (ready()) leave("answer", { label, was: now.label }); };
  const skip = () => { if (now) leave("skip", {}); };

  /** The picture whose answer is taken back is there at once, too. */
  function undo() {
    const given = answers.pop();
    if (!given) return;
    if (now && !now.overtaken) askAgain(now);
    const question = { ...given.question, why: "undone", pending: true };
    show(question);
    byId("undo").disabled = !answers.length;
    send("undo", { number: question.number, digest: question.digest, label: given.label }, question, given);
  }

  /** Ask about other images: those whose label is suspicious, or those without one. */
  function turn(body, text) {
    waiting = true;
    reviewing = !body.end;
    show(undefined);
    byId("why").textContent = text;
    return send("review", body);
  }

  byId("skip").addEventListener("click", skip);
  byId("undo").addEventListener("click", undo);
  byId("review").addEventListener("click", async () => {
    const told = await turn({}, "looking for suspicious labels …");
    if (told && !told.suspicious) byId("why").textContent = "No label is suspicious.";
  });
  byId("end-review").addEventListener("click", () => turn({ end: true }, "…"));
  byId("new-class").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = byId("class-name").value.trim();
    if (!name || !ready()) return;
    byId("class-name").value = "";
    byId("class-name").blur();
    answer(name);
  });
  addEventListener("keydown", (event) => {
    if (byId("label").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    if (!/^[1-9sz]$/i.test(event.key)) return;
    event.preventDefault(); // Firefox may search the page for what is typed
    if (event.repeat) return;
    const name = seen?.classes[event.key - 1];
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

  /** Ask what became of everything, and of the picture that is shown. */
  async function refresh() {
    const looking = now;
    const told = await askJson(`label?shown=${looking?.number ?? ""}`);
    take(told);
    if (!looking || looking !== now || looking.overtaken || looking.pending || !told.shown) return;
    const { digest, label } = told.shown;
    if (digest !== looking.digest) overtake("The program shows other images now: load this page again");
    else if (label !== looking.label) overtake(label ? `Labelled ${label} in another window meanwhile` : "Its label was taken back in another window meanwhile");
  }
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
