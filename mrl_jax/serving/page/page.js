// Ask by voice, by file or in writing, and show the documents that answer.
import { Recorder } from "./recorder.js";
import { WORDS } from "./words.js";

const $ = (id) => document.getElementById(id);
const QUIET = 0.003; // The largest sample of a recording in which nobody speaks.

let language = localStorage.getItem("language") || (navigator.language.startsWith("fr") ? "fr" : "en");
let info = null;
let recorder = null;
let opening = false; // While the browser asks about the microphone.
let last = null; // The question that is asked again where a setting changes: a Blob or a text.
let asked = 0;

const words = () => WORDS[language];

function translate() {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-text]").forEach((element) => {
    element.textContent = words()[element.dataset.text];
  });
  document.querySelectorAll("[data-label]").forEach((element) => {
    element.setAttribute("aria-label", words()[element.dataset.label]);
  });
  $("text").placeholder = words().write;
  $("language").textContent = language === "en" ? "Français" : "English";
  $("language").lang = language === "en" ? "fr" : "en";
  $("record-text").textContent = recorder ? words().stop : words().speak;
  if (info) $("documents").textContent = words().documents(info.documents);
}

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function headers() {
  const key = sessionStorage.getItem("key");
  return key ? { Authorization: `Bearer ${key}` } : {};
}

// An answer as JSON; asks for the API key once where the server wants one.
async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch {
    throw new Error(words().unreachable);
  }
  if (response.status === 401) {
    const key = prompt(words().key);
    if (key) {
      sessionStorage.setItem("key", key);
      return call(path, options);
    }
  }
  // A proxy, or a server with too many connections, does not answer in JSON.
  const body = await response.json().catch(() => null);
  if (!body) throw new Error(`${words().unreachable} (${response.status})`);
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

async function ask(question) {
  last = question;
  const number = ++asked;
  if (!(await ready())) return;
  const form = new FormData();
  if (question instanceof Blob) form.set("file", question, question.name || "question.wav");
  else form.set("text", question);
  form.set("dim", info.dims[$("dim").value]);
  form.set("highlight", "true");
  if ($("task").value) form.set("task", $("task").value);
  say(words().searching);
  const begun = performance.now();
  try {
    const answer = await call("search", { method: "POST", body: form });
    if (number !== asked) return; // A later question is on its way.
    const total = Math.round(performance.now() - begun);
    show(answer.hits);
    say(words().found(answer.hits.length, answer.milliseconds, total, answer.bytes_per_document));
  } catch (error) {
    if (number !== asked) return;
    show([]);
    say(error.message, true);
  }
}

function show(hits) {
  $("hits").replaceChildren(...hits.map(row));
}

function row(hit) {
  const score = element("div", "score", hit.score.toFixed(3));
  const meter = element("meter", "");
  Object.assign(meter, { min: 0, max: 1, value: Math.max(0, hit.score) });
  meter.setAttribute("aria-label", words().score);
  score.append(meter);
  const text = element("div", "text");
  text.dir = "auto";
  if (hit.title) text.append(element("strong", "", hit.title));
  const [start, end] = hit.highlight || [0, 0];
  const letters = [...hit.text]; // Spans count code points, as Python does.
  text.append(letters.slice(0, start).join(""));
  if (end > start) text.append(element("mark", "", letters.slice(start, end).join("")));
  text.append(letters.slice(end).join(""));
  text.append(element("div", "about", hit.id));
  const item = element("li", "");
  item.append(score, text);
  return item;
}

function element(name, kind, text = "") {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.textContent = text;
  return made;
}

async function toggle() {
  if (recorder) {
    const { file, peak } = await finish();
    if (peak < QUIET) say(words().silent, true);
    else listenedTo(file);
    return;
  }
  if (opening) return;
  if (!navigator.mediaDevices) {
    say(words().insecure, true);
    return;
  }
  const one = new Recorder(level);
  opening = true;
  try {
    await one.start();
  } catch {
    say(words().denied, true);
    return;
  } finally {
    opening = false;
  }
  recorder = one;
  $("record").setAttribute("aria-pressed", "true");
  $("level").classList.add("on");
  say(words().listening);
  translate();
}

async function finish() {
  const one = recorder;
  recorder = null;
  $("record").setAttribute("aria-pressed", "false");
  $("level").classList.remove("on");
  translate();
  return one.stop();
}

function level(loudness) {
  if (recorder && info && recorder.seconds > info.max_seconds - 1) toggle();
  const { width, height } = $("level");
  const paint = $("level").getContext("2d");
  paint.drawImage($("level"), -4, 0);
  paint.clearRect(width - 4, 0, 4, height);
  const tall = Math.min(1, loudness * 6) * height;
  paint.fillStyle = getComputedStyle($("record")).backgroundColor;
  paint.fillRect(width - 4, (height - tall) / 2, 3, Math.max(1, tall));
}

function listenedTo(file) {
  URL.revokeObjectURL($("heard").src);
  $("heard").src = URL.createObjectURL(file);
  $("heard").hidden = false;
  ask(file);
}

function choices() {
  $("dim").max = info.dims.length - 1;
  $("dim").disabled = info.dims.length === 1;
  // The slider grows to the right: the full width is last.
  info.dims.sort((a, b) => a - b);
  $("dim").value = info.dims.length - 1;
  $("dim-value").textContent = info.dims.at(-1);
  const tasks = info.tasks.filter((task) => task); // The one without a name has no prompt.
  if (tasks.length) {
    $("task").append(...tasks.map((task) => new Option(task)));
    $("task-label").hidden = false;
  }
}

$("record").addEventListener("click", toggle);
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if ($("text").value.trim()) ask($("text").value);
});
$("file").addEventListener("change", () => {
  if ($("file").files.length) listenedTo($("file").files[0]);
  $("file").value = "";
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) listenedTo(event.dataTransfer.files[0]);
  });
}
$("dim").addEventListener("input", () => {
  $("dim-value").textContent = info.dims[$("dim").value];
  if (last !== null) ask(last);
});
$("task").addEventListener("change", () => {
  if (last !== null) ask(last);
});
$("language").addEventListener("click", () => {
  language = language === "en" ? "fr" : "en";
  localStorage.setItem("language", language);
  translate();
});

// Whether it is known what the server has; asked again with each question until it is.
async function ready() {
  if (info) return true;
  try {
    info = await call("info");
  } catch (error) {
    say(error.message, true);
    return false;
  }
  choices();
  translate();
  return true;
}

translate();
await ready();
