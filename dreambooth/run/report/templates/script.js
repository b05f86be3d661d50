"use strict";
// the browser's language, unless the reader chooses another one
const chinese = document.getElementById("chinese");
const inLanguage = () => {
  document.documentElement.lang = chinese.checked ? "zh" : "en";
  for (const each of document.querySelectorAll("[data-zh]")) {
    const name = each.dataset.attribute;
    each.dataset.en ??= each.getAttribute(name);
    each.setAttribute(name, chinese.checked ? each.dataset.zh : each.dataset.en);
  }
};
const preferred = (navigator.languages || [navigator.language]).find((each) => /^(zh|en)\b/i.test(each)) || "";
(/^zh/i.test(preferred) ? chinese : document.getElementById("english")).checked = true;
for (const each of document.querySelectorAll(".languages input")) each.addEventListener("change", inLanguage);
inLanguage();
// the pictures of one step at a time, in place of the table, which can still be opened
for (const series of document.querySelectorAll(".series")) {
  const slider = series.querySelector("input[type=range]");
  const large = series.querySelector(".large");
  const columns = Number(series.querySelector(".slider").dataset.columns);
  if (columns) large.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
  const steps = slider.dataset.steps.split(",");
  const rows = [...series.querySelectorAll("tbody tr")];
  const show = () => {
    const at = Number(slider.value);
    const step = steps[at] + (steps[at] === slider.dataset.best ? " ★" : "");
    series.querySelector("output").textContent = step;
    slider.setAttribute("aria-valuetext", step);
    large.replaceChildren(...rows.flatMap((row) => {
      const image = row.querySelectorAll("td")[at].querySelector("img");
      if (!image) return [];
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      caption.textContent = row.querySelector("th").textContent;
      figure.append(...(columns ? [caption] : []), image.cloneNode());
      return [figure];
    }));
  };
  slider.addEventListener("input", show);
  show();
  if (steps.length > 1) {
    series.querySelector(".slider").hidden = false;
    series.querySelector("details").open = false;
  }
}
// a closed table is printed too
window.addEventListener("beforeprint", () => {
  for (const each of document.querySelectorAll(".series details")) each.open = true;
});
