// `cargo xtask test wasi` runs these, and names the program `cachelock` in CACHELOCK_TEST_PROGRAM.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { bytes, dispose, getOrRefresh, load } from "./cachelock.js";

const program = process.env.CACHELOCK_TEST_PROGRAM;
assert.ok(program, "CACHELOCK_TEST_PROGRAM is not set: run `cargo xtask test wasi`");
const env = { ...process.env, CACHELOCK_CONFIG: "" };

/** A test with a directory of its own. */
function claim(name, check, options = {}) {
  test(name, options, async () => {
    const dir = mkdtempSync(join(tmpdir(), "cachelock-js-"));
    try {
      await check(dir);
    } finally {
      rmSync(dir, { recursive: true });
    }
  });
}

/** The cache in `dir`, through an instance of its own. */
async function open(dir, options = {}) {
  const { Cache } = await load({ "/cache": dir });
  return Cache.open("/cache", options);
}

/** Whoever gets it holds the lock. */
function begin(cache, entry = "entry", policy = { freshFor: 0n }) {
  const { tag, val } = cache.begin(entry, policy);
  assert.equal(tag, "refresh");
  return val;
}

function publish(cache, payload, entry = "entry") {
  const refresh = begin(cache, entry);
  refresh.write(Buffer.from(payload));
  const published = refresh.publish();
  dispose(refresh);
  return published;
}

function text(snapshot) {
  return bytes(snapshot).toString();
}

function assertFails(tag, act) {
  assert.throws(act, (error) => {
    assert.equal(error.payload?.tag, tag, error);
    assert.notEqual(error.payload.val, "");
    return true;
  });
}

/** The program as a native process, to its end. */
function native(words, input = "") {
  const { status, stdout, stderr } = spawnSync(program, words, { env, input });
  return { status, stdout: stdout.toString(), stderr: stderr.toString() };
}

/** Runs `act` while a native process holds the lock. */
async function whileNativeHolds(dir, act) {
  const holder = spawn(program, ["lock", dir, "--", "sh", "-c", "echo held; exec sleep 60"], { env });
  const ended = new Promise((resolve) => holder.once("exit", resolve));
  try {
    const [said] = await Promise.race([once(holder.stdout, "data"), ended.then(() => ["ended"])]);
    assert.equal(said.toString(), "held\n");
    await act();
  } finally {
    holder.kill();
    await ended;
  }
}

/** Runs `act` as a program on a disk of 1 MB at `dir`, where `cache` is open, and returns what it prints. */
function onSmallDisk(dir, act) {
  const client = JSON.stringify(new URL("cachelock.js", import.meta.url));
  const code = `import { load } from ${client};
    const { Cache } = await load({ "/cache": ${JSON.stringify(dir)} });
    (${act})(Cache.open("/cache", {}));`;
  const mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"';
  const words = [dir, process.execPath, "--input-type=module", "--eval", code];
  const { stdout, stderr } = spawnSync("unshare", ["--mount", "sh", "-c", mount, ...words], { env });
  return stdout.toString() + stderr.toString();
}

function canMount() {
  return spawnSync("unshare", ["--mount", "--propagation", "private", "true"]).status === 0;
}

function once(emitter, event) {
  return new Promise((resolve) => emitter.once(event, (...values) => resolve(values)));
}

claim("an entry that is not there is undefined", async (dir) => {
  const cache = await open(dir);
  assert.equal(cache.read("entry"), undefined);
});

claim("what was published is read back with its metadata", async (dir) => {
  const cache = await open(dir, { durability: "full" });
  const before = BigInt(Date.now());
  // More than one read or one write of WASI takes.
  const payload = Buffer.alloc(3_000_000, "0123456789");
  const refresh = begin(cache);
  assert.equal(refresh.previous(), undefined);
  refresh.expectLength(BigInt(payload.length));
  refresh.setValidators([["etag", '"abc"']]);
  refresh.write(payload.subarray(0, 1000));
  refresh.write(payload.subarray(1000));
  assert.equal(cache.read("entry"), undefined, "nothing is seen before the publish");
  assert.deepEqual(refresh.publish(), { generation: 1n, length: 3_000_000n });
  dispose(refresh);

  const snapshot = cache.read("entry");
  const metadata = snapshot.metadata();
  assert.equal(metadata.length, 3_000_000n);
  assert.equal(metadata.generation, 1n);
  assert.equal(metadata.verification, "verified");
  assert.deepEqual(metadata.validators, [["etag", '"abc"']]);
  assert.match(metadata.hash, /^[0-9a-f]{32}$/);
  assert.ok(before <= metadata.written && metadata.written <= BigInt(Date.now()));
  assert.ok(bytes(snapshot).equals(payload));
  assert.ok(readFileSync(join(dir, "entry")).equals(payload), "the file is the payload");
});

claim("a snapshot stays what it was when the next generation is published", async (dir) => {
  const cache = await open(dir);
  publish(cache, "old");
  const old = cache.read("entry");
  assert.equal(publish(cache, "new").generation, 2n);
  assert.equal(text(old), "old");
  assert.equal(text(cache.read("entry")), "new");
});

claim("a refresh that is given up leaves the old payload and the lock", async (dir) => {
  const cache = await open(dir, { timeout: 0n });
  publish(cache, "old");
  for (const giveUp of [(refresh) => refresh.abandon(), dispose]) {
    const refresh = begin(cache);
    assert.equal(text(refresh.previous()), "old");
    refresh.write(Buffer.from("never seen"));
    giveUp(refresh);
    assert.equal(text(cache.read("entry")), "old");
  }
  const { generation } = publish(cache, "new");
  assert.equal(generation, 2n, "the lock was free, and no generation was lost");
});

claim("what is fresh is not refreshed, and what is known to be absent is neither", async (dir) => {
  const cache = await open(dir);
  publish(cache, "new");
  const { tag, val } = cache.begin("entry", { freshFor: 3_600_000n });
  assert.equal(tag, "fresh");
  assert.equal(text(val), "new");
  begin(cache, "gone").publishAbsent(3_600_000n);
  assert.deepEqual(cache.begin("gone", {}), { tag: "absent" });
  assert.equal(cache.read("gone"), undefined);
});

claim("while one instance holds, another times out or is given what is stale", async (dir) => {
  const holder = await open(dir);
  publish(holder, "old");
  const refresh = begin(holder);
  const other = await open(dir, { timeout: 200n });
  assertFails("timeout", () => other.begin("entry", { freshFor: 0n }));
  const { tag, val } = other.begin("entry", { freshFor: 0n, staleFor: 3_600_000n });
  assert.equal(tag, "stale");
  assert.equal(text(val), "old");
  dispose(refresh);
  assert.equal(publish(other, "new").generation, 2n);
});

claim("while a native holds, a client times out, and the other way round", async (dir) => {
  const cache = await open(dir, { timeout: 200n });
  await whileNativeHolds(dir, () => assertFails("timeout", () => cache.begin("entry", {})));
  const refresh = begin(cache);
  const lock = ["lock", dir, "--timeout", "200ms", "--", "true"];
  const { status, stderr } = native(lock);
  assert.equal(status, 75, stderr);
  dispose(refresh);
  assert.equal(native(lock).status, 0, "the lock is free");
});

claim("whoever beats is not overtaken by one that will not wait", async (dir) => {
  const holder = await open(dir, { lease: 3_000n });
  const refresh = begin(holder);
  await sleep(Number(refresh.heartbeatDue()));
  refresh.heartbeat();
  assert.ok(refresh.heartbeatDue() > 500n, "it was due and is done");
  const hasty = await open(dir, { lease: 3_000n, timeout: 0n });
  assertFails("timeout", () => hasty.begin("entry", {}));
  const { status, stderr } = native(["lock", dir, "--lease", "3s", "--timeout", "0", "--", "true"]);
  assert.equal(status, 75, stderr);
  refresh.write(Buffer.from("in time"));
  assert.equal(refresh.publish().generation, 1n);
});

claim("an overtaken refresh cannot publish", async (dir) => {
  const frozen = begin(await open(dir, { lease: 100n }));
  frozen.write(Buffer.from("too late"));
  const other = await open(dir, { lease: 100n });
  publish(other, "in time");
  assertFails("lease-lost", () => frozen.publish());
  assertFails("poisoned", () => frozen.publish());
  assert.equal(text(other.read("entry")), "in time");
});

claim("each error that a caller can act on has its name", async (dir) => {
  const { Cache } = await load({ "/cache": dir });
  assertFails("permission", () => Cache.open("/elsewhere", {}).read("entry"));
  assertFails("limit", () => Cache.open("/cache", { lease: 1n }));

  const cache = Cache.open("/cache", {});
  assertFails("invalid-name", () => cache.read("../entry"));
  mkdirSync(join(dir, "folder"));
  assertFails("not-a-file", () => cache.read("folder"));

  const refresh = begin(cache, "missing");
  assertFails("missing", () => refresh.publishNotModified());
  refresh.expectLength(5n);
  refresh.write(Buffer.from("four"));
  assertFails("length-mismatch", () => refresh.publish());
  assertFails("limit", () => refresh.setValidators([["etag", "x".repeat(10_000)]]));
  refresh.restart();
  refresh.write(Buffer.from("fives"));
  assert.equal(refresh.publish().length, 5n, "after an error it may go on");

  publish(cache, "as published", "corrupt");
  writeFileSync(join(dir, "corrupt"), "as tampered!");
  assertFails("corrupt", () => cache.read("corrupt"));
});

claim(
  "a full disk is an error, after which the refresh may go on",
  async (dir) => {
    const printed = onSmallDisk(dir, (cache) => {
      const refresh = cache.begin("entry", {}).val;
      try {
        refresh.write(new Uint8Array(3_000_000));
      } catch (error) {
        console.log(error.payload?.tag ?? error);
      }
      refresh.restart();
      refresh.write(new Uint8Array(5));
      console.log(refresh.publish());
    });
    assert.equal(printed, "storage-full\n{ generation: 1n, length: 5n }\n");
  },
  { skip: !canMount() && "it needs the right to mount" },
);

claim("a native reads what a client published, and a client what a native published", async (dir) => {
  const cache = await open(dir);
  const entry = join(dir, "entry");
  publish(cache, "from a client\n");
  assert.equal(native(["read", entry]).stdout, "from a client\n");
  const { stderr, status } = native(["refresh", entry], "from a native\n");
  assert.equal(status, 0, stderr);
  const snapshot = cache.read("entry");
  assert.equal(snapshot.metadata().generation, 2n);
  assert.equal(text(snapshot), "from a native\n");
  assert.equal(publish(cache, "again from a client").generation, 3n);
  assert.equal(JSON.parse(native(["status", entry, "--json"]).stdout).generation, 3);
});

claim("what takes longer than the lease to produce keeps it meanwhile", async (dir) => {
  const cache = await open(dir, { lease: 300n });
  const other = await open(dir, { lease: 300n, timeout: 0n });
  const produced = await getOrRefresh(cache, "entry", {}, async (refresh) => {
    await sleep(1_000);
    assertFails("timeout", () => other.begin("entry", {}));
    refresh.write(Buffer.from("slow"));
  });
  assert.equal(produced.toString(), "slow");
});

claim("a producer that fails leaves the old payload and the lock", async (dir) => {
  const cache = await open(dir, { timeout: 0n });
  publish(cache, "old");
  const failing = getOrRefresh(cache, "entry", { freshFor: 0n }, () => {
    throw new Error("the source is down");
  });
  await assert.rejects(failing, /the source is down/);
  assert.equal(text(cache.read("entry")), "old");
  assert.equal(publish(cache, "new").generation, 2n);
});

claim("of several that run the example at once one fetches, and a native is given the same", async (dir) => {
  const example = new URL("example.js", import.meta.url).pathname;
  const runs = [0, 1, 2].map(async () => {
    const run = spawn(process.execPath, [example, dir], { env, stdio: ["ignore", "pipe", "inherit"] });
    const output = [];
    run.stdout.on("data", (piece) => output.push(piece));
    const [status] = await once(run, "close");
    assert.equal(status, 0);
    return Buffer.concat(output).toString();
  });
  const [first, ...others] = await Promise.all(runs);
  assert.match(first, /^{"fetchedBy":\d+}\n$/);
  assert.deepEqual(others, [first, first]);
  const get = ["get", join(dir, "index.json"), "--fresh-for", "1h", "--", "false"];
  assert.equal(native(get).stdout, first);
});
