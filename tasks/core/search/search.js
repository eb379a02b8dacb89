"use strict";
// Sends queries to the service of this page and shows the results. Passages are inserted as text, never as HTML.

const form = document.getElementById("search");
const tokenForm = document.getElementById("token");
const answers = document.getElementById("answers");
const status_ = document.getElementById("status");
const fields = form.elements;
const MODES = { dense: "encoder", lexical: "BM25", hybrid: "encoder and BM25" };
const VERDICTS = { // verdict: [name of its button, note after the click]
  relevant: ["Relevant", "Recorded as relevant"],
  not_relevant: ["Not relevant", "Recorded as not relevant"],
  answers: ["This answers it", "Recorded as the answer"],
};
const PREVIEW = 600; // characters of a passage on the page until "show all"
const thumbIcon = document.getElementById("thumb").content.firstElementChild;
const votes = new Map(); // query and passage -> verdict of this visitor since the page was opened
const voteGroups = new Set(); // functions that show the votes of the results on the page
let collectsVotes = false;
let serving = "";
let latest = 0; // number of the latest search; responses to earlier searches are ignored

function element(tag, className, text) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  if (text !== undefined) node.textContent = text;
  return node;
}

function hiddenText(text) { // for screen readers only
  return element("span", "hidden-text", text);
}

function readable(node) { // in the direction of its script
  node.dir = "auto";
  return node;
}

function showStatus(text, bad = false) {
  status_.textContent = text;
  status_.className = bad ? "bad" : "soft";
}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const token = sessionStorage.getItem("token");
  if (token) headers.authorization = "Bearer " + token;
  const response = await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body) })
    .catch(() => { throw new Error("The service does not answer – check the network, and that the service runs, then search again"); });
  const result = await response.json().catch(() => ({ error: "HTTP status " + response.status, next: "try again" }));
  if (response.status === 401) {
    sessionStorage.removeItem("token");
    tokenForm.hidden = false;
    tokenForm.elements.token.focus();
  }
  if (!response.ok) throw new Error(result.error + " – " + result.next);
  return result;
}

function option(value, text, selected) {
  const node = element("option", "", text);
  node.value = value;
  node.selected = value === selected;
  return node;
}

async function listReleases(selected) {
  const list = await call("release");
  serving = list.serving;
  collectsVotes = list.feedback;
  const details = list.releases.find((item) => item.release === serving);
  const quality = details && details.metrics["ndcg@10"];
  document.getElementById("serving").textContent = "Serving release " + serving +
    (details ? " · " + details.passages.toLocaleString("en") + " passages · " + MODES[details.mode] : "") +
    (quality === undefined ? "" : " · nDCG@10 " + quality.toFixed(3));
  const names = list.releases.map((item) => item.release);
  fields.a.replaceChildren(option("", "serving", selected.a), ...names.map((name) => option(name, name, selected.a)));
  fields.b.replaceChildren(option("", "nothing", selected.b), ...names.map((name) => option(name, name, selected.b)));
}

function rankComparison(hit, otherRanks) {
  if (!otherRanks) return null;
  const rank = otherRanks.get(hit.passage_id);
  if (rank === undefined) return element("span", "bad", "only in this release");
  if (hit.rank === rank) return element("span", "", "same rank");
  return element("span", hit.rank < rank ? "good" : "", "rank " + rank + " in the other release");
}

function thumb(down) {
  const icon = thumbIcon.cloneNode(true);
  if (down) icon.classList.add("down");
  return icon;
}

function voteGroup(hit, query, release) {
  const group = element("div", "votes");
  const note = element("span", "note");
  const key = JSON.stringify([query, hit.passage_id]);
  let sending = false;
  const buttons = Object.entries(VERDICTS).map(([verdict, [name, confirmation]]) => {
    const button = element("button", "", verdict === "answers" ? name : undefined);
    button.type = "button";
    button.dataset.verdict = verdict;
    if (verdict !== "answers") {
      button.append(thumb(verdict === "not_relevant"));
      button.title = name;
      button.setAttribute("aria-label", name);
    }
    button.addEventListener("click", async () => {
      if (sending) return;
      sending = true;
      const withdrawn = votes.get(key) === verdict;
      try {
        await call("feedback", { query, passage_id: hit.passage_id, verdict: withdrawn ? "withdrawn" : verdict, release });
        if (withdrawn) votes.delete(key);
        else votes.set(key, verdict);
        note.className = "note";
        note.textContent = withdrawn ? "Vote withdrawn" : confirmation;
      } catch (error) {
        note.className = "note bad";
        note.textContent = "Not recorded: " + error.message;
      }
      sending = false;
      for (const show of voteGroups) show();
    });
    return button;
  });
  function showPressed() {
    for (const button of buttons) button.setAttribute("aria-pressed", String(votes.get(key) === button.dataset.verdict));
  }
  showPressed();
  voteGroups.add(showPressed);
  note.setAttribute("role", "status");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", "Your vote on result " + hit.rank + ", " + (hit.title || hit.passage_id));
  group.append(...buttons, note);
  return group;
}

function hitItem(hit, otherRanks) {
  const item = element("li");
  const head = element("div", "head");
  const title = readable(element("h3"));
  title.append(element("span", "title", hit.title || hit.passage_id));
  head.append(element("span", "rank", hit.rank), title, hiddenText("score"), element("span", "score", hit.score.toFixed(4)));
  const foot = element("div", "foot");
  if (hit.title && hit.title !== hit.passage_id) foot.append(element("code", "", hit.passage_id));
  const comparison = rankComparison(hit, otherRanks);
  if (comparison) foot.append(comparison);
  const preview = hit.text.length > PREVIEW ? hit.text.slice(0, PREVIEW) + "…" : hit.text;
  const text = readable(element("p", "text", preview));
  item.append(head, text, foot);
  const more = element("button");
  more.type = "button";
  function show(open) {
    item.classList.toggle("open", open);
    text.textContent = open ? hit.text : preview;
    more.replaceChildren(open ? "show less" : "show all", hiddenText(" of result " + hit.rank));
    more.setAttribute("aria-expanded", String(open));
  }
  show(false);
  more.addEventListener("click", () => show(!item.classList.contains("open")));
  requestAnimationFrame(() => { if (preview !== hit.text || text.scrollHeight > text.clientHeight + 1) foot.append(more); });
  return item;
}

function column(response, other) {
  const section = element("section");
  const head = element("header");
  head.append(element("h2", "", response.release + (response.release === serving ? " (serving)" : "")),
    element("span", "soft", (1000 * response.seconds).toFixed(0) + " ms"));
  const list = element("ol");
  list.setAttribute("role", "list"); // Safari hides lists without markers from screen readers
  const otherRanks = other && new Map(other.answers[0].hits.map((hit) => [hit.passage_id, hit.rank]));
  const hits = response.answers[0].hits;
  const query = response.answers[0].query;
  list.append(...hits.map((hit) => {
    const item = hitItem(hit, otherRanks);
    if (collectsVotes) item.append(voteGroup(hit, query, response.release));
    return item;
  }));
  if (!hits.length) list.append(element("li", "soft", nothing()));
  section.setAttribute("aria-label", "Results of release " + response.release);
  section.append(head, list);
  return section;
}

function nothing() {
  return fields.title.value ? "No passage with such a title matches the query." : "No passage contains a word of the query. Try another ranking.";
}

function summary(lists) {
  if (lists.length === 2) return agreement(...lists);
  return lists[0].length === 1 ? "1 passage" : lists[0].length + " passages";
}

async function search() {
  const number = ++latest;
  const query = { query: fields.q.value, k: Number(fields.k.value) };
  if (fields.mode.value) query.mode = fields.mode.value;
  if (fields.title.value) query.filters = { title: { prefix: fields.title.value } };
  showStatus("Searching …");
  answers.setAttribute("aria-busy", "true");
  try {
    const names = fields.b.value ? [fields.a.value, fields.b.value] : [fields.a.value];
    const responses = await Promise.all(names.map((release) => call("search", { ...query, release })));
    if (number !== latest) return;
    voteGroups.clear();
    answers.replaceChildren(...responses.map((response, index) => column(response, responses[1 - index])));
    showStatus(summary(responses.map((response) => response.answers[0].hits)));
    document.title = query.query + " · Nightshift search";
  } catch (error) {
    if (number !== latest) return;
    answers.replaceChildren();
    showStatus(error.message, true);
  }
  answers.removeAttribute("aria-busy");
}

function agreement(left, right) {
  const rightIds = new Set(right.map((hit) => hit.passage_id));
  const common = left.filter((hit) => rightIds.has(hit.passage_id)).length;
  const first = left.length && right.length && left[0].passage_id === right[0].passage_id;
  return common + " of " + Math.max(left.length, right.length) + " passages in common, " +
    (first ? "same first passage" : "different first passage");
}

function address() {
  const parameters = new URLSearchParams();
  for (const [name, value] of new FormData(form)) if (value && !(name === "k" && value === "10")) parameters.set(name, value);
  return "?" + parameters;
}

function fillForm() {
  const parameters = new URLSearchParams(location.search);
  for (const name of ["q", "title"]) fields[name].value = parameters.get(name) || "";
  fields.k.value = parameters.get("k") || "10";
  if (fields.k.selectedIndex < 0) fields.k.value = "10";
  fields.mode.value = parameters.get("mode") || "";
  if (fields.mode.selectedIndex < 0) fields.mode.value = "";
  return { a: parameters.get("a") || "", b: parameters.get("b") || "" };
}

async function begin() {
  const selected = fillForm();
  try {
    await listReleases(selected);
  } catch (error) {
    showStatus(error.message, true);
    return;
  }
  if (fields.q.value) await search();
  else { answers.replaceChildren(); showStatus("Press Enter to search, / to edit the query."); }
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
