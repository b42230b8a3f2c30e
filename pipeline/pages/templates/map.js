/* The map of a report and of guie browse: points of a plane on one canvas, without any library.

guieMap(element, {
  x, y          N numbers in 0 … 1 each
  classes       N numbers, each a position in names
  names         the classes' names
  caption(i)    optional; text of a point, otherwise its class
  thumbnail(i)  optional; {src, x, y, size}: the square of `size` px at (x, y) of a picture; without x the whole picture
  onOpen(i)     optional; a point was clicked, or Enter was pressed on it
  onSelect(is)  optional; the points within a lasso, or all in view
}) → {mark(class)}   a position in names, -1: none

A class is told by its name: labels stand at the middle of classes, the chosen class is drawn in outlined shapes. */
"use strict";
function guieMap(element, options) {
  const {x, y, classes, names} = options, N = x.length, CELLS = 128, REACH_PX = 14, SHAPES = 6, SIDE_PX = 128;
  const make = (name, given = {}, ...inside) => {
    const node = Object.assign(document.createElement(name), given);
    node.append(...inside);
    return node;
  };
  const button = (text, label, act) => {
    const node = make("button", {type: "button", textContent: text, title: label, onclick: act});
    node.setAttribute("aria-label", label);
    return node;
  };
  const canvas = make("canvas", {tabIndex: 0}), picture = make("div"), text = make("div");
  const tip = make("div", {hidden: true}, picture, text), frame = make("div", {}, canvas, tip), bar = make("div");
  const spoken = make("p");
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", `Map of ${N.toLocaleString("en")} images. Arrow keys go from image to image, ` +
    "plus and minus zoom, 0 shows all" + (options.onOpen ? ", Enter opens." : "."));
  spoken.setAttribute("aria-live", "polite");
  Object.assign(bar.style, {display: "flex", flexWrap: "wrap", gap: ".4rem", margin: "0 0 .4rem", alignItems: "center"});
  Object.assign(frame.style, {position: "relative"});
  Object.assign(canvas.style, {display: "block", width: "100%", touchAction: "none", cursor: "crosshair",
    border: "1px solid var(--line)", boxSizing: "border-box", height: "min(72vh, 44rem, 115vw)", background: "var(--paper)"});
  Object.assign(tip.style, {position: "absolute", pointerEvents: "none", padding: "4px", maxWidth: "min(15rem, 45%)", zIndex: 2,
    background: "var(--paper)", color: "var(--ink)", border: "1px solid var(--line)", fontSize: "12px"});
  Object.assign(text.style, {display: "-webkit-box", webkitBoxOrient: "vertical", webkitLineClamp: 3, overflow: "hidden",
    overflowWrap: "anywhere"});  // a long name covers no map of a phone
  Object.assign(spoken.style, {position: "absolute", width: "1px", height: "1px", overflow: "hidden", margin: 0,
    clipPath: "inset(50%)"});
  const chosen = make("select"), lasso = button("Lasso", "Draw around images to select them", () => hold(!lassoing));
  const order = names.map((name, at) => at).sort((a, b) => names[a].localeCompare(names[b], "en"));
  chosen.append(new Option("no class marked", -1), ...order.map((at) => new Option(names[at], at)));
  chosen.setAttribute("aria-label", "Mark a class");
  chosen.onchange = () => { marked = Number(chosen.value); later(); };
  Object.assign(chosen.style, {maxWidth: "14rem"});
  bar.append(button("+", "Zoom in", () => zoom(1.5)), button("−", "Zoom out", () => zoom(1 / 1.5)),
    button("All", "Show all", () => reset()), chosen);
  if (options.onSelect) bar.append(lasso, button("Select what is in view", "Select the images in view", () => inView()));
  element.append(bar, frame, spoken);

  // The points sorted into cells of the unit square: which is under the pointer is asked of a few cells alone.
  const cellOf = (v) => Math.max(0, Math.min(CELLS - 1, Math.floor(v * CELLS)));
  const starts = new Uint32Array(CELLS * CELLS + 1), sorted = new Uint32Array(N);
  for (let i = 0; i < N; i++) starts[cellOf(y[i]) * CELLS + cellOf(x[i]) + 1]++;
  for (let c = 0; c < CELLS * CELLS; c++) starts[c + 1] += starts[c];
  const next = starts.slice();
  for (let i = 0; i < N; i++) sorted[next[cellOf(y[i]) * CELLS + cellOf(x[i])]++] = i;
  // Each class's label stands at its image nearest to the mean; large classes come first.
  const sums = names.map(() => [0, 0, 0]), anchors = names.map(() => [-1, Infinity]);
  for (let i = 0; i < N; i++) { const s = sums[classes[i]]; s[0] += x[i]; s[1] += y[i]; s[2]++; }
  for (let i = 0; i < N; i++) {
    const s = sums[classes[i]], a = anchors[classes[i]], far = Math.hypot(x[i] - s[0] / s[2], y[i] - s[1] / s[2]);
    if (far < a[1]) { a[0] = i; a[1] = far; }
  }
  const bySize = order.slice().sort((a, b) => sums[b][2] - sums[a][2]);

  let scale = 1, left = 0, top = 0, width = 1, height = 1, now = -1, marked = -1, lassoing = false, loop = [], due = false;
  const span = (values) => Math.max(1e-3, values.reduce((most, v) => Math.max(most, v), 0) - values.reduce((least, v) => Math.min(least, v), 1));
  const wideX = span(x), wideY = span(y), unit = () => Math.min((width - 40) / wideX, (height - 60) / wideY);
  const px = (i) => (x[i] - 0.5) * unit() * scale + width / 2 + left;
  const py = (i) => (0.5 - y[i]) * unit() * scale + height / 2 + top;
  const back = (at, size, shift) => (at - size / 2 - shift) / (unit() * scale);
  const later = () => { if (!due) { due = true; requestAnimationFrame(() => { due = false; draw(); }); } };
  const reset = () => { scale = 1; left = top = 0; later(); };

  function zoom(factor, atX = width / 2, atY = height / 2) {
    factor = Math.max(0.5, Math.min(400, scale * factor)) / scale;
    left = (atX - width / 2) * (1 - factor) + left * factor;
    top = (atY - height / 2) * (1 - factor) + top * factor;
    scale *= factor;
    later();
  }
  function hold(on) {
    lassoing = on;
    lasso.setAttribute("aria-pressed", on);
    lasso.textContent = on ? "Lasso: draw now" : "Lasso";
  }
  function inView() {
    const found = [];
    for (let i = 0; i < N; i++) if (px(i) >= 0 && px(i) <= width && py(i) >= 0 && py(i) <= height) found.push(i);
    if (found.length) options.onSelect(found);
  }
  function under(atX, atY, reach) {
    const far = reach / (unit() * scale), cx = back(atX, width, left) + 0.5, cy = 0.5 - back(atY, height, top);
    let best = -1, least = reach;
    for (let r = cellOf(cy - far); r <= cellOf(cy + far); r++)
      for (let c = cellOf(cx - far); c <= cellOf(cx + far); c++)
        for (let s = starts[r * CELLS + c]; s < starts[r * CELLS + c + 1]; s++) {
          const away = Math.hypot(px(sorted[s]) - atX, py(sorted[s]) - atY);
          if (away < least) { least = away; best = sorted[s]; }
        }
    return best;
  }
  function within(i) {
    let inside = false;
    for (let a = 0, b = loop.length - 1; a < loop.length; b = a++) {
      const [ax, ay] = loop[a], [bx, by] = loop[b], at = py(i);
      if (ay > at !== by > at && px(i) < (bx - ax) * (at - ay) / (by - ay) + ax) inside = !inside;
    }
    return inside;
  }
  function trace(pen, shape, cx, cy, r) {
    pen.beginPath();
    if (shape === 0) pen.arc(cx, cy, r, 0, 7);
    else if (shape === 1) pen.rect(cx - r, cy - r, 2 * r, 2 * r);
    else { // triangle up, rhombus, triangle down, hexagon
      const corners = [3, 4, 3, 6][shape - 2], turn = shape === 4 ? Math.PI / 2 : -Math.PI / 2;
      for (let k = 0; k < corners; k++)
        pen.lineTo(cx + 1.3 * r * Math.cos(turn + k * 2 * Math.PI / corners), cy + 1.3 * r * Math.sin(turn + k * 2 * Math.PI / corners));
      pen.closePath();
    }
  }
  function rgb(hue, saturation, light) {
    const part = (n) => {
      const k = (n + hue / 30) % 12;
      return Math.round(255 * (light - saturation * Math.min(light, 1 - light) * Math.max(-1, Math.min(k - 3, 9 - k, 1))));
    };
    return [part(0), part(8), part(4)];
  }
  function dots(pen, ratio, fills, r) { // as pixels: 100,000 shapes would take the canvas seconds
    const W = canvas.width, H = canvas.height, image = pen.createImageData(W, H), pixels = new Uint32Array(image.data.buffer);
    const colours = fills.map(([red, green, blue]) => (0xff000000 | blue << 16 | green << 8 | red) >>> 0), side = Math.round(2 * r * ratio);
    for (let i = 0; i < N; i++) {
      if (classes[i] === marked) continue;
      const cx = Math.round((px(i) - r) * ratio), cy = Math.round((py(i) - r) * ratio);
      for (let row = Math.max(0, cy); row < Math.min(H, cy + side); row++)
        for (let column = Math.max(0, cx); column < Math.min(W, cx + side); column++) pixels[row * W + column] = colours[classes[i]];
    }
    pen.putImageData(image, 0, 0);
  }
  function draw() {
    const pen = canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, style = getComputedStyle(element);
    const colour = (name, otherwise) => style.getPropertyValue(name).trim() || otherwise;
    const ink = colour("--ink", "#222"), paper = colour("--paper", "#fff"), dark = matchMedia("(prefers-color-scheme: dark)").matches;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const faint = marked >= 0, light = dark ? (faint ? 0.35 : 0.66) : (faint ? 0.75 : 0.42);
    const fills = names.map((_, at) => rgb((at * 137.5) % 360, faint ? 0.1 : 0.55, light));
    const r = Math.max(1.2, Math.min(5, 60 / Math.sqrt(N) * Math.sqrt(scale) + 1)), shaped = r >= 2.5;
    const shown = (i, m = 8) => px(i) > -m && px(i) < width + m && py(i) > -m && py(i) < height + m;
    if (!shaped) dots(pen, ratio, fills, r);
    for (let i = 0; shaped && i < N; i++) {
      if (classes[i] === marked || !shown(i)) continue;
      pen.fillStyle = `rgb(${fills[classes[i]]})`;
      trace(pen, classes[i] % SHAPES, px(i), py(i), r);
      pen.fill();
    }
    pen.lineWidth = 1.5;
    for (let i = 0; marked >= 0 && i < N; i++) {
      if (classes[i] !== marked || !shown(i)) continue;
      trace(pen, marked % SHAPES, px(i), py(i), r + 2.5);
      pen.fillStyle = colour("--accent", "#06c");
      pen.strokeStyle = ink;
      pen.fill();
      pen.stroke();
    }
    if (now >= 0) {
      pen.strokeStyle = ink;
      pen.lineWidth = 2.5;
      pen.beginPath();
      pen.arc(px(now), py(now), r + 6, 0, 7);
      pen.stroke();
    }
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const taken = [], most = Math.max(6, Math.round(width * height / 18000));
    for (const at of marked < 0 ? bySize : [marked, ...bySize.filter((other) => other !== marked)]) {
      const i = anchors[at][0];
      if (taken.length >= (marked < 0 ? most : 1)) break;
      if (i < 0 || !shown(i, 0)) continue;
      const name = names[at].length > 28 ? names[at].slice(0, 27) + "…" : names[at], wide = pen.measureText(name).width / 2 + 4;
      const cx = Math.max(wide, Math.min(width - wide, px(i))), cy = Math.max(10, py(i) - r - 11);
      if (taken.some(([ox, oy, ow]) => Math.abs(ox - cx) < ow + wide && Math.abs(oy - cy) < 18)) continue;
      taken.push([cx, cy, wide]);
      pen.lineWidth = 4;
      pen.strokeStyle = paper;
      pen.strokeText(name, cx, cy);
      pen.fillStyle = ink;
      pen.fillText(name, cx, cy);
    }
    if (loop.length > 1) {
      pen.beginPath();
      loop.forEach(([ax, ay]) => pen.lineTo(ax, ay));
      pen.closePath();
      pen.setLineDash([5, 4]);
      pen.strokeStyle = ink;
      pen.lineWidth = 1.5;
      pen.stroke();
      pen.setLineDash([]);
    }
    place();
  }
  function place() {
    tip.hidden = now < 0;
    if (now < 0) return;
    const over = px(now) > width / 2, low = py(now) > height / 2;
    Object.assign(tip.style, {left: over ? "auto" : `${px(now) + 14}px`, right: over ? `${width - px(now) + 14}px` : "auto",
      top: low ? "auto" : `${py(now) + 14}px`, bottom: low ? `${height - py(now) + 14}px` : "auto"});
  }
  function show(i, aloud = false) {
    if (i === now) return;
    now = i;
    if (i >= 0) {
      text.textContent = options.caption ? options.caption(i) : names[classes[i]];
      const cut = options.thumbnail && options.thumbnail(i), whole = cut && cut.x === undefined, size = whole ? SIDE_PX : cut && cut.size;
      picture.hidden = !cut;
      if (cut) Object.assign(picture.style, {width: `${size}px`, height: `${size}px`, backgroundRepeat: "no-repeat",
        backgroundImage: `url("${cut.src}")`, backgroundSize: whole ? "contain" : "auto",
        backgroundPosition: whole ? "center" : `-${cut.x}px -${cut.y}px`});
      if (aloud) spoken.textContent = text.textContent;
    }
    later();
  }
  function step(dx, dy) {
    const fromX = now < 0 ? width / 2 : px(now), fromY = now < 0 ? height / 2 : py(now);
    let best = -1, least = Infinity;
    for (let i = 0; i < N; i++) {
      if (i === now) continue;
      const ax = px(i) - fromX, ay = py(i) - fromY, along = ax * dx + ay * dy, cost = Math.hypot(ax, ay) + 2 * Math.abs(ax * dy - ay * dx);
      if (now >= 0 && along <= 0.01) continue;
      if (cost < least) { least = cost; best = i; }
    }
    if (best < 0) return;
    left -= Math.max(0, px(best) - width + 20) + Math.min(0, px(best) - 20); // it stays in view
    top -= Math.max(0, py(best) - height + 20) + Math.min(0, py(best) - 20);
    show(best, true);
  }

  const held = new Map();
  let moved = 0, touched = -1;
  const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, at(event));
    moved = 0;
    if (options.onSelect && (lassoing || event.shiftKey) && held.size === 1) { loop = [at(event)]; show(-1); }
    else loop = [];
  });
  canvas.addEventListener("pointermove", (event) => {
    const [ax, ay] = at(event), before = held.get(event.pointerId);
    if (!before) return show(under(ax, ay, REACH_PX));
    moved += Math.hypot(ax - before[0], ay - before[1]);
    if (loop.length) loop.push([ax, ay]);
    else if (held.size === 2) {
      const [ox, oy] = [...held].find(([id]) => id !== event.pointerId)[1];
      zoom(Math.hypot(ax - ox, ay - oy) / Math.max(1, Math.hypot(before[0] - ox, before[1] - oy)), (ax + ox) / 2, (ay + oy) / 2);
    } else if (moved > 4) { left += ax - before[0]; top += ay - before[1]; }
    held.set(event.pointerId, [ax, ay]);
    later();
  });
  canvas.addEventListener("pointerup", (event) => {
    held.delete(event.pointerId);
    if (loop.length) {
      const found = [];
      for (let i = 0; i < N; i++) if (within(i)) found.push(i);
      loop = [];
      hold(false);
      later();
      if (found.length) options.onSelect(found);
      return;
    }
    if (moved > 4) return;
    const found = under(...at(event), REACH_PX), again = event.pointerType !== "touch" || found === touched;
    touched = found;
    show(found, true);
    if (found >= 0 && again && options.onOpen) options.onOpen(found); // a finger's first touch only shows it
  });
  canvas.addEventListener("pointercancel", (event) => { held.delete(event.pointerId); loop = []; later(); });
  canvas.addEventListener("pointerleave", () => { if (!held.size && document.activeElement !== canvas) show(-1); });
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), ...at(event));
  }, {passive: false});
  canvas.addEventListener("focus", () => { if (now < 0 && canvas.matches(":focus-visible")) step(0, 0); });
  canvas.addEventListener("blur", () => show(-1));
  canvas.addEventListener("keydown", (event) => {
    const steps = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps) step(...steps);
    else if (event.key === "Enter" && now >= 0 && options.onOpen) options.onOpen(now);
    else if (event.key === "+" || event.key === "=") zoom(1.5, ...(now < 0 ? [] : [px(now), py(now)]));
    else if (event.key === "-") zoom(1 / 1.5, ...(now < 0 ? [] : [px(now), py(now)]));
    else if (event.key === "0") reset();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  new ResizeObserver(() => { width = canvas.clientWidth || 1; height = canvas.clientHeight || 1; draw(); }).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", later);
  return {mark: (at) => { marked = at; chosen.value = at; later(); }};
}
