/** An answer as the reader sees it. */
import { Markdown } from "./markdown.js";

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A run's answer: its parts in order, each in a view of its own. */
export class Answer {
  article = element("article", { ariaLabel: "Answer", ariaBusy: "true" });
  #views = [];
  #resets = 0;

  show(run) {
    if (this.article.ariaBusy === "false") return;
    // What replaces the text may be shorter for a while: the page must not jump.
    if (run.resets > this.#resets) this.article.style.minHeight = `${this.article.offsetHeight}px`;
    this.#resets = run.resets;
    run.parts.forEach((part, at) => {
      if (this.#views[at]?.kind !== part.kind) this.#replace(at, newView(part.kind));
      this.#views[at].show(part, run.isOver || at < run.parts.length - 1);
    });
    for (const { element } of this.#views.splice(run.parts.length)) element.remove();
    if (!run.isOver) return;
    this.article.ariaBusy = "false";
    if (run.state === "cancelled") this.article.append(element("p", { className: "quiet" }, "Stopped."));
    else if (run.state !== "done") this.article.append(element("p", { className: "problem" }, run.state));
  }

  #replace(at, view) {
    const before = this.#views[at]?.element;
    if (before) before.replaceWith(view.element);
    else this.article.append(view.element);
    this.#views[at] = view;
  }
}

/** Return a view of a part of this kind: its element, and what shows the part in it. */
function newView(kind) {
  if (kind === "text") {
    const markdown = new Markdown();
    return { kind, element: markdown.element, show: (part, isWhole) => markdown.show(part.text, isWhole) };
  }
  const [summary, told] = [element("summary"), element("pre")];
  let shown = "";
  const show = (part) => {
    const parts = kind === "reasoning" ? [part.text] : [part.arguments, part.result ?? "…"];
    if (shown === (shown = parts.join("\n\n"))) return;
    write(summary, kind === "reasoning" ? "Reasoning" : `${part.name} ${part.arguments}`);
    write(told, parts.map(pretty).join("\n\n"));
  };
  return { kind, element: element("details", {}, summary, told), show };
}

/** Change a text only where it is another: what is selected in it stays selected. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Return JSON in lines; the beginning of it, or what is no JSON at all, as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
