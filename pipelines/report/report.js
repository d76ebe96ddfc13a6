// The gallery's filters and its large view, and the mark in the side navigation. The page reads the same without any of it.
(() => {
  "use strict";
  const cards = [...document.querySelectorAll(".gallery figure")];
  const selects = [...document.querySelectorAll(".filters select")];
  const counter = document.getElementById("gallery-count");
  const dialog = document.getElementById("large");
  let current = -1;

  const matches = (card) =>
    selects.every((select) => select.value === "" || JSON.parse(card.dataset[select.name]).includes(select.value));

  const filter = () => {
    let shown = 0;
    for (const card of cards) {
      card.hidden = !matches(card);
      shown += card.hidden ? 0 : 1;
    }
    if (counter) counter.textContent = `${shown} of ${cards.length} ${cards.length === 1 ? "picture" : "pictures"} shown`;
  };

  const show = (index) => {
    current = index;
    const card = cards[index];
    const image = card.querySelector("img");
    const large = dialog.querySelector("img");
    large.src = image.src;
    large.alt = image.alt;
    dialog.querySelector(".text").replaceChildren(...[...card.querySelector("figcaption").childNodes].map((node) => node.cloneNode(true)));
    const visible = cards.filter((item) => !item.hidden);
    dialog.querySelector(".place").textContent = `${visible.indexOf(card) + 1} of ${visible.length}`;
    if (!dialog.open) dialog.showModal();
  };

  const step = (by) => {
    const visible = cards.map((_, index) => index).filter((index) => !cards[index].hidden);
    if (visible.length) show(visible[(visible.indexOf(current) + by + visible.length) % visible.length]);
  };

  for (const select of selects) select.addEventListener("change", filter);
  cards.forEach((card, index) => card.querySelector("button").addEventListener("click", () => show(index)));
  if (dialog) {
    dialog.querySelector(".previous").addEventListener("click", () => step(-1));
    dialog.querySelector(".next").addEventListener("click", () => step(1));
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
    dialog.addEventListener("keydown", (event) => {
      if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
        step(event.key === "ArrowRight" ? 1 : -1);
        event.preventDefault();
      }
    });
    dialog.addEventListener("close", () => current >= 0 && cards[current].querySelector("button").focus());
  }
  if (cards.length) filter();

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const mark = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
      const first = [...links.keys()].find((id) => seen.has(id));
      if (first) for (const [id, link] of links) link.classList.toggle("here", id === first);
    },
    { rootMargin: "-10% 0px -60% 0px" },
  );
  for (const id of links.keys()) {
    const section = document.getElementById(id);
    if (section) mark.observe(section);
  }
})();
