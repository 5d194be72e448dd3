/** Markdown that grows, and that may be hostile. */
import { Lexer, Marked } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.mjs";

const TAGS = "a blockquote br code del em h2 h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul";
// No images, which tell the text's author by their address that it is read; no form, no style, no class, no id.
const RULES = {
  ALLOWED_TAGS: TAGS.split(" "),
  ALLOWED_ATTR: ["align", "href", "start", "title"],
  ADD_URI_SAFE_ATTR: ["align", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_ARIA_ATTR: false,
  ALLOW_DATA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node instanceof HTMLAnchorElement) Object.assign(node, { rel: "noopener noreferrer", target: "_blank" });
});

const marked = new Marked({
  renderer: {
    // The page has the first level itself.
    heading({ tokens, depth }) {
      const level = Math.min(depth + 1, 6);
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>\n`;
    },
    // HTML is shown as it is written. Parsed, it would break the page's policy even where nothing of it is kept.
    html: ({ text, block }) => (/^<br\s*\/?>$/i.test(text) ? "<br>" : block ? `<p>${escape(text)}</p>` : escape(text)),
    image: ({ text }) => escape(text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

function escape(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/** An element that shows Markdown, of which it renders the blocks that have changed. */
export class Markdown {
  element = Object.assign(document.createElement("div"), { className: "markdown" });
  #given = "";
  #shown = "";
  #isWhole = false;
  /** What can no longer change, because another block has begun after it: how much of the text, in how many blocks. */
  #closedLength = 0;
  #closedBlocks = 0;
  /** What the text says of links apart from where they are used. */
  #links = {};

  /** Show this text; whole is one that nothing follows. */
  show(text, isWhole) {
    if (text === this.#given && isWhole === this.#isWhole) return;
    [this.#given, this.#isWhole] = [text, isWhole];
    text = text.replace(/\r\n?/g, "\n");
    if (!text.startsWith(this.#shown)) this.#closedLength = this.#closedBlocks = 0;
    this.#shown = text;
    let tokens = this.#tokens(text.slice(this.#closedLength));
    if (isWhole && Object.keys(this.#links).length) {
      // A link may be used before it is defined, and what began as a definition need not have become one.
      this.#closedLength = this.#closedBlocks = 0;
      this.#links = {};
      tokens = this.#tokens(text);
    }
    const blocks = tokens.filter(({ type }) => type !== "space");
    this.#render(blocks);
    const last = tokens.lastIndexOf(blocks[blocks.length - 1]);
    for (const { raw } of tokens.slice(0, Math.max(last, 0))) this.#closedLength += raw.length;
    this.#closedBlocks += Math.max(blocks.length - 1, 0);
  }

  #tokens(text) {
    const lexer = new Lexer(marked.defaults);
    Object.assign(lexer.tokens.links, this.#links);
    const tokens = lexer.lex(text);
    this.#links = tokens.links;
    return tokens;
  }

  /** Show these blocks after the closed ones. */
  #render(blocks) {
    const { children } = this.element;
    blocks.forEach((block, number) => {
      const at = this.#closedBlocks + number;
      const shown = document.createElement("div");
      if (block.type === "heading") block.depth = Math.min(block.depth, this.#depthBefore(at) + 1);
      // A table may be wider than the page: it is scrolled, by the keyboard, too.
      if (block.type === "table") Object.assign(shown, { tabIndex: 0, role: "group", ariaLabel: "Table" });
      shown.append(DOMPurify.sanitize(marked.parser([block]), RULES));
      if (children[at]) children[at].replaceWith(shown);
      else this.element.append(shown);
    });
    while (children.length > this.#closedBlocks + blocks.length) children[children.length - 1].remove();
  }

  /** Return how deep the last title before a block is, so that no level is left out. */
  #depthBefore(at) {
    while (at--) {
      const found = /^H(\d)$/.exec(this.element.children[at].firstElementChild?.tagName ?? "");
      if (found) return Number(found[1]) - 1;
    }
    return 0;
  }
}
