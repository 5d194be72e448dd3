// @ts-check
/** An answer as the reader sees it. */
import { Markdown } from "./markdown.js";

/** @typedef {import("./run.js").Run} Run */

/**
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Partial<HTMLElementTagNameMap[Tag]>} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A run's answer: its parts in order, each in a view of its own. */
export class Answer {
  article = element("article", { ariaLabel: "Answer", ariaBusy: "true" });
  /** @type {{ kind: string, element: HTMLElement, show(part: any, isWhole: boolean): void }[]} */
  #views = [];
  #resets = 0;

  /** @param {Run} run */
  show(run) {
    // What replaces the text may be shorter for a while: the page must not jump.
    if (run.resets > this.#resets) this.article.style.minHeight = `${this.article.offsetHeight}px`;
    this.#resets = run.resets;
    run.parts.forEach((part, at) => {
      if (this.#views[at]?.kind !== part.kind) this.#replace(at, newView(part.kind));
      this.#views[at].show(part, run.isOver || at < run.parts.length - 1);
    });
    for (const { element } of this.#views.splice(run.parts.length)) element.remove();
    if (!run.isOver || this.article.ariaBusy === "false") return;
    this.article.ariaBusy = "false";
    if (run.state === "cancelled") this.article.append(element("p", { className: "quiet" }, "Stopped."));
    else if (run.state !== "done") this.article.append(element("p", { className: "problem" }, run.state));
  }

  /**
   * @param {number} at
   * @param {typeof this.#views[number]} view
   */
  #replace(at, view) {
    const before = this.#views[at]?.element;
    if (before) before.replaceWith(view.element);
    else this.article.append(view.element);
    this.#views[at] = view;
  }
}

/** @param {"text" | "reasoning" | "tool"} kind */
function newView(kind) {
  if (kind === "text") {
    const markdown = new Markdown();
    return { kind, element: markdown.element, show: (part, isWhole) => markdown.show(part.text, isWhole) };
  }
  const summary = element("summary");
  const told = element("pre");
  /** @param {any} part */
  const show = (part) => {
    if (kind === "reasoning") return write(summary, "Reasoning"), write(told, part.text);
    write(summary, `${part.name} ${part.arguments}`);
    write(told, [part.arguments, part.result ?? "…"].map(pretty).join("\n\n"));
  };
  return { kind, element: element("details", {}, summary, told), show };
}

/**
 * Change a text only where it is another: what is selected in it stays selected.
 * @param {HTMLElement} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** @param {string} text JSON, or the beginning of it, or no JSON at all. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
