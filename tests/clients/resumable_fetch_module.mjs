// `agentstream/http/resumable-fetch.js`, which has no package.json beside it that would tell older Node.js that it is a module.
import { readFile } from "node:fs/promises";

const source = await readFile(new URL("../../agentstream/http/resumable-fetch.js", import.meta.url), "base64");

export const { FrameSplitter, ResumeError, resumableFetch } = await import(`data:text/javascript;base64,${source}`);
