// npm's proper-lockfile: what cachelock-bench measures beside. Its callers choose how to try again; 10 ms, doubled up to
// 1 s, is what many tools do.
//
// start            nothing but what each start costs
// wait FILE        for each line of the input: acquires, prints the monotonic clock in nanoseconds, releases
// herd FILE        acquires, and produces FILE.entry unless it is there

const fs = require('node:fs');
const readline = require('node:readline');
const { lock } = require('proper-lockfile');

const [role, path] = process.argv.slice(2);
const options = {
  realpath: false,
  retries: { forever: true, minTimeout: 10, maxTimeout: 1000, factor: 2 },
};

async function wait() {
  for await (const _ of readline.createInterface({ input: process.stdin })) {
    const release = await lock(path, options);
    console.log(String(process.hrtime.bigint()));
    await release();
  }
}

async function herd() {
  const entry = `${path}.entry`;
  const release = await lock(path, options);
  if (!fs.existsSync(entry)) {
    fs.appendFileSync(`${path}.runs`, 'x');
    await new Promise((done) => setTimeout(done, 200));
    fs.writeFileSync(`${entry}.new`, Buffer.alloc(4096));
    fs.renameSync(`${entry}.new`, entry);
  }
  await release();
}

if (role === 'wait') wait();
if (role === 'herd') herd();
