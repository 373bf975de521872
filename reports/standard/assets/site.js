// Unfolding of tables, boxes that a key can scroll, contents on narrow screens, and the search.
"use strict";
{
  const root = document.currentScript.dataset.root;
  document.documentElement.classList.add("js");

  for (const button of document.querySelectorAll(".unfold")) {
    const rest = button.parentElement.previousElementSibling.querySelector(".more");
    const closed = button.textContent;
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const open = rest.classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
      button.textContent = open ? "the first rows only" : closed;
      reach();
    });
  }

  function reach() { // only a box that scrolls is a stop for the tabulator key
    for (const box of document.querySelectorAll(".scroll, .long, .contents, #results")) {
      const scrolls = box.scrollWidth > box.clientWidth || (box.scrollHeight > box.clientHeight && box.matches(".contents, #results"));
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
      if (box.matches(".scroll, .long")) {
        for (const [name, value] of [["role", "group"], ["aria-label", box.dataset.label ?? "equation"]]) {
          if (scrolls) box.setAttribute(name, value);
          else box.removeAttribute(name);
        }
      }
    }
  }
  addEventListener("load", reach);
  addEventListener("resize", reach);
  document.addEventListener("toggle", reach, true);

  const contents = document.querySelector(".contents details");
  if (contents && innerWidth < 1408) contents.open = false; // as wide as style.css asks for a column beside the text

  const field = document.getElementById("search");
  const results = document.getElementById("results");
  field.form.hidden = false;
  field.form.addEventListener("submit", (event) => event.preventDefault());
  let loaded = null;
  const index = () => loaded ??= new Promise((done, failed) => {
    const script = document.createElement("script"); // a page opened from disk may load scripts, but read no files
    script.src = root + "assets/search.js";
    script.onload = () => done(window.SEARCH);
    script.onerror = failed;
    document.head.append(script);
  });
  field.addEventListener("input", async () => {
    const words = field.value.toLowerCase().split(/\s+/).filter((word) => word);
    const list = results.querySelector("ul");
    const message = document.getElementById("found");
    results.hidden = words.length === 0;
    if (words.length === 0) return;
    let entries;
    try {
      entries = await index();
    } catch {
      message.textContent = "assets/search.js is missing: write the pages of this report again";
      return;
    }
    const found = [];
    for (const [url, title, kind, text] of entries) {
      const head = title.toLowerCase(), body = text.toLowerCase();
      if (words.every((word) => head.includes(word) || body.includes(word))) {
        const score = words.reduce((sum, word) => sum + (head === word ? 9 : head.includes(word) ? 3 : 0), 0);
        found.push([score + (kind === "section" ? 0 : 1), url, title, kind, text]);
      }
    }
    found.sort((a, b) => b[0] - a[0]);
    message.textContent = `${found.length} found`;
    list.replaceChildren(...found.slice(0, 30).map(([, url, title, kind, text]) => {
      const at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 60);
      const item = document.createElement("li"), link = document.createElement("a"), small = document.createElement("small");
      link.href = root + url;
      link.textContent = title;
      small.textContent = `${kind}: ${at ? "…" : ""}${text.slice(at, at + 160)}`;
      item.append(link, small);
      return item;
    }));
    reach();
  });
}
// sealed 0e32990dd720f477092aa1efadfd94d5c22f694b32a04e5ff9cdcc0ac4eef88d
