// The page of bad cases: only the cards in view exist, whatever the number of cases. Filters, order, arrow keys, an enlarged view.
(() => {
  "use strict";
  const CARD = { width: 200, height: 236, gap: 12 };
  const SVG = "http://www.w3.org/2000/svg";
  const PICKED = ["kind", "class", "split", "source", "brightness", "size"];
  const all = JSON.parse(document.getElementById("data").textContent);
  const view = document.getElementById("view");
  const grid = document.getElementById("grid");
  const form = document.getElementById("filters");
  const count = document.getElementById("count");
  const dialog = document.getElementById("large");
  const cards = new Map(); // position among the shown cases: its element
  let shown = [];
  let columns = 1;
  let current = 0;

  const valuesOf = (item, name) => (name === "class" ? [item.class, item.predicted_class] : [item[name]]).filter((value) => value !== null && value !== undefined);

  for (const name of PICKED) {
    const values = [...new Set(all.flatMap((item) => valuesOf(item, name)))].sort();
    for (const value of values) form.elements[name].add(new Option(value, value));
  }

  const filter = () => {
    const wanted = PICKED.map((name) => [name, form.elements[name].value]).filter(([, value]) => value !== "");
    const low = Number(form.elements.low.value);
    const high = Number(form.elements.high.value);
    const everyScore = low <= 0 && high >= 1; // a missed label has no score
    shown = all.filter(
      (item) =>
        wanted.every(([name, value]) => valuesOf(item, name).includes(value)) && (everyScore || (item.score !== null && item.score >= low && item.score <= high)),
    );
    const order = form.elements.order.value;
    if (order !== "rank_score") shown.sort((a, b) => (b[order] ?? -1) - (a[order] ?? -1)); // they come in the order of rank_score, and sorting is stable
    count.textContent = `${shown.length} of ${all.length} ${all.length === 1 ? "case" : "cases"}`;
    current = 0;
    view.scrollTop = 0;
    renew();
  };

  const picture = (item) => {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "frame");
    svg.setAttribute("viewBox", `0 0 ${item.wh[0]} ${item.wh[1]}`);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", sentence(item));
    const image = document.createElementNS(SVG, "image");
    image.setAttribute("href", `data:image/jpeg;base64,${item.jpeg}`);
    image.setAttribute("width", item.wh[0]);
    image.setAttribute("height", item.wh[1]);
    svg.append(image);
    for (const name of ["label", "found"]) {
      if (!item[name]) continue;
      const rect = document.createElementNS(SVG, "rect");
      rect.setAttribute("class", name);
      ["x", "y", "width", "height"].forEach((key, index) => rect.setAttribute(key, item[name][index] * item.wh[index % 2]));
      svg.append(rect);
    }
    return svg;
  };

  const sentence = (item) => {
    const label = item.class ?? "nothing";
    if (item.kind === "missed") return `${label} missed`;
    if (item.kind === "background") return `${item.predicted_class} where nothing is labeled`;
    if (item.kind === "duplicate") return `${label} found twice`;
    if (item.kind === "location") return `${label} in the wrong place`;
    return `${label} taken for ${item.predicted_class}`;
  };

  const details = (item) =>
    [
      item.kind,
      item.score === null ? null : `score ${item.score.toFixed(2)}`,
      item.iou === null || item.iou === undefined ? null : `IoU ${item.iou.toFixed(2)}`,
      item.split,
    ].filter((part) => part !== null);

  const card = (position) => {
    const item = shown[position];
    const element = document.createElement("button");
    element.type = "button";
    element.className = "case";
    element.setAttribute("role", "listitem");
    element.dataset.position = position;
    element.tabIndex = position === current ? 0 : -1;
    const words = document.createElement("span");
    words.className = "words";
    const title = document.createElement("b");
    title.textContent = sentence(item);
    words.append(title, details(item).join(" · "));
    element.append(picture(item), words);
    const row = Math.floor(position / columns);
    element.style.cssText = `left:${(position % columns) * (CARD.width + CARD.gap)}px;top:${row * (CARD.height + CARD.gap)}px;width:${CARD.width}px;height:${CARD.height}px`;
    return element;
  };

  const renew = () => {
    for (const element of cards.values()) element.remove();
    cards.clear();
    columns = Math.max(1, Math.floor((grid.clientWidth + CARD.gap) / (CARD.width + CARD.gap)));
    grid.style.height = `${Math.ceil(shown.length / columns) * (CARD.height + CARD.gap)}px`;
    draw();
  };

  const draw = () => {
    const step = CARD.height + CARD.gap;
    const first = Math.max(0, Math.floor(view.scrollTop / step) - 2) * columns;
    const last = Math.min(shown.length, (Math.ceil((view.scrollTop + view.clientHeight) / step) + 2) * columns);
    for (const [position, element] of cards) {
      if (position < first || position >= last) {
        element.remove();
        cards.delete(position);
      }
    }
    for (let position = first; position < last; position += 1) {
      if (!cards.has(position)) {
        const element = card(position);
        cards.set(position, element);
        grid.append(element);
      }
    }
  };

  const select = (position, focus) => {
    if (!shown.length) return;
    cards.get(current)?.setAttribute("tabindex", "-1");
    current = Math.min(Math.max(position, 0), shown.length - 1);
    const top = Math.floor(current / columns) * (CARD.height + CARD.gap);
    if (top < view.scrollTop) view.scrollTop = top;
    else if (top + CARD.height > view.scrollTop + view.clientHeight) view.scrollTop = top + CARD.height - view.clientHeight;
    draw();
    const element = cards.get(current);
    element.tabIndex = 0;
    if (focus) element.focus({ preventScroll: true });
  };

  const enlarge = (position) => {
    select(position, false);
    const item = shown[current];
    dialog.querySelector(".picture").replaceChildren(picture(item));
    const slices = [item.source, item.brightness, item.size].filter((value) => value !== null && value !== undefined);
    const gain = item.ap50_gain ? `mending it alone is worth ${(item.ap50_gain * 100).toFixed(2)} points of AP50` : null;
    dialog.querySelector(".text").textContent = [sentence(item), ...details(item), ...slices, `image ${item.image}`, gain].filter(Boolean).join(" · ");
    dialog.querySelector(".place").textContent = `${current + 1} of ${shown.length}`;
    if (!dialog.open) dialog.showModal();
  };

  const leave = () => {
    dialog.close();
    select(current, true);
  };

  const page = () => columns * Math.max(1, Math.floor(view.clientHeight / (CARD.height + CARD.gap)));
  const MOVES = {
    ArrowRight: () => current + 1,
    ArrowLeft: () => current - 1,
    ArrowDown: () => (current + columns < shown.length ? current + columns : current),
    ArrowUp: () => (current >= columns ? current - columns : current),
    PageDown: () => current + page(),
    PageUp: () => current - page(),
    Home: () => 0,
    End: () => shown.length - 1,
  };

  grid.addEventListener("keydown", (event) => {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    select(move(), true);
    event.preventDefault();
  });
  grid.addEventListener("click", (event) => {
    const element = event.target.closest(".case");
    if (element) enlarge(Number(element.dataset.position));
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    enlarge(current + (event.key === "ArrowRight" ? 1 : -1));
    event.preventDefault();
  });
  dialog.querySelector(".previous").addEventListener("click", () => enlarge(current - 1));
  dialog.querySelector(".next").addEventListener("click", () => enlarge(current + 1));
  dialog.querySelector(".close").addEventListener("click", leave);
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault(); // Escape
    leave();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !form.contains(document.activeElement) && !dialog.open) {
      form.elements.kind.focus();
      event.preventDefault();
    }
  });
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter)); // the fields are reset after the event
  view.addEventListener("scroll", draw, { passive: true });
  addEventListener("resize", renew);
  filter();
})();
