"""Helper of mutate_kernels.sh.

All bugs of a file are compiled at once, each behind a switch that the environment variable AVID_MUTANT sets: a statement S
becomes `if (avid_mutant == 7) { S' } else S`, an expression E becomes `(avid_mutant == 7 ? (E') : (E))`. One compilation per
file instead of one per bug, and the same binary with AVID_MUTANT=0 is the check that the switches themselves change nothing.
"""
import argparse
import collections
import glob
import json
import os
import random
import re
import shlex
import subprocess
import sys
import tempfile
import time

SURVIVORS = "kernels/mutation_survivors.md"

# (name, pattern, replacement): applied to the code of one line, one place at a time.
OPERATORS = [
    ("dropped barrier", r"__syncthreads\(\);", ";"),
    ("dropped barrier", r"__syncwarp\([^;]*\);", ";"),
    ("dropped commit", r"cp_async_commit\(\);", ";"),
    ("wrong wait count", r"cp_async_wait<([^;]*)>\(\)", r"cp_async_wait<(\1) + 1>()"),
    ("missing mask", r"(cp_async_(?:16|8|4)\([^;]*), [^,;]*\)(?=;)", r"\1)"),
    ("missing mask", r"= ([^=?;]+)\? ([^:;]+) : (?:0\.0f|0|make_float2\(0, 0\))(?=;)", r"= \2"),
    ("wrong lane", r"\(lane & 15\)", "(lane & 7)"),
    ("wrong lane", r"lane >> 2", "lane >> 3"),
    ("wrong lane", r"lane & 3", "lane & 1"),
    ("wrong lane", r"lane & 31", "lane & 15"),
    ("wrong lane", r"threadIdx\.x / 32", "threadIdx.x / 64"),
    ("wrong shuffle", r"(__shfl_xor_sync\([^,;]+,[^,;]+, )([^;()]+)\)", r"\1(\2) / 2)"),
    ("swapped index", r"blockIdx\.x", "blockIdx.y"),
    ("swapped index", r"blockIdx\.y", "blockIdx.x"),
    ("swapped index", r"\[(\w+)\]\[(\w+)\]", r"[\2][\1]"),
    ("swapped index", r"\.x\b(?=[^(]*\.y)", ".y"),
    ("wrong stride", r"(?<![\w.>:])((?:\w+(?:\.|->|::))*\w*(?:pitch|Pitch|stride|Stride|kRowBytes))\b(?=[ ;)\]])", r"(\1 + 1)"),
    ("off by one", r" < (?=[\w(])", " <= "),
    ("off by one", r" >= (?=[\w(])", " > "),
    ("off by one", r" \+ 1\b", " + 2"),
    ("off by one", r" - 1\b", " - 2"),
    ("wrong operator", r" \+= ", " -= "),
    ("wrong operator", r" \+ (?=[\w(])", " - "),
    ("wrong operator", r" - (?=[\w(])", " + "),
    ("wrong operator", r" \* (?=[\w(])", " + "),
    ("wrong operator", r" / (?=[\w(])", " * "),
    ("wrong operator", r" && ", " || "),
    ("wrong operator", r" \|\| ", " && "),
    ("wrong operator", r" == ", " != "),
    ("wrong operator", r" != ", " == "),
    ("wrong operator", r"\bfmaxf\(", "fminf("),
    ("wrong operator", r"\bmin\(", "max("),
    ("wrong operator", r"\bmax\(", "min("),
    ("wrong operator", r" >> ", " << "),
    ("wrong constant", r"\b1\.0f\b", "2.0f"),
    ("wrong constant", r"\b0\.0f\b", "1.0f"),
    ("wrong constant", r"\b0\.5f\b", "0.25f"),
    ("dropped statement", r"^\s*[\w.\[\]>-]+(?:\[[^\]]*\])* [+*-]?= [^;]+;$", ";"),
]
SKIPPED_LINES = re.compile(
    r"^\s*(?://|#|template|using|static_assert|struct|class|enum|namespace|static|extern|typedef|constexpr|AVID_SHARED|public:|private:|case |default:)"
    r"|__global__|__launch_bounds__|AVID_DEVICE|constexpr|operator|launch\(|take<")


class Mutant:
    def __init__(self, file, line, kind, before, after):
        self.file, self.line, self.kind, self.before, self.after = file, line, kind, before.strip(), after.strip()
        self.number, self.verdict = 0, ""

    def key(self):
        """What kernels/mutation_survivors.md names it by; line numbers would not survive an edit."""
        return "%s | %s | %s" % (os.path.basename(self.file), self.before, self.after)


def split_top(text, separator):
    """Splits at a separator outside all brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == separator and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return parts + [text[start:]]


def balanced(text):
    depth = 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return False
    return depth == 0


def device_ranges(lines):
    """Line numbers inside `namespace AVID_GPU { ... }` and inside a function's body there."""
    inside, depth, entered = set(), 0, None
    for i, line in enumerate(lines):
        code = line.split("//")[0]
        if re.search(r"namespace [\w:]*AVID_GPU \{", code):
            entered = depth
        if entered is not None and depth > entered:
            inside.add(i)
        depth += code.count("{") - code.count("}")
        if entered is not None and depth <= entered and "}" in code:
            entered = None
    return inside


def switch(code, mutated, number):
    """The line with both versions behind the switch; None where the line's form does not allow it."""
    indent = re.match(r"\s*", code).group(0)
    old, new = code.strip(), mutated.strip()
    test = "avid_mutant == %d" % number
    # for (init; condition; step)   if (condition)   while (condition)
    for word in ("for", "if", "while"):
        if old.startswith(word + " (") and new.startswith(word + " ("):
            pieces = []
            for text in (old, new):
                depth, begin = 0, len(word) + 1
                end = next((i for i in range(begin, len(text)) if (depth := depth + (text[i] == "(") - (text[i] == ")")) == 0), None)
                if end is None:
                    return None
                pieces.append((text[begin + 1:end], text[end + 1:]))
            (head, tail), (new_head, new_tail) = pieces
            if tail != new_tail:
                if head != new_head or not tail.strip().endswith(";"):
                    return None
                body = switch(tail.strip(), new_tail.strip(), number)
                return None if body is None else "%s%s (%s) { %s }" % (indent, word, head, body)
            if word != "for":
                if "=" in re.sub(r"[=!<>]=", "", head):
                    return None
                return "%s%s (%s ? (%s) : (%s))%s" % (indent, word, test, new_head, head, tail)
            a, b = split_top(head, ";"), split_top(new_head, ";")
            if len(a) != 3 or len(b) != 3 or a[0] != b[0] or a[2] != b[2]:
                return None
            return "%sfor (%s; %s ? (%s) : (%s);%s)%s" % (indent, a[0], test, b[1].strip(), a[1].strip(), a[2], tail)
    if not old.endswith(";") or not balanced(old) or (new != ";" and not balanced(new)):
        return None
    if m := re.match(r"return (.+);$", old):
        n = re.match(r"return (.+);$", new)
        return "%sreturn %s ? (%s) : (%s);" % (indent, test, n.group(1), m.group(1)) if n and not m.group(1).startswith("{") else None
    # A declaration with one initialiser: type name = expression;
    if m := re.match(r"((?:const )?(?:auto|bool|int|unsigned|float|float2|float4|std::\w+|[A-Z]\w*(?:<[^;=]*>)?)[ *&]+(?:const )?[*]?\w+) = ([^;]+);$", old):
        n = re.match(r"(.+?) = ([^;]+);$", new)
        if not n or n.group(1) != m.group(1) or len(split_top(m.group(2), ",")) > 1 or m.group(2).startswith(("{", "[")):
            return None
        return "%s%s = %s ? (%s) : (%s);" % (indent, m.group(1), test, n.group(2), m.group(2))
    # An expression statement: a call or an assignment to something that exists.
    if re.match(r"(?:\+\+|--)?[\w.>\-\[\]() *+:<]+?(?:\(.*\)|\S.* [+*-]?= .*|(?: [+*|&^-]?= .*));$", old) and not re.match(
            r"(?:const |auto |int |bool |unsigned |float\d? |std::|return|break|continue|else|[A-Z]\w*(?:<.*>)? \w+)", old):
        return "%sif (%s) { %s } else { %s }" % (indent, test, new, old)
    return None


def find_mutants(path):
    lines = open(path).read().split("\n")
    inside = device_ranges(lines)
    found = []
    for i, line in enumerate(lines):
        code = line.split("//")[0].rstrip()
        if i not in inside or not code.strip() or SKIPPED_LINES.search(code):
            continue
        previous = lines[i - 1].split("//")[0].rstrip() if i else ""
        # A line that continues another one is not a statement of its own.
        if previous and not previous.strip().startswith("#") and previous[-1] not in ";{}:" and not previous.strip().startswith("template") \
                and not re.match(r"\s*(?:for|if|while|else)\b.*\)$|\s*else$", previous):
            continue
        for kind, pattern, replacement in OPERATORS:
            for m in re.finditer(pattern, code):
                mutated = code[:m.start()] + m.expand(replacement) + code[m.end():]
                if mutated != code and switch(code, mutated, 1) is not None:
                    found.append((i, Mutant(path, i + 1, kind, code, mutated)))
    return lines, found


def apply(lines, chosen):
    """The file with all chosen bugs, each on its line."""
    out = list(lines)
    for i, mutant in chosen:
        out[i] = switch(lines[i].split("//")[0].rstrip(), mutant.after, mutant.number)
    text = "\n".join(out)
    header = '#include <cstdlib>\nnamespace { const int avid_mutant = std::getenv("AVID_MUTANT") ? std::atoi(std::getenv("AVID_MUTANT")) : 0; }\n'
    return header + '#line 1 "%s"\n' % chosen[0][1].file + text


def compiled_with(path):
    """The .cu that a file is tested in: itself, or for a header the first user with a test of its own, else the first."""
    if path.endswith(".cu"):
        return path
    users = [s for s in sorted(glob.glob("kernels/*.cu")) if '"%s"' % path in open(s).read()]
    for other in sorted(glob.glob("kernels/device/*.h")):  # headers that other headers include
        if not users and '"%s"' % path in open(other).read():
            return compiled_with(other)
    own = [s for s in users if os.path.exists("tests/sim/%s_test.cpp" % os.path.basename(s)[:-3])]
    return (own + users + [""])[0]


def tests_of(stem):
    """Test files for a kernel: its own, else those that run what includes its contract."""
    if os.path.exists("tests/sim/%s_test.cpp" % stem):
        return [stem]
    users = {os.path.basename(f)[:-3] for f in glob.glob("kernels/*.cu")
             if '"kernels/%s.h"' % stem in open(f).read() or re.search(r'"kernels/device/\w+\.h"', open(f).read()) and any(
                 '"kernels/%s.h"' % stem in open(h).read() for h in re.findall(r'"(kernels/device/\w+\.h)"', open(f).read()) if os.path.exists(h))}
    users.discard(stem)
    found = [u for u in sorted(users) if os.path.exists("tests/sim/%s_test.cpp" % u)]
    found += [os.path.basename(t)[:-9] for t in glob.glob("tests/sim/*_test.cpp") if '"kernels/%s.h"' % stem in open(t).read()]
    return sorted(set(found))


class Build:
    def __init__(self, folder, suite):
        self.folder, self.suite = folder, suite
        self.commands = json.load(open(os.path.join(folder, "compile_commands.json")))
        subprocess.run(["cmake", "--build", folder, "--target", "test_" + suite], check=True, stdout=subprocess.DEVNULL)

    def compile_and_link(self, changed, text, folder):
        """A test program in which the file `changed` is `text`; the compiler's complaint otherwise."""
        source = compiled_with(changed)
        path = os.path.abspath(source)
        command = next((c for c in self.commands
                        if c["file"] == path and "avid_kernels_%s_kernels.dir" % self.suite in c["command"]), None)
        if command is None:
            sys.exit("mutate_kernels: %s is not compiled for %s in %s" % (source, self.suite, self.folder))
        mutated = os.path.join(folder, changed)
        os.makedirs(os.path.dirname(mutated), exist_ok=True)
        open(mutated, "w").write(text)
        words = shlex.split(command["command"])
        words = [w for w in words if not w.endswith("ccache")]
        words[words.index("-o") + 1] = mutated + ".o"
        if changed == source:
            words[words.index("-c") + 1] = mutated
        words.insert(1, "-I" + folder)  # a changed header is found here first
        # No optimisation beyond what keeps the run short: it is compiled once and run for a second per bug.
        words = ["-O1" if w in ("-O2", "-O3") else w for w in words] + ["-w"]
        done = subprocess.run(words, cwd=command["directory"], capture_output=True, text=True)
        if done.returncode != 0:
            return None, done.stderr
        program = os.path.join(folder, "test_" + self.suite)
        ninja = subprocess.run(["ninja", "-C", self.folder, "-t", "commands", "test_" + self.suite], capture_output=True, text=True, check=True)
        link = next(l for l in reversed(ninja.stdout.splitlines()) if re.search(r" -o \S*test_%s\b" % self.suite, l))
        link = link.removeprefix(": && ").removesuffix(" && :")
        words = shlex.split(link)
        words[words.index("-o") + 1] = program
        first = next(i for i, w in enumerate(words) if w.endswith(".o"))
        words.insert(first, mutated + ".o")  # before the library that has the file unchanged
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True)
        return (program, "") if done.returncode == 0 else (None, done.stderr)


def run_tests(program, stems, number, limit):
    """True when all tests pass."""
    env = dict(os.environ, AVID_MUTANT=str(number), OMP_WAIT_POLICY="passive")
    pattern = ",".join("*/sim/%s_test.cpp" % s for s in stems)
    try:
        done = subprocess.run([program, "-sf=" + pattern, "--abort-after=1"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=limit)
        return done.returncode == 0
    except subprocess.TimeoutExpired:
        return False


def build_mutants(build, path, lines, chosen, folder):
    """Drops the bugs that do not compile."""
    while chosen:
        program, error = build.compile_and_link(path, apply(lines, chosen), folder)
        if program is not None:
            return program, chosen
        bad = {int(n) for n in re.findall(re.escape(path) + r":(\d+):\d+: error", error)}
        bad |= {int(n) for n in re.findall(re.escape(path) + r":(\d+):\d+:\s+required from", error)}
        before = len(chosen)
        chosen = [(i, m) for i, m in chosen if m.line not in bad]
        if len(chosen) == before:
            print("mutate_kernels: %s does not compile even without the bugs it names:\n%s" % (path, error[:2000]), file=sys.stderr)
            return None, []
    return None, []


def known_survivors():
    if not os.path.exists(SURVIVORS):
        return ""
    return open(SURVIVORS).read()


def main():
    parser = argparse.ArgumentParser(prog="scripts/mutate_kernels.sh")
    parser.add_argument("--file", default="")
    parser.add_argument("--max", type=int, default=8)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--build", default="build")
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--race", action="store_true")
    parser.add_argument("--asan", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", default="")
    args = parser.parse_args()
    headers = [h for h in glob.glob("kernels/device/*.h") if re.search(r"namespace [\w:]*AVID_GPU", open(h).read()) and compiled_with(h)]
    sources = [s for s in sorted(glob.glob("kernels/*.cu")) + sorted(headers) if re.search(args.file, os.path.splitext(os.path.basename(s))[0])]
    if not sources:
        sys.exit("mutate_kernels: --file: no kernel and no header in kernels/device matches '%s'" % args.file)

    plan = []
    for path in sources:
        lines, found = find_mutants(path)
        picked, used = [], set()
        by_kind = collections.defaultdict(list)
        for entry in found:
            by_kind[entry[1].kind].append(entry)
        rng = random.Random("%d %s" % (args.seed, path))
        for entries in by_kind.values():
            rng.shuffle(entries)
        # In turn from each kind, so that a few bugs already cover the kinds; at most one per line.
        kinds = sorted(by_kind, key=lambda k: len(by_kind[k]))
        while any(by_kind.values()) and (args.max == 0 or len(picked) < args.max):
            for kind in kinds:
                while by_kind[kind]:
                    i, mutant = by_kind[kind].pop()
                    if i not in used:
                        used.add(i)
                        picked.append((i, mutant))
                        break
                if args.max and len(picked) >= args.max:
                    break
        picked.sort(key=lambda e: e[0])
        for number, (_, mutant) in enumerate(picked, 1):
            mutant.number = number
        plan.append((path, lines, picked))
    if args.list:
        for _, _, picked in plan:
            for _, m in picked:
                print("%s:%d: %s\n  - %s\n  + %s" % (m.file, m.line, m.kind, m.before, m.after))
        print("%d bugs in %d files" % (sum(len(p) for _, _, p in plan), len(plan)))
        return 0

    started = time.time()
    plain = Build(args.build, "sim")
    second_chances = [(Build(args.build, suite), why) for suite, why, wanted in
                      (("sim_race", "race hooks", args.race), ("sim_asan", "sanitizers", args.asan)) if wanted]
    known, done, table = known_survivors(), [], []
    for path, lines, picked in plan:
        stem = os.path.splitext(os.path.basename(path))[0]
        stems = tests_of(os.path.basename(compiled_with(path))[:-3])
        if args.minutes and time.time() - started > 60 * args.minutes:
            print("%-26s not reached in %g minutes" % (stem, args.minutes))
            continue
        if not stems:
            print("%-26s has no test in tests/sim" % stem)
            continue
        if not picked:
            continue
        with tempfile.TemporaryDirectory() as folder:
            program, mutants = build_mutants(plain, path, lines, picked, folder)
            if program is None:
                continue
            t = time.time()
            if not run_tests(program, stems, 0, 600):
                print("%-26s its tests fail without any bug; skipped" % stem)
                continue
            limit = 15 + 10 * (time.time() - t)
            survivors = []
            for i, m in mutants:
                if args.minutes and time.time() - started > 60 * args.minutes:
                    break
                m.verdict = "survived" if run_tests(program, stems, m.number, limit) else "killed"
                if m.verdict == "survived":
                    survivors.append((i, m))
            for build, why in second_chances:
                left = [(i, m) for i, m in survivors if m.verdict == "survived"]
                if not left:
                    break
                with tempfile.TemporaryDirectory() as second:
                    program, again = build_mutants(build, path, lines, left, second)
                    if program is not None and run_tests(program, stems, 0, 1200):
                        for _, m in again:
                            if not run_tests(program, stems, m.number, 4 * limit):
                                m.verdict = "killed (%s)" % why
        ran = [m for _, m in mutants if m.verdict]
        done += ran
        killed = sum(m.verdict.startswith("killed") for m in ran)
        table.append((stem, len(ran), killed))
        print("%-26s %3d bugs, %3d killed  (tests: %s)" % (stem, len(ran), killed, " ".join(stems)), flush=True)
        for m in ran:
            if m.verdict == "survived":
                print("  survived%s %s:%d: %s\n    - %s\n    + %s" %
                      (" (explained)" if m.key() in known else "", m.file, m.line, m.kind, m.before, m.after), flush=True)
    total, killed = len(done), sum(m.verdict.startswith("killed") for m in done)
    explained = sum(m.verdict == "survived" and m.key() in known for m in done)
    by_kind = collections.Counter(m.kind for m in done)
    print("\n%d bugs in %d files: %d killed (%.1f %%), %d survived, %d of them explained in %s" %
          (total, len(table), killed, 100.0 * killed / max(1, total), total - killed, explained, SURVIVORS))
    print("kinds: " + ", ".join("%s %d" % (k, n) for k, n in sorted(by_kind.items())))
    if args.json:
        with open(args.json, "w") as out:
            json.dump([dict(file=m.file, line=m.line, kind=m.kind, before=m.before, after=m.after, verdict=m.verdict) for m in done], out, indent=1)
    return 0 if total - killed == explained else 1


sys.exit(main())
