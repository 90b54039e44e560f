"use strict";
(function () {
  const all = (selector, root) => Array.from((root || document).querySelectorAll(selector));
  const make = (tag, properties, ...children) => {
    const element = Object.assign(document.createElement(tag), properties || {});
    element.append(...children);
    return element;
  };

  // Filter by attack, victim and result; tables and cards follow alike.
  const cards = all(".sample");
  const galleries = all(".gallery");
  const controls = document.getElementById("controls");
  const state = { attack: "", victim: "", leaked: false };
  const status = make("p", { className: "count" });
  status.setAttribute("role", "status");

  function apply() {
    const wanted = (data) => (!state.attack || data.attack.split(" ").includes(state.attack)) && (!state.victim || !data.victim || data.victim === state.victim);
    for (const card of cards) card.hidden = !wanted(card.dataset) || (state.leaked && card.dataset.leaked !== "yes");
    for (const gallery of galleries) gallery.hidden = all(".sample", gallery).every((card) => card.hidden);
    for (const row of all("tr[data-attack]")) row.hidden = !wanted(row.dataset);
    const shown = cards.filter((card) => !card.hidden).length;
    status.textContent = shown === 1 ? "1 reconstruction shown" : shown + " reconstructions shown";
  }

  function choice(title, key, entries) {
    const select = make("select");
    select.append(make("option", { value: "", textContent: "all" }));
    for (const [value, text] of entries) select.append(make("option", { value, textContent: text }));
    select.addEventListener("change", () => { state[key] = select.value; apply(); });
    return make("label", {}, title, select);
  }

  function check(text, changed) {
    const box = make("input", { type: "checkbox" });
    box.addEventListener("change", () => changed(box.checked));
    return make("label", { className: "check" }, box, text);
  }

  if (controls && cards.length) {
    const section = document.getElementById("reconstructions");
    const attacks = new Map(galleries.map((g) => [g.dataset.attack, g.dataset.attackTitle]));
    const victims = new Map(cards.map((c) => [c.dataset.victim, c.dataset.victim]));
    if (attacks.size > 1) controls.append(choice("Attack", "attack", attacks));
    if (victims.size > 1) controls.append(choice("Victim", "victim", victims));
    controls.append(check("leaked only", (on) => { state.leaked = on; apply(); }));
    if (section.querySelector(".pair")) controls.append(check("compare with a slider", (on) => {
      section.classList.toggle("slider", on);
      for (const range of all(".slide", section)) range.hidden = !on;
    }));
    if (section.querySelector(".pair img.reconstruction")) controls.append(check("error maps", (on) => {
      for (const pair of all(".pair", section)) showError(pair, on);
    }));
    controls.append(status);
    controls.hidden = false;
    apply();
  }

  // Where a reconstruction differs from its original: the mean over the channels, four times as strong, in red.
  function showError(pair, on) {
    let map = pair.parentElement.querySelector(":scope > .error");
    if (!map) {
      const [one, two] = [pair.querySelector("img.original"), pair.querySelector("img.reconstruction")];
      if (!on || !one || !two || !one.naturalWidth) return;
      map = drawn(one, two);
      pair.after(map);
    }
    map.hidden = !on;
  }

  function drawn(one, two) {
    const canvas = make("canvas", { width: one.naturalWidth, height: one.naturalHeight });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    const pixels = (image) => {
      context.drawImage(image, 0, 0, canvas.width, canvas.height);
      return context.getImageData(0, 0, canvas.width, canvas.height);
    };
    const [before, after] = [pixels(one).data, pixels(two)];
    for (let at = 0; at < before.length; at += 4) {
      let sum = 0;
      for (let channel = 0; channel < 3; channel++) sum += Math.abs(before[at + channel] - after.data[at + channel]);
      const left = 255 - Math.min(255, (4 * sum) / 3);
      after.data.set([255, left, left, 255], at);
    }
    context.putImageData(after, 0, 0);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "Error of the " + two.alt.charAt(0).toLowerCase() + two.alt.slice(1));
    return make("figure", { className: "error" }, canvas, make("figcaption", { textContent: "error, four times as strong" }));
  }

  // What is folded opens where a link leads into it, and for printing.
  function unfold() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (!target) return;
    const inside = target.querySelector(":scope > details");
    if (inside) inside.open = true;
    for (let at = target.parentElement; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    target.scrollIntoView();
  }
  window.addEventListener("hashchange", unfold);
  window.addEventListener("beforeprint", () => { for (const one of all(".appendix > details")) one.open = true; });
  unfold();

  // Slider over each pair, and a step through its snapshots.
  for (const card of cards) {
    const pair = card.querySelector(".pair");
    const image = pair && pair.querySelector("img.reconstruction");
    if (!image) continue;
    const name = card.querySelector("h4").firstChild.textContent.trim();
    const slide = make("input", { type: "range", className: "slide", min: 0, max: 100, value: 50, hidden: true });
    slide.setAttribute("aria-label", name + ": share of the original shown");
    slide.addEventListener("input", () => pair.style.setProperty("--cut", slide.value + "%"));
    pair.after(slide);
    const steps = all(".timeline img", card);
    if (!steps.length) continue;
    const sources = steps.map((step) => [step.src, step.parentElement.textContent.trim()]).concat([[image.src, "final"]]);
    const range = make("input", { type: "range", className: "step", min: 0, max: sources.length - 1 });
    range.value = range.max;
    const tag = image.parentElement.querySelector(".tag");
    range.setAttribute("aria-label", name + ": progress of the attack");
    range.setAttribute("aria-valuetext", "final");
    range.addEventListener("input", () => {
      const [source, text] = sources[range.value];
      image.src = source;
      tag.textContent = text === "final" ? "reconstruction" : "after " + text;
      range.setAttribute("aria-valuetext", text);
    });
    card.querySelector(".timeline").after(range);
  }

  // Sortable tables: a button in every heading.
  for (const table of all("table.data")) {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 2) continue;
    all("thead th", table).forEach((heading, column) => {
      const button = make("button", { type: "button", textContent: heading.textContent });
      heading.replaceChildren(button);
      button.addEventListener("click", () => {
        const down = heading.getAttribute("aria-sort") === "ascending";
        for (const other of all("thead th", table)) other.removeAttribute("aria-sort");
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.key || row.cells[column].textContent.trim();
        const rows = Array.from(body.rows).sort((a, b) => compare(key(a), key(b), down));
        body.append(...rows);
      });
    });
  }

  function compare(a, b, down) {
    if (a.startsWith("–") || b.startsWith("–")) return Number(a.startsWith("–")) - Number(b.startsWith("–"));
    const [x, y] = [Number(a), Number(b)];
    const order = Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
    return down ? -order : order;
  }
})();
