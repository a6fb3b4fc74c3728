// `npm run build -- PATH/cachelock-component.wasm` makes `generated/`, which `cachelock.js` is written for. The command of
// the package `@bytecodealliance/jco`, which is larger, makes the same:
//
//     jco transpile PATH/cachelock-component.wasm --name cachelock --instantiation async --out-dir generated

import { transpile, writeFiles } from "@bytecodealliance/jco-transpile";

const [component] = process.argv.slice(2);
if (component === undefined) {
  throw new Error("which component? `cargo xtask build-wasi` makes target/wasi/cachelock-component.wasm");
}
const { files } = await transpile(component, {
  name: "cachelock",
  // Each instance is given directories of its own.
  instantiation: "async",
  // What is thrown is an `Error`, with the interface's error as its `payload`.
  noComponentErrorWrapping: false,
  outDir: "generated",
});
await writeFiles(files, false);
