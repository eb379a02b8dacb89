"use strict";
// Asks the service this page came from, and shows what it says. Text of passages is only ever set as text.

const form = document.getElementById("search");
const tokenForm = document.getElementById("token");
const answers = document.getElementById("answers");
const status_ = document.getElementById("status");
const fields = form.elements;
let serving = "";
let asked = 0; // counts searches, so that a late answer to an old one is not shown

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, bad = false) {
  status_.textContent = text;
  status_.className = bad ? "bad" : "soft";
}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = "Bearer " + token;
  const answer = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) });
  const said = await answer.json().catch(() => ({ error: "the service answered " + answer.status, next: "try again" }));
  if (answer.status === 401) {
    sessionStorage.removeItem("token");
    tokenForm.hidden = false;
    tokenForm.elements.token.focus();
  }
  if (!answer.ok) throw new Error(said.error + " – " + said.next);
  return said;
}

function option(value, text, chosen) {
  const made = element("option", "", text);
  made.value = value;
  made.selected = value === chosen;
  return made;
}

async function listReleases(wanted) {
  const known = await call("release");
  serving = known.serving;
  const shown = known.releases.find((one) => one.release === serving);
  const quality = shown && shown.metrics["ndcg@10"];
  document.getElementById("serving").textContent = "release " + serving + " serves" +
    (shown ? " · " + shown.passages.toLocaleString("en") + " passages" : "") +
    (quality === undefined ? "" : " · nDCG@10 " + quality.toFixed(3));
  const all = known.releases.map((one) => [one.release, one.release]);
  fields.a.replaceChildren(option("", "serving", wanted.a), ...all.map(([name, text]) => option(name, text, wanted.a)));
  fields.b.replaceChildren(option("", "nothing", wanted.b), ...all.map(([name, text]) => option(name, text, wanted.b)));
}

function place(hit, others) {
  if (!others) return null;
  const there = others.get(hit.passage_id);
  if (there === undefined) return element("span", "bad", "only here");
  const by = hit.rank - there;
  if (by === 0) return element("span", "", "same rank");
  return element("span", by < 0 ? "good" : "", "rank " + there + " beside");
}

function shownHit(hit, others) {
  const item = element("li");
  const head = element("div", "head");
  head.append(element("span", "rank", hit.rank), element("span", "title", hit.title || hit.passage_id),
    element("span", "score", hit.score.toFixed(4)));
  const foot = element("div", "foot");
  if (hit.title && hit.title !== hit.passage_id) foot.append(element("code", "", hit.passage_id));
  const where = place(hit, others);
  if (where) foot.append(where);
  const text = element("p", "text", hit.text);
  item.append(head, text, foot);
  const more = element("button", "", "all of it");
  more.type = "button";
  more.setAttribute("aria-expanded", "false");
  more.addEventListener("click", () => {
    const open = item.classList.toggle("open");
    more.textContent = open ? "less" : "all of it";
    more.setAttribute("aria-expanded", String(open));
  });
  requestAnimationFrame(() => { if (text.scrollHeight > text.clientHeight + 1) foot.append(more); });
  return item;
}

function column(said, other) {
  const section = element("section");
  const head = element("header");
  head.append(element("h2", "", said.release + (said.release === serving ? " (serving)" : "")),
    element("span", "soft", (1000 * said.seconds).toFixed(0) + " ms"));
  const list = element("ol");
  const others = other && new Map(other.answers[0].hits.map((hit) => [hit.passage_id, hit.rank]));
  const hits = said.answers[0].hits;
  list.append(...hits.map((hit) => shownHit(hit, others)));
  if (!hits.length) list.append(element("li", "soft", "No passage keeps this filter."));
  section.setAttribute("aria-label", "Answers of release " + said.release);
  section.append(head, list);
  return section;
}

async function search() {
  const number = ++asked;
  const query = { query: fields.q.value, k: Number(fields.k.value), fuse: fields.fuse.checked };
  if (fields.title.value) query.filters = { title: { prefix: fields.title.value } };
  say("searching …");
  try {
    const names = fields.b.value ? [fields.a.value, fields.b.value] : [fields.a.value];
    const said = await Promise.all(names.map((release) => call("search", { ...query, release })));
    if (number !== asked) return;
    answers.replaceChildren(...said.map((one, at) => column(one, said[1 - at])));
    say(said.length === 2 ? compared(said[0].answers[0].hits, said[1].answers[0].hits) : "");
    document.title = query.query + " · Nightshift search";
  } catch (error) {
    if (number !== asked) return;
    answers.replaceChildren();
    say(error.message, true);
  }
}

function compared(left, right) {
  const there = new Set(right.map((hit) => hit.passage_id));
  const common = left.filter((hit) => there.has(hit.passage_id)).length;
  const first = left.length && right.length && left[0].passage_id === right[0].passage_id;
  return common + " of " + Math.max(left.length, right.length) + " passages in common, " +
    (first ? "the same one first" : "another one first");
}

function address() {
  const given = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value && !(name === "k" && value === "10")) given.set(name, value);
  return "?" + given;
}

function fill() {
  const given = new URLSearchParams(location.search);
  for (const name of ["q", "title"]) fields[name].value = given.get(name) || "";
  fields.k.value = given.get("k") || "10";
  if (fields.k.selectedIndex < 0) fields.k.value = "10";
  fields.fuse.checked = given.has("fuse");
  return { a: given.get("a") || "", b: given.get("b") || "" };
}

async function begin() {
  const wanted = fill();
  try {
    await listReleases(wanted);
  } catch (error) {
    say(error.message, true);
    return;
  }
  if (fields.q.value) await search();
  else { answers.replaceChildren(); say("Enter searches; / goes back to the query."); }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  history.pushState(null, "", address());
  search();
});
form.addEventListener("change", (event) => {
  if (event.target !== fields.q && fields.q.value) form.requestSubmit();
});
tokenForm.addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", tokenForm.elements.token.value);
  tokenForm.hidden = true;
  begin();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) {
    event.preventDefault();
    fields.q.select();
  }
});
window.addEventListener("popstate", begin);
begin();
