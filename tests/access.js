// What a checker of accessibility asks, over the rendered page: names, roles, contrast, headings, tables, focus.
// Every list that comes back should be empty; "counted" says over how much.
function access() {
  const found = { names: [], roles: [], contrast: [], headings: [], tables: [], ids: [], focus: [], landmarks: [], lists: [], images: [], counted: {} };
  found.counted.dark = matchMedia("(prefers-color-scheme: dark)").matches;
  found.counted.overflow = document.documentElement.scrollWidth - innerWidth;
  for (const d of document.querySelectorAll("details")) d.open = true;
  const visible = (e) => { const r = e.getBoundingClientRect(); const s = getComputedStyle(e); return r.width > 0 && r.height > 0 && s.visibility !== "hidden"; };
  const words = (e) => (e.getAttribute("aria-label") || (e.getAttribute("aria-labelledby") || "").split(" ").map((i) => document.getElementById(i)?.textContent || "").join(" ") || e.textContent || "").trim();
  const tell = (e) => e.tagName.toLowerCase() + (e.id ? "#" + e.id : "") + (e.className?.baseVal ?? e.className ? "." + String(e.className?.baseVal ?? e.className).split(" ").join(".") : "") + " «" + (e.textContent || "").trim().slice(0, 30) + "»";
  // names
  for (const e of document.querySelectorAll("a[href], button, summary, input, select, textarea, [tabindex]")) {
    if (!visible(e)) continue;
    const label = e.labels?.length ? [...e.labels].map((l) => l.textContent).join(" ").trim() : "";
    if (!words(e) && !label && !e.title) found.names.push(tell(e));
    if (e.matches("input,select,textarea") && !label && !e.getAttribute("aria-label")) found.names.push("unlabelled " + tell(e));
    if (e.tabIndex > 0) found.focus.push("positive tabindex " + tell(e));
  }
  for (const e of document.querySelectorAll("[role]")) {
    const r = e.getAttribute("role");
    if (!["region", "img", "group", "note", "status", "toolbar"].includes(r)) found.roles.push(r + " " + tell(e));
    if (["region", "img", "group"].includes(r) && !e.getAttribute("aria-label") && !e.getAttribute("aria-labelledby")) found.roles.push("unnamed " + tell(e));
  }
  for (const e of document.querySelectorAll("[aria-labelledby]")) for (const i of e.getAttribute("aria-labelledby").split(" ")) if (!document.getElementById(i)) found.roles.push("dangling " + i);
  for (const e of document.querySelectorAll("[aria-hidden=true]")) if (e.querySelector("a,button,input,[tabindex]")) found.roles.push("hidden focusable " + tell(e));
  for (const e of document.querySelectorAll("img")) if (!e.alt) found.images.push(tell(e));
  for (const e of document.querySelectorAll("svg")) if (!e.closest("[aria-hidden=true]") && !e.closest("[role=img]") && !e.closest(".plot") && visible(e)) found.images.push("svg " + tell(e));
  // regions with the same name
  const regions = [...document.querySelectorAll("[role=region], section[aria-labelledby], nav, main, header, footer")].filter((e) => e.matches("[role=region],section,nav"));
  const seen = new Map();
  for (const e of regions) { const w = words(e).slice(0, 200); seen.set(w, (seen.get(w) || 0) + 1); }
  for (const [w, c] of seen) if (c > 1) found.landmarks.push(`${c} × region "${w.slice(0, 60)}"`);
  if (document.querySelectorAll("main").length !== 1 || document.querySelectorAll("h1").length !== 1) found.landmarks.push("main or h1");
  if (!document.documentElement.lang || !document.title) found.landmarks.push("lang or title");
  for (const child of document.body.children) if (!child.matches("header,main,footer,nav,script,style,noscript,[aria-hidden]") && visible(child)) found.landmarks.push("outside landmarks " + tell(child));
  // headings
  let level = 0;
  for (const h of document.querySelectorAll("h1,h2,h3,h4,h5,h6")) { const l = +h.tagName[1]; if (l > level + 1) found.headings.push(`h${level} → ${tell(h)}`); level = l; if (!words(h)) found.headings.push("empty"); }
  // tables
  for (const t of document.querySelectorAll("table")) {
    if (!t.caption?.textContent.trim()) found.tables.push("no caption " + tell(t));
    for (const th of t.querySelectorAll("th")) { if (!th.scope) found.tables.push("no scope " + tell(th)); if (!words(th)) found.tables.push("empty th " + tell(th)); }
    for (const row of t.querySelectorAll("tbody tr")) if (!row.querySelector("th")) found.tables.push("row without th " + tell(row));
    const columns = t.tHead ? [...t.tHead.rows[0].cells].reduce((n, c) => n + c.colSpan, 0) : 0;
    for (const row of t.querySelectorAll("tbody tr")) { const n = [...row.cells].reduce((k, c) => k + c.colSpan, 0); if (n !== columns) found.tables.push(`${n} of ${columns} cells ` + tell(row)); }
  }
  for (const l of document.querySelectorAll("ul,ol")) for (const c of l.children) if (!c.matches("li")) found.lists.push(tell(l));
  for (const l of document.querySelectorAll("dl")) for (const c of l.children) if (!c.matches("dt,dd,div")) found.lists.push(tell(l));
  const ids = [...document.querySelectorAll("[id]")].filter((e) => !e.closest(".plot")).map((e) => e.id);
  found.ids = ids.filter((i, k) => ids.indexOf(i) !== k);
  // scrollable without focus
  for (const e of document.querySelectorAll("*")) { const s = getComputedStyle(e); if (["auto", "scroll"].includes(s.overflowX) && e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0 && !e.querySelector("a,button,input")) found.focus.push("scrolls, no focus " + tell(e)); }
  // focus is visible in reading order: DOM order = order on the page, top to bottom
  let last = -1e9; let back = 0;
  for (const e of document.querySelectorAll("a[href], button, summary, input, textarea, [tabindex='0']")) { if (!visible(e) || e.closest("table") || e.closest(".plot")) continue; const y = e.getBoundingClientRect().top; if (y < last - 400) back++; last = Math.max(last, y); }
  found.counted.jumpsBack = back;
  // Targets at least 24 px high (WCAG 2.2, 2.5.8); Plotly's own buttons stand alone.
  found.small = [...document.querySelectorAll("button:not(.modebar-btn), input, summary, nav a")].filter((e) => visible(e) && e.getBoundingClientRect().height < 23.5).map((e) => Math.round(e.getBoundingClientRect().height) + " px " + tell(e));
  // contrast
  const parse = (c) => { let m = c.match(/rgba?\(([^)]+)\)/); if (m) { const p = m[1].split(/[ ,/]+/).map(Number); return [p[0], p[1], p[2], p[3] ?? 1]; } m = c.match(/color\(srgb ([^)]+)\)/); if (m) { const p = m[1].split(/[ /]+/).map(Number); return [p[0] * 255, p[1] * 255, p[2] * 255, p[3] ?? 1]; } return [0, 0, 0, 0]; };
  const over = (a, b) => [0, 1, 2].map((i) => a[i] * a[3] + b[i] * (1 - a[3])).concat([1]);
  const ground = (e) => { const layers = []; for (let x = e; x; x = x.parentElement) { const c = parse(getComputedStyle(x).backgroundColor); if (c[3] > 0) { layers.push(c); if (c[3] === 1) break; } } let c = [255, 255, 255, 1]; while (layers.length) c = over(layers.pop(), c); return c; };
  const lum = (c) => [0, 1, 2].map((i) => { const v = c[i] / 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; }).reduce((s, v, i) => s + v * [.2126, .7152, .0722][i], 0);
  const bad = new Map(); let texts = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement; if (!walk.currentNode.data.trim() || e.closest("script,style,noscript,.unseen,title") || !visible(e)) continue;
    texts++;
    const s = getComputedStyle(e); const svg = e.closest("svg");
    const fg = over(parse(svg ? s.fill : s.color), ground(e)); const bg = ground(svg ?? e);
    const [a, b] = [lum(fg), lum(bg)].sort((x, y) => y - x); const r = (a + .05) / (b + .05);
    const size = parseFloat(s.fontSize); const need = size >= 24 || (size >= 18.66 && +s.fontWeight >= 700) ? 3 : 4.5;
    if (r < need) bad.set(tell(e).slice(0, 60), r.toFixed(2));
  }
  found.contrast = [...bad].map(([k, v]) => v + " " + k); found.counted.texts = texts; found.counted.tables = document.querySelectorAll("table").length; found.counted.nodes = document.querySelectorAll("*").length;
  for (const d of document.querySelectorAll("details")) d.open = false;
  return found;
}
