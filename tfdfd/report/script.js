"use strict";
(() => {
  const byId = (id) => document.getElementById(id);

  // Files to save: their exact bytes are in the page.
  const saved = JSON.parse(byId("saved").textContent);
  const types = { json: "application/json", csv: "text/csv" };
  byId("save").hidden = false;
  for (const button of document.querySelectorAll("[data-save]")) {
    button.addEventListener("click", () => {
      const kind = button.dataset.save;
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([saved[kind]], { type: types[kind] }));
      link.download = `${saved.name}.${kind}`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }

  // List of inputs: search, filter, order.
  const list = byId("rows");
  if (list) {
    const rows = [...list.children];
    const texts = new Map(rows.map((row) => [row, row.dataset.text.toLowerCase()]));
    const places = new Map(rows.map((row, place) => [row, place]));
    const score = (row) => Number(row.dataset.p);
    const orders = {
      order: () => 0,
      fake: (a, b) => score(b) - score(a),
      // Inputs without a score come last in both directions.
      real: (a, b) => (score(a) < 0) - (score(b) < 0) || score(a) - score(b),
      name: (a, b) => texts.get(a).localeCompare(texts.get(b)),
      verdict: (a, b) => a.dataset.verdict.localeCompare(b.dataset.verdict),
    };
    let order = "order";
    const update = () => {
      const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
      const verdict = byId("filter").value;
      let count = 0;
      for (const row of rows) {
        const fits = (!verdict || row.dataset.verdict === verdict) && words.every((word) => texts.get(row).includes(word));
        row.hidden = !fits;
        count += fits;
      }
      if (byId("sort").value !== order) {
        order = byId("sort").value;
        list.append(...[...rows].sort((a, b) => orders[order](a, b) || places.get(a) - places.get(b)));
      }
      byId("shown").textContent = count === rows.length ? `${count} inputs` : `${count} of ${rows.length} inputs`;
    };
    byId("tools").hidden = false;
    byId("tools").addEventListener("submit", (event) => event.preventDefault());
    for (const id of ["search", "filter", "sort"]) byId(id).addEventListener("input", update);
    // Toggle events do not bubble.
    list.addEventListener("toggle", ({ target }) => {
      const text = target.querySelector(":scope > script");
      if (!text || !target.open) return;
      target.querySelector(".body").innerHTML = JSON.parse(text.textContent);
      text.remove();
      target.querySelectorAll(".player").forEach(play);
    }, true);
    const toggle = byId("toggle");
    toggle.addEventListener("click", () => {
      const open = toggle.textContent === "Open all";
      for (const row of rows) if (!row.hidden || !open) row.querySelector("details").open = open;
      toggle.textContent = open ? "Close all" : "Open all";
    });
    update();
  }

  // Timeline: the frame under the pointer, or at the slider.
  function play(player) {
    const moments = JSON.parse(player.querySelector("script").textContent);
    const plot = player.previousElementSibling;
    const area = plot.querySelector(".area");
    const cursor = plot.querySelector(".cursor");
    const slider = player.querySelector("input");
    const text = player.querySelector("output");
    const strip = player.querySelector(".strip");
    const boxes = player.querySelector(".boxes");
    const show = (place) => {
      const moment = moments[place];
      const words = `${moment.time.toFixed(2)} s: ${moment.faces.map((face) => `${face.name} ${face.p}`).join(", ")}`;
      slider.value = place;
      slider.setAttribute("aria-valuetext", words);
      text.textContent = words;
      cursor.setAttribute("x1", `${moment.x}%`);
      cursor.setAttribute("x2", `${moment.x}%`);
      if (!strip) return;
      strip.style.transform = `translateX(${(-100 * moment.cell) / Number(strip.dataset.cells)}%)`;
      boxes.replaceChildren();
      for (const face of moment.faces) {
        for (const kind of ["halo", `box ${face.color}`]) {
          const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
          box.setAttribute("class", kind);
          ["x", "y", "width", "height"].forEach((name, i) => box.setAttribute(name, `${face.box[i]}%`));
          boxes.append(box);
        }
      }
    };
    area.addEventListener("pointermove", (event) => {
      const frame = area.getBoundingClientRect();
      const x = (100 * (event.clientX - frame.left)) / frame.width;
      const near = moments.reduce((best, one, i) => (Math.abs(one.x - x) < Math.abs(moments[best].x - x) ? i : best), 0);
      if (near !== Number(slider.value)) show(near);
    });
    slider.addEventListener("input", () => show(Number(slider.value)));
    player.hidden = false;
    show(Number(slider.value));
  }
  document.querySelectorAll(".player").forEach(play);

  // What is printed is what is open, and the whole model card.
  addEventListener("beforeprint", () => {
    for (const card of document.querySelectorAll("details.whole")) card.open = true;
  });
})();
