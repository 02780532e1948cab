"""Helper of mutate_kernels.sh: plants the bugs, runs the kernel's tests, and keeps what came out.

First all bugs of a file whose lines allow it are compiled at once, each behind a switch (mutate_switches.py): that
finds most of those that the tests notice. Every other bug is compiled alone: is its object the same as without the bug,
do the tests notice it, do they notice it in the build with race hooks or with sanitizers?

Results are lines of <build>/mutants/results.tsv; a bug that has one is not tried again, so that a run can be cut short
and goes on with the next. Verdicts stay when a kernel or test changes, unless the line itself does: --again tries the
survivors that are not explained once more, --anew all bugs of the files.
"""
import argparse
import collections
import functools
import glob
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time

from mutate_operators import sample
from mutate_switches import switchable, text_with_switches

SURVIVORS = "kernels/mutation_survivors.md"
COLUMNS = ["id", "verdict", "seconds", "file", "line", "kind", "before", "after"]
DEVICE_ITSELF = r"gpu|backend|runtime|launch_context|graph_memory|tensor_map|.*_(?:cuda|sim)$"
SEEN = "seen"  # behind a switch, and not killed: to be looked at alone
# Threads that got too far are seen by the race hooks, accesses out of bounds by the sanitizers; the hooks count
# traffic, too. So they come first, or last.
RACE_FIRST = ("dropped barrier", "dropped commit", "wrong wait count")
# Beside the tests that have the kernel's name.
MORE_TESTS = {"gather_gemm": ["conv3d", "conv3d_norm_film_silu", "linear_layer_norm", "norm_film_silu_conv3d"],
              "gather_gemm_halo": ["conv3d_norm_film_silu", "norm_film_silu_conv3d"],
              "gather_gemm_wgmma": ["conv3d_norm_film_silu_wgmma", "linear_layer_norm", "norm_film_silu_conv3d"],
              "gather_gemm_halo_wgmma": ["conv3d_norm_film_silu_wgmma", "norm_film_silu_conv3d"],
              "gather_weight_grad": ["gather_gemm", "conv3d"], "conv3d": ["offsets", "empty"],
              "gather_weight_grad_wgmma": ["gather_weight_grad"], "temporal_attention_core": ["temporal_attention"],
              "temporal_attention_value_grad_wgmma": ["temporal_attention_value_grad"]}


COMPILED = {}  # object of a test: the changed header that it was compiled with


class Broken(Exception):
    """A kernel's tests fail without any bug, or it does not compile."""


def read(path):
    with open(path) as file:
        return file.read()


def read_hash(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def stem_of(path):
    return os.path.splitext(os.path.basename(path))[0]


def tests_of(kernel):
    """Stems of the files in tests/sim that run a kernel: its own, else those of whoever uses its contract."""
    def has_test(stem):
        return os.path.exists("tests/sim/%s_test.cpp" % stem)

    if has_test(kernel) or kernel in MORE_TESTS:
        return [kernel] * has_test(kernel) + MORE_TESTS.get(kernel, [])
    own = r'#include "(kernels/%s\w*\.h)"' % kernel.split("_bwd")[0]
    contracts = re.findall(own, read("kernels/%s.cu" % kernel))
    users = [stem_of(f) for f in sorted(glob.glob("kernels/*.cu")) if any(includes(f, c) for c in contracts)]
    return [u for u in users if has_test(u)]


@functools.cache
def included_by(file):
    """The files of kernels/ and tests/sim that a file includes, itself or through others."""
    found = set()
    for name in re.findall(r'#include "((?:kernels|tests/sim)/[\w/]+\.\w+)"', read(file)):
        if os.path.exists(name):
            found |= {name} | included_by(name)
    return frozenset(found)


def includes(file, header):
    return header in included_by(file)


def users_of(path):
    """The kernels that a file's bugs are tried in: itself, or up to six that include a header, themselves at best."""
    if path.endswith(".cu"):
        return [path]
    users = [k for k in glob.glob("kernels/*.cu") if includes(k, path) and tests_of(stem_of(k))]
    return sorted(users, key=lambda k: ('"%s"' % path not in read(k), -os.path.getsize(k), k))[:6]


class Flavour:
    """One build of the kernels and their tests: plain (sim), with race hooks, with sanitizers."""

    def __init__(self, folder, suite):
        self.folder, self.suite = os.path.abspath(folder), suite
        self.work = os.path.join(self.folder, "mutants", suite)
        os.makedirs(self.work, exist_ok=True)
        self.program = os.path.join(self.work, "test")
        self.commands, self.link_words, self.known = None, None, {}

    def ninja(self, *words):
        return subprocess.run(["ninja", "-C", self.folder, *words], check=True, capture_output=True, text=True).stdout

    def prepare(self):
        if self.commands is not None:
            return
        target = "test_" + self.suite
        self.ninja(target)
        wanted = re.compile("avid_kernels_%s_kernels.dir|/sim_tests.dir" % self.suite)
        self.commands = {os.path.realpath(os.path.join(c["directory"], c["file"])): c
                         for c in json.loads(self.ninja("-t", "compdb")) if wanted.search(c["command"])}
        steps = self.ninja("-t", "commands", target).splitlines()
        link = next(s for s in reversed(steps) if re.search(r" -o \S*%s\b" % target, s))
        self.link_words = shlex.split(link.removeprefix(": && ").removesuffix(" && :"))

    def compile(self, kernel, changed, text, stems):
        """Objects of a kernel, and of its tests where they include it, in which the file `changed` reads `text`; or
        None, and the compiler's complaint."""
        self.prepare()
        mutated = os.path.join(self.work, "text", changed)
        os.makedirs(os.path.dirname(mutated), exist_ok=True)
        with open(mutated, "w") as out:
            out.write(text)
        tests = ["tests/sim/%s_test.cpp" % s for s in stems]
        objects = [os.path.join(self.work, os.path.basename(kernel) + ".o")]
        error = self.compile_file(kernel, mutated if kernel == changed else None, objects[0])
        for test in [t for t in tests if changed != kernel and includes(t, changed)]:
            if error:
                break
            objects.append(os.path.join(self.folder, "mutants", os.path.basename(test) + ".o"))
            if COMPILED.get(objects[-1]) != text:  # tests are the same in every flavour
                COMPILED[objects[-1]] = None
                error = self.compile_file(test, None, objects[-1])
                COMPILED[objects[-1]] = text if not error else None
        os.remove(mutated)
        return (None if error else objects), error

    def compile_file(self, source, mutated, object_file):
        """The compiler's complaint, empty when the object is there. Without `mutated` a changed header is included."""
        command = self.commands.get(os.path.realpath(source))
        if command is None:
            raise Broken("%s is not compiled for %s in %s" % (source, self.suite, self.folder))
        words = [w for w in shlex.split(command["command"]) if not w.endswith("ccache") and w not in ("-MD", "-MMD")]
        for flag in ("-MF", "-MT"):
            if flag in words:
                del words[words.index(flag):words.index(flag) + 2]
        words[words.index("-o") + 1] = object_file
        if mutated:
            words[words.index("-c") + 1] = mutated
        else:
            words.insert(1, "-I" + os.path.join(self.work, "text"))  # a changed header is found here first
        # No optimisation beyond what keeps the run short: it is compiled once and run for a second.
        words = ["-O1" if w in ("-O2", "-O3") else "-g0" if re.match(r"-g\d?$", w) else w for w in words]
        words += ["-w", "-frandom-seed=0"]
        done = subprocess.run(words, cwd=command["directory"], capture_output=True, text=True)
        return done.stderr or "failed" if done.returncode != 0 else ""

    def link(self, objects, stems):
        """The test program of these stems, with these objects before the library that has the kernel without a bug."""
        others = re.compile(r"/(?!(?:%s)_test\.cpp)\w+_test\.cpp\.o$|_kernels\.dir/" % "|".join(stems))
        names = {os.path.basename(o) for o in objects}
        words = [w for w in self.link_words if not others.search(w) and os.path.basename(w) not in names]
        words[words.index("-o") + 1] = self.program
        first = next(i for i, w in enumerate(words) if w.endswith(".o"))
        words[first:first] = objects
        subprocess.run(words + ["-Wl,-S"], cwd=self.folder, check=True, capture_output=True)

    def run(self, stems, limit, number=0):
        """killed, killed (time) or survived."""
        env = dict(os.environ, AVID_MUTANT=str(number), OMP_WAIT_POLICY="passive")
        words = [self.program, "-sf=" + ",".join("*/sim/%s_test.cpp" % s for s in stems), "--abort-after=1"]
        try:
            done = subprocess.run(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=limit)
            return "survived" if done.returncode == 0 else "killed"
        except subprocess.TimeoutExpired:
            return "killed (time)"

    def timed(self, kernel, stems):
        """How long the tests take without any bug; they must pass."""
        started = time.time()
        if self.run(stems, 900) != "survived":
            raise Broken("the tests of %s (%s) fail without any bug: %s" % (kernel, self.suite, " ".join(stems)))
        return time.time() - started

    def unchanged(self, kernel, stems):
        """Hash of the kernel's object without a bug, and how long its tests take then."""
        name = os.path.join(self.work, stem_of(kernel) + ".json")
        if kernel not in self.known:
            files = sorted(glob.glob("kernels/**/*.h", recursive=True)) + glob.glob("tests/sim/*.h")
            files += [kernel] + ["tests/sim/%s_test.cpp" % s for s in stems]
            state = hashlib.sha256("".join(read(f) for f in files).encode()).hexdigest()
            known = json.loads(read(name)) if os.path.exists(name) else {}
            if known.get("state") != state:
                objects, error = self.compile(kernel, kernel, '#line 1 "%s"\n' % kernel + read(kernel), stems)
                if objects is None:
                    raise Broken("%s does not compile: %s" % (kernel, error[:300]))
                self.link(objects, stems)
                known = dict(state=state, object=read_hash(objects[0]), seconds=self.timed(kernel, stems))
                with open(name, "w") as out:
                    json.dump(known, out)
            self.known[kernel] = known
        return self.known[kernel]

    def verdict(self, kernel, mutant, lines):
        """As run(), or: no effect (the same object), does not compile."""
        stems = tests_of(stem_of(kernel))
        normal = self.unchanged(kernel, stems)
        objects, _ = self.compile(kernel, mutant.file, mutant.text(lines), stems)
        if objects is None:
            return "does not compile"
        if len(objects) == 1 and read_hash(objects[0]) == normal["object"]:
            return "no effect"
        self.link(objects, stems)
        return self.run(stems, 5 + 4 * normal["seconds"])

    def verdicts(self, path, lines, mutants):
        """{mutant: killed, killed (time) or seen} of bugs compiled together."""
        kernel = users_of(path)[0]
        stems = tests_of(stem_of(kernel))
        found = {m: SEEN for m in mutants}
        numbered = {i + 1: m for i, m in enumerate(mutants)}
        while numbered:
            objects, error = self.compile(kernel, path, text_with_switches(lines, numbered), stems)
            if objects is not None:
                break
            complaints = {int(n) for n in re.findall(r"%s:(\d+):\d+: error" % re.escape(path), error)}
            left = {n: m for n, m in numbered.items() if m.line not in complaints}
            numbered = left if len(left) < len(numbered) else {}
        if not numbered:
            return found
        self.link(objects, stems)
        limit = 5 + 4 * self.timed(kernel, stems)
        for number, mutant in numbered.items():
            verdict = self.run(stems, limit, number)
            found[mutant] = SEEN if verdict == "survived" else verdict
        return found


def judge(mutant, lines, plain, second_looks):
    """One bug alone: the plain build in every kernel that has the file, then the builds that see what it cannot."""
    verdict = "no effect"
    for kernel in users_of(mutant.file):
        found = plain.verdict(kernel, mutant, lines)
        if found.startswith("killed") or found == "does not compile":
            return found
        if found == "survived":
            verdict = found
    if verdict == "no effect":
        return verdict
    for name in sorted(second_looks, reverse=mutant.kind in RACE_FIRST):
        for kernel in users_of(mutant.file)[:3]:  # half a minute each
            if second_looks[name].verdict(kernel, mutant, lines).startswith("killed"):
                return "killed (%s)" % name
    return "survived"


def is_explained(mutant):
    return "`%s`" % mutant.key() in (read(SURVIVORS) if os.path.exists(SURVIVORS) else "")


class Results:
    """results.tsv; of several lines of a bug the last counts, and takes it back if it has no verdict."""

    def __init__(self, path):
        self.path, self.rows = path, {}
        if os.path.exists(path):
            for line in read(path).splitlines():
                row = dict(zip(COLUMNS, line.split("\t")))
                self.rows[row["id"]] = row
        self.rows = {id: row for id, row in self.rows.items() if "verdict" in row}

    def verdict(self, mutant):
        return self.rows[mutant.id]["verdict"] if mutant.id in self.rows else ""

    def add(self, mutant, verdict, seconds):
        values = [mutant.id, verdict, "%.1f" % seconds, mutant.file, str(mutant.line), mutant.kind]
        values += [mutant.before, mutant.after]
        self.rows[mutant.id] = dict(zip(COLUMNS, values))
        with open(self.path, "a") as out:
            out.write("\t".join(values) + "\n")
        print("%-16s %5.1f s  %s:%d %s" % (verdict, seconds, mutant.file, mutant.line, mutant.kind), flush=True)

    def forget(self, mutant):
        """Its next verdict counts, whether this run comes to it or another."""
        if self.rows.pop(mutant.id, None):
            with open(self.path, "a") as out:
                out.write(mutant.id + "\n")

    def is_open(self, mutant):
        return self.verdict(mutant) in ("", SEEN)


def try_all(plan, results, build, again, seconds):
    """Tries what has no verdict yet, until the time is over."""
    plain = Flavour(build, "sim")
    second_looks = {"race": Flavour(build, "sim_race"), "asan": Flavour(build, "sim_asan")}
    started = time.time()

    def time_is_over():
        return seconds and time.time() - started > seconds

    broken = set()
    for path, lines, mutants in plan:
        together = [m for m in mutants if not results.verdict(m) and switchable(m)]
        if len(together) < 2:
            continue
        if time_is_over():
            return
        begin = time.time()
        try:
            for mutant, verdict in plain.verdicts(path, lines, together).items():
                results.add(mutant, verdict, (time.time() - begin) / len(together))
        except Broken as why:
            print("mutate_kernels: %s" % why)
            broken.add(path)
    # The first bug of every file, then the second of every file ...: whatever the time is enough for covers all files.
    for i in range(max(len(mutants) for _, _, mutants in plan)):
        for path, lines, mutants in plan:
            if i >= len(mutants) or path in broken:
                continue
            unexplained = results.verdict(mutants[i]) == "survived" and not is_explained(mutants[i])
            if not results.is_open(mutants[i]) and not (again and unexplained):
                continue
            if time_is_over():
                return
            begin = time.time()
            try:
                results.add(mutants[i], judge(mutants[i], lines, plain, second_looks), time.time() - begin)
            except Broken as why:
                print("mutate_kernels: %s" % why)
                broken.add(path)


def report(plan, results):
    """Prints a table per file and the survivors; True when every survivor is explained."""
    columns = ["bugs", "killed", "killed (race)", "killed (asan)", "no effect", "survived"]
    total, survivors, unexplained = collections.Counter(), 0, 0
    print("| file | bugs | killed | by race hooks | by sanitizers | no effect | survived |")
    print("|---|---|---|---|---|---|---|")
    left = []
    for path, _, mutants in plan:
        tried = [m for m in mutants if not results.is_open(m) and results.verdict(m) != "does not compile"]
        count = collections.Counter(results.verdict(m).replace("killed (time)", "killed") for m in tried)
        count["bugs"] = len(tried)
        total += count
        if tried:
            print("| `%s` | %s |" % (path.removeprefix("kernels/"), " | ".join(str(count[c]) for c in columns)))
        left += [m for m in tried if results.verdict(m) == "survived"]
    print("| all | %s |" % " | ".join(str(total[c]) for c in columns))
    for m in left:
        known = is_explained(m)
        survivors, unexplained = survivors + 1, unexplained + (not known)
        print("survived%s %s:%d: %s\n    %s" % (" (explained)" if known else "", m.file, m.line, m.kind, m.key()))
    effective = total["bugs"] - total["no effect"]
    killed = effective - survivors
    print("%d bugs, %d without effect on the object; %d of the other %d killed (%.1f %%)" %
          (total["bugs"], total["no effect"], killed, effective, 100.0 * killed / max(1, effective)))
    print("%d survived, %d of them explained in %s" % (survivors, survivors - unexplained, SURVIVORS))
    return unexplained == 0


def main():
    parser = argparse.ArgumentParser(prog="scripts/mutate_kernels.sh")
    parser.add_argument("--file", default="")
    parser.add_argument("--max", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", default="build")
    parser.add_argument("--seconds", type=float, default=0)
    for flag in ("--again", "--anew", "--list", "--report"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    # What the kernels share, without what stands for the device itself.
    headers = [h for h in sorted(glob.glob("kernels/device/*.h"))
               if not re.match(DEVICE_ITSELF, stem_of(h)) and users_of(h)]
    sources = [s for s in sorted(glob.glob("kernels/*.cu")) + headers if re.search(args.file, stem_of(s))]
    if not sources:
        sys.exit("mutate_kernels: --file: no kernel and no header in kernels/device matches '%s'" % args.file)
    # One more for every 100 lines.
    plan = [(s, *sample(s, args.max and args.max + read(s).count("\n") // 100, args.seed)) for s in sources]
    mutants = [m for _, _, some in plan for m in some]
    if args.list:
        for m in mutants:
            print("%s:%d: %s\n  - %s\n  + %s" % (m.file, m.line, m.kind, m.before, m.after))
        print("%d bugs in %d files" % (len(mutants), len(plan)))
        return 0
    if not args.report and not os.path.exists(os.path.join(args.build, "build.ninja")):
        sys.exit("mutate_kernels: --build: no build for Ninja in %s | cmake -S . -B %s -G Ninja" % (args.build, args.build))
    os.makedirs(os.path.join(args.build, "mutants"), exist_ok=True)
    results = Results(os.path.join(args.build, "mutants", "results.tsv"))
    if not args.report:
        if args.anew:
            for mutant in mutants:
                results.forget(mutant)
        try_all(plan, results, args.build, args.again, args.seconds)
        missing = sum(results.is_open(m) for m in mutants)
        if missing:
            print("%d of %d bugs are still to be tried: run it again" % (missing, len(mutants)))
            return 3
    return 0 if report(plan, results) else 1


if __name__ == "__main__":
    sys.exit(main())
