// What the TypeScript compiler says of the types in the comments of `agentstream/http/resumable-fetch.js`.
import { spawnSync } from "node:child_process";

import { print } from "./script.mjs";

const options = "--noEmit --allowJs --checkJs --strict --target es2022 --lib es2022,dom,dom.asynciterable".split(" ");
const { stdout, status } = spawnSync("node_modules/.bin/tsc", [...options, "../../agentstream/http/resumable-fetch.js"]);
print({ output: stdout.toString(), status });
