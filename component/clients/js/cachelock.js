// The component for programs on node: `load` makes an instance, whose classes are those of `wit/store.wit`, with the names of
// JavaScript (`generated/interfaces/cachelock-cache-store.d.ts`). Numbers of milliseconds are BigInts.
//
// An error is thrown as an `Error` whose `payload` is the interface's: `tag` is its kind, such as "timeout", and `val` says
// what happened.

import { readFile } from "node:fs/promises";
import { types } from "@bytecodealliance/preview2-shim/filesystem";
import { WASIShim } from "@bytecodealliance/preview2-shim/instantiation";
import { instantiate } from "./generated/cachelock.js";

/**
 * An instance of the component. It sees those directories of the host that are granted, each by the name that it is given
 * here: `{ "/cache": "/home/me/.cache/tool" }`. They must exist.
 */
export async function load(granted) {
  const host = new WASIShim({ sandbox: { preopens: granted, env: {}, enableNetwork: false } });
  const compile = async (name) =>
    WebAssembly.compile(await readFile(new URL(`generated/${name}`, import.meta.url)));
  const { store } = await instantiate(compile, host.getImportObject());
  return store;
}

/**
 * The bytes of an entry that is good enough by `policy`; undefined if it is known not to exist. Of all callers in all
 * processes one calls `produce(refresh)`, which writes the payload to the refresh; the others wait for it.
 *
 * Whoever waits blocks its thread, as all calls of the component do. While `produce` waits for something, the lease is kept.
 */
export async function getOrRefresh(cache, entry, policy, produce) {
  const { tag, val } = cache.begin(entry, policy);
  if (tag === "absent") return undefined;
  if (tag !== "refresh") return bytes(val);
  const beat = setInterval(() => keep(val), 100);
  try {
    await produce(val);
    val.publish();
  } finally {
    clearInterval(beat);
    // If it was not published, the old payload stays and the next caller may try.
    dispose(val);
  }
  const published = cache.read(entry);
  return published && bytes(published);
}

/** All bytes of a snapshot, which is used up by that. */
export function bytes(snapshot) {
  const pieces = [];
  for (let piece; (piece = snapshot.read(1 << 20)).length > 0; ) pieces.push(piece);
  dispose(snapshot);
  return Buffer.concat(pieces);
}

/** Gives back what a resource holds, at once: a refresh releases the lock. The garbage collector would do so some day. */
export function dispose(resource) {
  resource[Symbol.dispose ?? Symbol.for("dispose")]();
}

/** Writes only when a beat is due. That the lease is lost is said again by the publish. */
function keep(refresh) {
  try {
    refresh.heartbeat();
  } catch {}
}

// The shim (0.26.1) throws what node says when a file cannot be read or written, as on a full disk, instead of the code that
// the component expects; that would break the instance in the middle of a call.
for (const name of ["read", "write"]) {
  const original = types.Descriptor.prototype[name];
  types.Descriptor.prototype[name] = function (...operands) {
    try {
      return original.apply(this, operands);
    } catch (error) {
      throw error instanceof Error ? types.filesystemErrorCode({ payload: error }) : error;
    }
  };
}
