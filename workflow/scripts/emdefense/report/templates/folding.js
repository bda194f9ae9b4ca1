"use strict";
// Opens what a link leads to, opens everything for a print, and marks in the contents where the reader is.
(() => {
  const folds = [...document.querySelectorAll("details.fold")];

  function reveal(target) {
    if (!target) return;
    for (let fold = target.closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
    target.scrollIntoView();
  }

  function named(hash) {
    try {
      return document.getElementById(decodeURIComponent(hash.slice(1)));
    } catch {
      return null; // a hash that is no address of ours
    }
  }

  window.addEventListener("hashchange", () => reveal(named(location.hash)));
  // The same link once more: the hash does not change, and what it leads to may have been closed.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.('a[href^="#"]');
    if (link && link.hash === location.hash) reveal(named(link.hash));
  });
  if (location.hash) reveal(named(location.hash));

  const buttons = document.querySelector(".all-folds");
  buttons.hidden = false;
  for (const [id, open] of [["open-all", true], ["close-all", false]]) {
    document.getElementById(id).addEventListener("click", () => folds.forEach((fold) => { fold.open = open; }));
  }

  let closed = [];
  window.addEventListener("beforeprint", () => {
    closed = folds.filter((fold) => !fold.open);
    for (const fold of closed) fold.open = true;
  });
  window.addEventListener("afterprint", () => closed.forEach((fold) => { fold.open = false; }));

  const nav = document.querySelector(".contents");
  const links = [...nav.querySelectorAll("a")].map((link) => [link, named(link.hash)]);
  let marked = [];

  function mark() {
    // What stands last cannot come to the top: towards the end the line that counts moves down.
    const rest = document.documentElement.scrollHeight - window.scrollY - window.innerHeight;
    const line = 120 + Math.max(0, 1 - rest / window.innerHeight) * (window.innerHeight - 120);
    const passed = links.filter(([, target]) => target.getBoundingClientRect().top < line);
    const wanted = links.find(([link]) => link.hash === location.hash);
    const top = wanted ? wanted[1].getBoundingClientRect().top : -1;
    const here = (rest < 2 && top > 0 && top < line ? wanted : passed[passed.length - 1] ?? links[0])[0];
    if (marked[0] === here) return;
    const item = here.closest("li");
    const part = (item.parentElement.closest("li") ?? item).querySelector("a");
    for (const link of marked) link.removeAttribute("aria-current");
    marked = [here, part];
    for (const link of marked) link.setAttribute("aria-current", "true");
    // The line of contents follows, without moving the page.
    nav.scrollLeft = part.offsetLeft - 20;
    if (here.offsetTop < nav.scrollTop || here.offsetTop > nav.scrollTop + nav.clientHeight - 40) {
      nav.scrollTop = here.offsetTop - nav.clientHeight / 2;
    }
  }

  let waiting = false;
  document.addEventListener("scroll", () => {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; mark(); });
  }, { passive: true });
  mark();
})();
