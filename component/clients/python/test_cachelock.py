"""`cargo xtask test wasi` runs these. It names the component in CACHELOCK_TEST_COMPONENT and the program `cachelock` in
CACHELOCK_TEST_PROGRAM."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

from cachelock import Component, Error

COMPONENT = os.environ["CACHELOCK_TEST_COMPONENT"]
PROGRAM = os.environ["CACHELOCK_TEST_PROGRAM"]
ENVIRONMENT = {**os.environ, "CACHELOCK_CONFIG": ""}
EXAMPLE = pathlib.Path(__file__).with_name("example.py")

compiled = Component(COMPONENT)


def begin(cache, entry="entry", fresh_for=0):
    """Whoever gets it holds the lock."""
    tag, refresh = cache.begin(entry, fresh_for=fresh_for)
    assert tag == "refresh", tag
    return refresh


def publish(cache, payload, entry="entry"):
    with begin(cache, entry) as refresh:
        refresh.write(payload)
        return refresh.publish()


def payload(snapshot):
    with snapshot:
        return snapshot.bytes()


def native(*words, stdin=b""):
    """The program as a native process, to its end."""
    return subprocess.run([PROGRAM, *words], input=stdin, env=ENVIRONMENT, capture_output=True, check=False)


def can_mount():
    words = ["unshare", "--mount", "--propagation", "private", "true"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


FULL = """
import sys
from cachelock import Component, Error

cache = Component(sys.argv[1]).instance({"/cache": sys.argv[2]}).open("/cache")
_, refresh = cache.begin("entry")
try:
    refresh.write(bytes(1_500_000))
except Error as error:
    print(error.kind)
refresh.restart()
refresh.write(b"fives")
print(vars(refresh.publish()))
"""


class Claims(unittest.TestCase):
    """Each with a directory of its own."""

    def setUp(self):
        made = tempfile.TemporaryDirectory(prefix="cachelock-python-")
        self.addCleanup(made.cleanup)
        self.dir = pathlib.Path(made.name)

    def open(self, **options):
        """The cache, through an instance of its own."""
        return compiled.instance({"/cache": str(self.dir)}).open("/cache", **options)

    def fails(self, kind, act, *arguments, **named):
        with self.assertRaises(Error) as raised:
            act(*arguments, **named)
        self.assertEqual(raised.exception.kind, kind, raised.exception.text)
        self.assertTrue(raised.exception.text)

    def test_an_entry_that_is_not_there_is_none(self):
        self.assertIsNone(self.open().read("entry"))

    def test_what_was_published_is_read_back_with_its_metadata(self):
        cache = self.open(durability="full")
        before = int(time.time() * 1000)
        # More than one read or one write of WASI takes.
        expected = b"0123456789" * 10_000
        with begin(cache) as refresh:
            self.assertIsNone(refresh.previous())
            refresh.expect_length(len(expected))
            refresh.set_validators([("etag", '"abc"')])
            refresh.write(expected[:1000])
            refresh.write(expected[1000:])
            self.assertIsNone(cache.read("entry"), "nothing is seen before the publish")
            published = refresh.publish()
        self.assertEqual((published.generation, published.length), (1, len(expected)))

        with cache.read("entry") as snapshot:
            metadata = snapshot.metadata()
            self.assertEqual(snapshot.bytes(), expected)
        self.assertEqual(metadata.length, len(expected))
        self.assertEqual(metadata.generation, 1)
        self.assertEqual(metadata.verification, "verified")
        self.assertEqual(metadata.validators, [("etag", '"abc"')])
        self.assertRegex(metadata.hash, "^[0-9a-f]{32}$")
        self.assertTrue(before <= metadata.written <= time.time() * 1000)
        self.assertEqual((self.dir / "entry").read_bytes(), expected, "the file is the payload")

    def test_a_snapshot_stays_what_it_was_when_the_next_generation_is_published(self):
        cache = self.open()
        publish(cache, b"old")
        old = cache.read("entry")
        self.assertEqual(publish(cache, b"new").generation, 2)
        self.assertEqual(payload(old), b"old")
        self.assertEqual(payload(cache.read("entry")), b"new")

    def test_a_refresh_that_is_given_up_leaves_the_old_payload_and_the_lock(self):
        cache = self.open(timeout=0)
        publish(cache, b"old")
        for give_up in [lambda refresh: refresh.abandon(), lambda refresh: refresh.close()]:
            refresh = begin(cache)
            self.assertEqual(payload(refresh.previous()), b"old")
            refresh.write(b"never seen")
            give_up(refresh)
            self.assertEqual(payload(cache.read("entry")), b"old")
        self.assertEqual(publish(cache, b"new").generation, 2, "the lock was free, and no generation was lost")

    def test_what_is_fresh_is_not_refreshed_and_what_is_known_to_be_absent_is_neither(self):
        cache = self.open()
        publish(cache, b"new")
        tag, snapshot = cache.begin("entry", fresh_for=3_600_000)
        self.assertEqual((tag, payload(snapshot)), ("fresh", b"new"))
        begin(cache, "gone").publish_absent(3_600_000)
        self.assertEqual(cache.begin("gone"), ("absent", None))
        self.assertIsNone(cache.read("gone"))

    def test_while_one_instance_holds_another_times_out_or_is_given_what_is_stale(self):
        holder = self.open()
        publish(holder, b"old")
        refresh = begin(holder)
        other = self.open(timeout=200)
        self.fails("timeout", other.begin, "entry", fresh_for=0)
        tag, snapshot = other.begin("entry", fresh_for=0, stale_for=3_600_000)
        self.assertEqual((tag, payload(snapshot)), ("stale", b"old"))
        refresh.close()
        self.assertEqual(publish(other, b"new").generation, 2)

    def test_while_a_native_holds_a_client_times_out_and_the_other_way_round(self):
        cache = self.open(timeout=200)
        words = [PROGRAM, "lock", self.dir, "--", "sh", "-c", "echo held; exec sleep 60"]
        with subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE) as holder:
            try:
                self.assertEqual(holder.stdout.readline(), b"held\n")
                self.fails("timeout", cache.begin, "entry")
            finally:
                holder.terminate()
        lock = ["lock", self.dir, "--timeout", "200ms", "--", "true"]
        with begin(cache):
            refused = native(*lock)
            self.assertEqual(refused.returncode, 75, refused.stderr)
        self.assertEqual(native(*lock).returncode, 0, "the lock is free")

    def test_whoever_beats_is_not_overtaken_by_one_that_will_not_wait(self):
        with begin(self.open(lease=3_000)) as refresh:
            time.sleep(refresh.heartbeat_due() / 1000)
            refresh.heartbeat()
            self.assertGreater(refresh.heartbeat_due(), 500, "it was due and is done")
            self.fails("timeout", self.open(lease=3_000, timeout=0).begin, "entry")
            refused = native("lock", self.dir, "--lease", "3s", "--timeout", "0", "--", "true")
            self.assertEqual(refused.returncode, 75, refused.stderr)
            refresh.write(b"in time")
            self.assertEqual(refresh.publish().generation, 1)

    def test_an_overtaken_refresh_cannot_publish(self):
        frozen = begin(self.open(lease=100))
        frozen.write(b"too late")
        other = self.open(lease=100)
        publish(other, b"in time")
        self.fails("lease-lost", frozen.publish)
        self.fails("poisoned", frozen.publish)
        self.assertEqual(payload(other.read("entry")), b"in time")

    def test_each_error_that_a_caller_can_act_on_has_its_name(self):
        instance = compiled.instance({"/cache": str(self.dir)})
        self.fails("permission", instance.open("/elsewhere").read, "entry")
        self.fails("limit", instance.open, "/cache", lease=1)

        cache = instance.open("/cache")
        self.fails("invalid-name", cache.read, "../entry")
        (self.dir / "folder").mkdir()
        self.fails("not-a-file", cache.read, "folder")

        with begin(cache, "missing") as refresh:
            self.fails("missing", refresh.publish_not_modified)
            refresh.expect_length(5)
            refresh.write(b"four")
            self.fails("length-mismatch", refresh.publish)
            self.fails("limit", refresh.set_validators, [("etag", "x" * 10_000)])
            refresh.restart()
            refresh.write(b"fives")
            self.assertEqual(refresh.publish().length, 5, "after an error it may go on")

        publish(cache, b"as published", "corrupt")
        (self.dir / "corrupt").write_bytes(b"as tampered!")
        self.fails("corrupt", cache.read, "corrupt")

    @unittest.skipUnless(can_mount(), "it needs the right to mount")
    def test_a_full_disk_is_an_error_after_which_the_refresh_may_go_on(self):
        mount = 'mount -t tmpfs -o size=1m tmpfs "$0" && exec "$@"'
        program = [sys.executable, "-B", "-c", FULL, COMPONENT, self.dir]
        words = ["unshare", "--mount", "sh", "-c", mount, self.dir, *program]
        ran = subprocess.run(words, env=ENVIRONMENT, cwd=EXAMPLE.parent, capture_output=True, text=True, check=False)
        expected = "storage-full\n{'generation': 1, 'length': 5}\n"
        self.assertEqual(ran.stdout + ran.stderr, expected)

    def test_what_is_closed_cannot_be_used(self):
        cache = self.open()
        refresh = begin(cache)
        refresh.close()
        refresh.close()
        with self.assertRaises(ValueError):
            refresh.publish()

    def test_a_native_reads_what_a_client_published_and_a_client_what_a_native_published(self):
        cache = self.open()
        entry = self.dir / "entry"
        publish(cache, b"from a client\n")
        self.assertEqual(native("read", entry).stdout, b"from a client\n")
        refreshed = native("refresh", entry, stdin=b"from a native\n")
        self.assertEqual(refreshed.returncode, 0, refreshed.stderr)
        with cache.read("entry") as snapshot:
            self.assertEqual(snapshot.metadata().generation, 2)
            self.assertEqual(snapshot.bytes(), b"from a native\n")
        self.assertEqual(publish(cache, b"again from a client").generation, 3)
        self.assertEqual(json.loads(native("status", entry, "--json").stdout)["generation"], 3)

    def test_a_producer_that_fails_leaves_the_old_payload_and_the_lock(self):
        cache = self.open(timeout=0)
        publish(cache, b"old")

        def produce(_refresh):
            raise OSError("the source is down")

        with self.assertRaisesRegex(OSError, "the source is down"):
            cache.get_or_refresh("entry", produce, fresh_for=0)
        self.assertEqual(payload(cache.read("entry")), b"old")
        self.assertEqual(publish(cache, b"new").generation, 2)

    def test_of_several_that_run_the_example_at_once_one_fetches_and_a_native_is_given_the_same(self):
        words = [sys.executable, "-B", EXAMPLE, COMPONENT, self.dir]
        runs = [subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.PIPE) for _ in range(3)]
        outputs = [run.communicate()[0] for run in runs]
        self.assertEqual([run.returncode for run in runs], [0, 0, 0])
        self.assertRegex(outputs[0], rb'^{"fetchedBy": \d+}\n$')
        self.assertEqual(outputs, [outputs[0]] * 3)
        get = native("get", self.dir / "index.json", "--fresh-for", "1h", "--", "false")
        self.assertEqual(get.stdout, outputs[0])


if __name__ == "__main__":
    unittest.main()
