// `FrameSplitter`, once for each line of its input: a JSON list of pieces in base64. Prints the frames of each.
import { createInterface } from "node:readline";

import { FrameSplitter } from "./resumable_fetch_module.mjs";
import { print } from "./script.mjs";

for await (const line of createInterface({ input: process.stdin })) {
  const splitter = new FrameSplitter();
  print(JSON.parse(line).flatMap((piece) => splitter.push(Buffer.from(piece, "base64"))));
}
