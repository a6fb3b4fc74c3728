// Prints `index.json` of the cache in a directory, and fetches it first if it is missing or older than an hour:
//
//     node example.js DIRECTORY

import { getOrRefresh, load } from "./cachelock.js";

const { Cache } = await load({ "/cache": process.argv[2] });
const cache = Cache.open("/cache", { timeout: 30_000n });
const index = await getOrRefresh(cache, "index.json", { freshFor: 3_600_000n }, async (refresh) => {
  refresh.write(await fetchIndex());
});
process.stdout.write(index);

/** Stands for something slow. */
async function fetchIndex() {
  await new Promise((resolve) => setTimeout(resolve, 300));
  return Buffer.from(JSON.stringify({ fetchedBy: process.pid }) + "\n");
}
