"""The component `cachelock:cache` for programs in Python: `wit/store.wit` in Python's words.

A `Component` is compiled once. Its instances see the directories that they are granted, and open caches in them:

    cache = Component("cachelock-component.wasm").instance({"/cache": directory}).open("/cache")

Times are in milliseconds. An instance and what came out of it belong to one thread at a time.
"""

from wasmtime import Engine, Store, WasiConfig
from wasmtime.component import Component as Compiled
from wasmtime.component import Linker, Record, Variant


class Error(Exception):
    """What the interface says went wrong: `kind`, such as "timeout", is for programs, and `text` for people."""

    def __init__(self, kind, text):
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.text = text


class Component:
    """The component in the file `path`, compiled for this machine."""

    def __init__(self, path):
        self._engine = Engine()
        self._compiled = Compiled.from_file(self._engine, path)
        self._linker = Linker(self._engine)
        self._linker.add_wasip2()

    def instance(self, granted):
        """An instance that sees these directories of the host, each by the name that it is given here:
        `{"/cache": "/home/me/.cache/tool"}`. They must exist."""
        wasi = WasiConfig()
        for name, directory in granted.items():
            wasi.preopen_dir(directory, name)
        store = Store(self._engine)
        store.set_wasi(wasi)
        return Instance(store, self._linker.instantiate(store, self._compiled))


class Instance:
    """An instance of the component."""

    def __init__(self, store, instance):
        self.store = store
        self._instance = instance
        self._interface = instance.get_export_index(store, "cachelock:cache/store@0.1.0")

    def open(self, path, *, timeout=None, lease=None, durability=None):
        """The cache at `path`, as the instance sees it. Touches nothing on disk."""
        options = record(timeout=timeout, lease=lease, durability=durability)
        return Cache(self, self.call("[static]cache.open", path, options))

    def call(self, name, *arguments):
        """Calls a function of the interface; raises `Error` if its result is an error."""
        index = self._instance.get_export_index(self.store, name, self._interface)
        result = self._instance.get_func(self.store, index)(self.store, *arguments)
        # A result is `Variant("ok" or "err", ...)` only where its value would not tell; an error is a variant itself.
        if not isinstance(result, Variant):
            return result
        if result.tag == "ok":
            return result.payload
        error = result.payload if result.tag == "err" else result
        raise Error(error.tag, error.payload)


class Resource:
    """Something that an instance keeps for us until `close` or the end of a `with`. Nothing else gives it back."""

    def __init__(self, instance, handle):
        self.instance = instance
        self._handle = handle

    def __enter__(self):
        return self

    def __exit__(self, *_exception):
        self.close()

    def close(self):
        """Gives it back; again does nothing."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.drop(self.instance.store)

    def _call(self, method, *arguments):
        if self._handle is None:
            raise ValueError(f"this {type(self).__name__} is closed")
        name = f"[method]{type(self).__name__.lower()}.{method}"
        return self.instance.call(name, self._handle, *arguments)

    def _snapshot(self, handle):
        return None if handle is None else Snapshot(self.instance, handle)


class Cache(Resource):
    """A cache directory."""

    def read(self, entry):
        """The entry as a `Snapshot`, whatever its age; None if there is none. Waits for nobody."""
        return self._snapshot(self._call("read", entry))

    def begin(self, entry, *, fresh_for=None, stale_for=None, error_for=None):
        """`("fresh", Snapshot)`, `("stale", Snapshot)`, `("absent", None)`, or `("refresh", Refresh)` for the one of all
        callers in all processes that is to refresh the entry; the others wait for it."""
        policy = record(**{"fresh-for": fresh_for, "stale-for": stale_for, "error-for": error_for})
        begun = self._call("begin", entry, policy)
        if begun.tag == "refresh":
            return begun.tag, Refresh(self.instance, begun.payload)
        return begun.tag, self._snapshot(begun.payload)

    def get_or_refresh(self, entry, produce, **policy):
        """The bytes of an entry that is good enough; None if it is known not to exist.

        If it has to be refreshed, and nobody else does it, `produce(refresh)` writes the payload to the refresh. If it
        raises, the old payload stays. It calls `refresh.heartbeat()` at times if it works for longer than a third of the
        lease, 1.7 s by default, without writing.
        """
        tag, begun = self.begin(entry, **policy)
        if tag == "refresh":
            with begun as refresh:
                produce(refresh)
                refresh.publish()
            begun = self.read(entry)
        if begun is None:
            return None
        with begun as snapshot:
            return snapshot.bytes()


class Snapshot(Resource):
    """A payload that was verified. It stays this payload, whatever is published meanwhile."""

    def metadata(self):
        """A record with `length`, `hash`, `generation`, `written`, `checked`, `validators` and `verification`."""
        return self._call("metadata")

    def read(self, length):
        """The next bytes: `length` at most, fewer at times, none only at the end."""
        return self._call("read", length)

    def bytes(self):
        """All bytes that were not read yet."""
        return b"".join(iter(lambda: self.read(1 << 20), b""))


class Refresh(Resource):
    """A refresh under way, which holds the cache's lock. Closing it leaves the old payload, unless it was published."""

    def previous(self):
        """The payload that is to be replaced, as a `Snapshot`; None if there is none."""
        return self._snapshot(self._call("previous"))

    def expect_length(self, length):
        """Announces the payload's length: a publish of any other fails."""
        self._call("expect-length", length)

    def set_validators(self, validators):
        """Keeps a list of pairs of texts with the payload, such as `[("etag", ...)]`."""
        self._call("set-validators", validators)

    def write(self, payload):
        """Appends to the payload."""
        self._call("write", payload)

    def restart(self):
        """Throws away what was written and starts over, with the lock still held."""
        self._call("restart")

    def heartbeat(self):
        """Shows others that this holder is alive. Writes only when a beat is due."""
        self._call("heartbeat")

    def heartbeat_due(self):
        """In how many milliseconds a beat is due."""
        return self._call("heartbeat-due")

    def publish(self):
        """Publishes what was written: a record with `generation` and `length`. Releases the lock."""
        return self._call("publish")

    def publish_not_modified(self):
        """Publishes that the payload that is there is still right."""
        return self._call("publish-not-modified")

    def publish_absent(self, valid_for):
        """Publishes that the entry does not exist at its source."""
        return self._call("publish-absent", valid_for)

    def abandon(self):
        """What closing does, but with errors raised."""
        self._call("abandon")


def record(**fields):
    """A record of the interface, some of whose fields have names that Python's syntax has no place for."""
    made = Record()
    vars(made).update(fields)
    return made
