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
