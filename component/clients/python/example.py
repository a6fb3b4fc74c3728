"""Prints `index.json` of the cache in a directory, and fetches it first if it is missing or older than an hour:

    python example.py cachelock-component.wasm DIRECTORY
"""

import json
import os
import sys
import time

from cachelock import Component


def fetch_index():
    """Stands for something slow."""
    time.sleep(0.3)
    return json.dumps({"fetchedBy": os.getpid()}).encode() + b"\n"


component, directory = sys.argv[1:]
cache = Component(component).instance({"/cache": directory}).open("/cache", timeout=30_000)
index = cache.get_or_refresh("index.json", lambda refresh: refresh.write(fetch_index()), fresh_for=3_600_000)
sys.stdout.buffer.write(index)
