/* guie browse: keys, thumbnail size, pictures that are dropped, the map. Pages are whole without it. */
"use strict";
(() => {
  const find = (words) => document.querySelector(words), all = (words) => [...document.querySelectorAll(words)];
  const root = document.documentElement, grid = find(".tiles[data-fits]"), size = find("#size");
  root.classList.add("scripted");
  const say = (text, busy = false) => { find("#said").textContent = text; find("#said").classList.toggle("busy", busy); };
  const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };

  // Thumbnails as large as the visitor likes, and as many a page as the window holds.
  const side = Number(stored("side")) || (innerWidth < 800 ? 104 : 120);
  root.style.setProperty("--side", `${side}px`);
  const fit = () => {
    const first = grid && grid.querySelector("figure");
    if (!first) return 0;
    const style = getComputedStyle(grid), columns = style.gridTemplateColumns.split(" ").length;
    const tile = first.getBoundingClientRect().height + parseFloat(style.rowGap);
    const rows = Math.floor((innerHeight - grid.getBoundingClientRect().top - scrollY - 44) / tile);
    return Math.min(240, Math.max(6, columns * Math.max(rows, innerWidth < 800 ? 8 : 2)));
  };
  const known = (document.cookie.match(/(?:^|; )fits=(\d+)/) || [])[1], keep = (count) => {
    if (count) document.cookie = `fits=${count}; SameSite=Strict; path=/; max-age=31536000`;
  };
  const wide = matchMedia("(min-width: 800px)");
  if (find(".classes")) find(".classes").open = wide.matches;
  if (grid) {
    const count = fit();
    keep(count);
    if (!known && count !== 60 && document.cookie.includes("fits=")) location.replace(location.href);
  }
  if (size) {
    size.value = side;
    size.addEventListener("input", () => root.style.setProperty("--side", `${size.value}px`));
    let settled = 0;
    size.addEventListener("change", () => { // by keys one a step: the page is asked for again when it rests
      try { localStorage.setItem("side", size.value); } catch { /* then it is of this page alone */ }
      clearTimeout(settled);
      settled = setTimeout(() => {
        keep(fit());
        if (String(fit()) === known) return;
        try { sessionStorage.setItem("sizing", "1"); } catch { /* then the focus is lost */ }
        location.replace(location.href);
      }, 500);
    });
    try {
      if (sessionStorage.getItem("sizing")) size.focus();
      sessionStorage.removeItem("sizing");
    } catch { /* as above */ }
    addEventListener("resize", () => keep(fit()));
  }

  // Arrow keys go from image to image, past the last to the next page; Enter opens as on any link; Escape goes back.
  const links = all(".tiles a"), place = `at ${location.pathname}${location.search}`;
  const remember = () => {
    const at = links.indexOf(document.activeElement);
    try { if (at >= 0) sessionStorage.setItem(place, at); } catch { /* it starts at the top */ }
  };
  links.forEach((link) => link.addEventListener("click", () => { link.focus(); remember(); }));
  addEventListener("pageshow", () => {
    let at = null;
    try { at = sessionStorage.getItem(place); } catch { /* as above */ }
    const entry = performance.getEntriesByType("navigation")[0];
    if (at !== null && links[at] && entry && entry.type === "back_forward") links[at].focus();
    else if (location.hash === "#first" && links[0]) links[0].focus();
    else if (location.hash === "#last" && links.length) links[links.length - 1].focus();
  });
  const across = () => {
    const top = links[0].getBoundingClientRect().top;
    const next = links.findIndex((link) => link.getBoundingClientRect().top > top + 2);
    return next < 0 ? links.length : next;
  };
  const step = (by) => {
    const at = links.indexOf(document.activeElement), to = at < 0 ? 0 : at + by, on = links[to];
    const other = to < 0 ? find("a[rel=prev]") : find("a[rel=next]");
    if (on) { on.focus(); on.scrollIntoView({block: "nearest"}); }
    else if (other && Math.abs(by) === 1) location.assign(`${other.href}#${to < 0 ? "last" : "first"}`);
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    const typing = event.target.matches("input, select, textarea"), search = find("main input[type=search]") || find("#words");
    if (event.key === "Escape") {
      if (typing) return event.target.blur();
      if (grid) return document.activeElement.blur();
      if (document.referrer.startsWith(location.origin)) history.back();
      else location.assign("/");
    } else if (typing) return;
    else if (event.key === "/" && search) { search.focus(); event.preventDefault(); }
    else if (links.length) {
      const by = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -across(), ArrowDown: across()}[event.key];
      if (by) { step(by); event.preventDefault(); }
    }
  });

  // A picture that is dropped, pasted or chosen is sent; the answer is the address of its nearest.
  const form = find("#drop");
  const send = async (file) => {
    if (!file) return;
    say("Looking for images like it…", true);
    const body = new FormData();
    body.append("image", file, file.name || "pasted");
    try {
      const answer = await fetch("/search", {method: "POST", body});
      if (answer.ok) location.assign(answer.url);
      else say((await answer.text()).trim());
    } catch { say("the server did not answer"); }
  };
  if (form) {
    find("#image").addEventListener("change", (event) => send(event.target.files[0]));
    form.addEventListener("submit", (event) => { event.preventDefault(); send(find("#image").files[0]); });
    addEventListener("paste", (event) => send([...event.clipboardData.files][0]));
    addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dropping"); });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
    addEventListener("drop", (event) => {
      event.preventDefault();
      document.body.classList.remove("dropping");
      send(event.dataTransfer.files[0]);
    });
  }

  const map = find("#map");
  const drawn = async () => {
    const [bytes, names] = await Promise.all([
      fetch(`/map/points?by=${map.dataset.by}`).then((answer) => answer.arrayBuffer()), fetch("/map/names").then((answer) => answer.json())]);
    const count = bytes.byteLength / 12;
    const made = guieMap(map, {
      x: new Float32Array(bytes, 0, count), y: new Float32Array(bytes, 4 * count, count),
      classes: new Int32Array(bytes, 8 * count, count), names: names.classes,
      thumbnail: (i) => ({src: `/image/${i}?v=${names.version}`}),
      onOpen: (i) => location.assign(`/item/${i}`),
      onSelect: async (rows) => {
        const answer = await fetch("/select", {method: "POST", body: JSON.stringify(rows)});
        if (answer.ok) location.assign(answer.url);
        else say((await answer.text()).trim());
      },
    });
    made.mark(Number(map.dataset.chosen));
  };
  if (map) drawn().catch(() => say("the map's points did not come"));
})();
