// Whether the packages of package.json can be loaded.
import { readFile } from "node:fs/promises";

import { print } from "./script.mjs";

const { dependencies } = JSON.parse(await readFile(new URL("package.json", import.meta.url)));
await Promise.all(Object.keys(dependencies).map((name) => import(name)));
print({ installed: true });
