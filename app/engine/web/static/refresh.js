// Loads the page anew every 5 seconds and puts its new content in the place of the old one. Unlike a reload it
// leaves the reader where they are: scrolled down, or to the side within a wide table. While text is selected
// or the page is not looked at, nothing changes.
"use strict";

const PAUSE_MS = 5_000;
const SILENCE_MS_MAX = 10_000;
const SCROLLING = ".wide, pre";
const PARTS = ["title", "header", "main", "footer"];

function put(fresh) {
  if (!PARTS.every((name) => fresh.querySelector(name))) throw new Error("this is no page of ours");
  const focused = [...document.links].indexOf(document.activeElement);
  const places = [...document.querySelectorAll(SCROLLING)].map((each) => each.scrollLeft);
  for (const name of PARTS) {
    document.querySelector(name).replaceWith(fresh.querySelector(name));
  }
  document.querySelectorAll(SCROLLING).forEach((each, number) => {
    each.scrollLeft = places[number] ?? 0;
  });
  document.links[focused]?.focus({ preventScroll: true });
}

async function refresh() {
  if (document.hidden || !getSelection().isCollapsed) return;
  try {
    const answer = await fetch(location.href, { signal: AbortSignal.timeout(SILENCE_MS_MAX) });
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    if (getSelection().isCollapsed) put(fresh);
    document.querySelector("#stale").hidden = true;
  } catch {
    document.querySelector("#stale").hidden = false;
  }
}

async function keepRefreshing() {
  await refresh();
  setTimeout(keepRefreshing, PAUSE_MS);
}

setTimeout(keepRefreshing, PAUSE_MS);
