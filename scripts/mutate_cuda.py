"""Helper of mutate_cuda.sh: plants the bugs, compiles what they touch, and runs tests on the PTX machine.

Headers of the device language: the tests' own kernels are compiled with the changed header, and linked to test_gpu in
the place of those without a bug; who survives that meets five kernels that use the whole language. Calls to the
runtime: the changed file is linked to the tests of tensors and of training, whose work is done early, then late.
"""
import argparse
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time

from mutate_operators import Mutant, find_mutants
from mutate_kernels import is_explained, read

# Within the text of an instruction and its operands, one place at a time.
ASSEMBLY = [
    ("swapped operands", r"%(\d+), ?%(\d+)", r"%\2,%\1"),
    ("swapped operands", r'("\+?=?\w"\([^()]*(?:\[\w+\])?\)), ("\w"\([^()]*(?:\[\w+\])?\))', r"\2, \1"),
    ("swapped index", r"(\b[abcdr])\[0\]", r"\1[1]"),
    ("dropped .trans", r"\.trans\b", ""),
    ("wrong wait count", r'"n"\((\w)\)', r'"n"(\1 + 1)'),
    ("missing mask", r"valid \? (\d+) : 0", r"\1"),
    ("wrong number", r"\],(\d+),%2", lambda m: "],%d,%%2" % (int(m.group(1)) // 2)),
    ("wrong number", r", 1, 1, 1, ", ", 1, -1, 1, "),
    ("wrong rounding", r"cvt\.rna\.", "cvt.rn."),
    ("transposed", r"(AVID_WGMMA\(.*), ([01])\);", lambda m: "%s, %d);" % (m.group(1), 1 - int(m.group(2)))),
    ("swapped operands", r"(AVID_WGMMA\(\d+, \d+, )(\d+), (\d+)", r"\1\3, \2"),
    ("dropped statement", r"\{ (?:asm volatile|AVID_SM90A_ONLY)\(.*\); \}", "{}"),
    ("dropped statement", r"^(\s*)(?:asm volatile|AVID_SM90A_ONLY)\(.*\);$", r"\1;"),
]
# What a bug there is tried with: (sources that are compiled with it, file of tests, compute capability).
LANGUAGE = [
    [("tests/sim/layouts_kernels.cpp", "layouts", 80), ("tests/sim/warpgroup_kernels.cpp", "warpgroup", 90),
     ("tests/sim/tensor_copy_kernels.cpp", "tensor_copy", 90)],
    [("kernels/temporal_attention_core.cu", "temporal_attention_core", 80),
     ("kernels/gather_weight_grad.cu", "gather_weight_grad", 80),
     ("kernels/gather_gemm_halo.cu", "gather_gemm_halo", 80),
     ("kernels/gather_gemm_halo_wgmma.cu", "gather_gemm_halo_wgmma", 90),
     ("kernels/gather_weight_grad_wgmma.cu", "gather_weight_grad_wgmma", 90)],
]
HEADERS = ["kernels/device/gpu_cuda.h", "kernels/device/warpgroup_cuda.h"]
RUNTIME = ["kernels/device/runtime_cuda.cpp", "kernels/device/recorded_cuda.cpp", "kernels/device/tensor_map.cpp"]
# Tests that a file of the runtime is tried with: (program, its arguments, compute capability, order of the streams).
CALLS = [("test_tensor", ["-sf=*/tensor/device_test.cpp"], 80, order) for order in ("early", "late")]
CALLS += [("test_train", ["-tc=device/graph/*,device/batches/*"], 80, "late")]
COPIES = [("test_gpu", ["-sf=*/sim/tensor_copy_test.cpp"], 90, "early")]


def bugs_of(path):
    """The file's lines and its bugs: in assembly, and those that any code can have."""
    lines, found = find_mutants(path)
    if path in HEADERS:
        found = []
        for number, line in enumerate(lines, 1):
            code = line.split("//")[0].rstrip()
            if code.startswith("#define AVID_NAMES") or "asm volatile(\"\"" in code:
                continue
            for kind, pattern, replacement in ASSEMBLY:
                for which, m in enumerate(re.finditer(pattern, code)):
                    new = replacement(m) if callable(replacement) else m.expand(replacement)
                    mutated = code[:m.start()] + new + code[m.end():]
                    if mutated != code:
                        found.append(Mutant(path, number, kind, code, mutated, which, False))
    return lines, [m for m in found if not is_message(m)]


def is_message(mutant):
    """A line that only makes the text of an error, or declares."""
    words = r"message|fail_launch|GpuError|std::string|noexcept|version\(|cudaGetLastError"
    return bool(re.search(words, mutant.before))


class Build:
    def __init__(self, folder):
        self.folder = os.path.abspath(folder)
        self.work = os.path.join(self.folder, "mutants-cuda")
        os.makedirs(os.path.join(self.work, "text"), exist_ok=True)
        names = {p for p, *_ in CALLS + COPIES} | {"test_gpu"}
        subprocess.run(["ninja", "-C", self.folder, *sorted(names)], check=True, stdout=subprocess.DEVNULL)
        self.commands = {}
        for c in json.loads(self.ninja("-t", "compdb")):
            if " -c " in c["command"] or " -x cu" in c["command"]:
                self.commands.setdefault(os.path.realpath(os.path.join(c["directory"], c["file"])), []).append(c)
        self.links = {}
        for name in names:
            step = next(s for s in reversed(self.ninja("-t", "commands", name).splitlines())
                        if re.search(r" -o \S*%s\b" % name, s))
            self.links[name] = shlex.split(step.removeprefix(": && ").removesuffix(" && :"))

    def ninja(self, *words):
        return subprocess.run(["ninja", "-C", self.folder, *words], check=True, capture_output=True, text=True).stdout

    def compile(self, source, changed, text):
        """The object of a source in which the file `changed` reads `text`; None when it does not compile."""
        mutated = os.path.join(self.work, "text", changed)
        os.makedirs(os.path.dirname(mutated), exist_ok=True)
        with open(mutated, "w") as out:
            out.write(text)
        wanted = [c for c in self.commands[os.path.realpath(source)] if "/sim_" not in c["output"]
                  and "avid_kernels_sim" not in c["output"] and "test_sim" not in c["output"]]
        command = wanted[0]
        words = [w for w in shlex.split(command["command"]) if not w.endswith("ccache") and w not in ("-MD", "-MMD")]
        for flag in ("-MF", "-MT"):
            if flag in words:
                del words[words.index(flag):words.index(flag) + 2]
        output = os.path.join(self.work, os.path.basename(source) + ".o")
        words[words.index("-o") + 1] = output
        if source == changed:
            words[words.index("-c") + 1] = mutated
        words.insert(1, "-I" + os.path.join(self.work, "text"))
        done = subprocess.run(words, cwd=command["directory"], capture_output=True, text=True)
        os.remove(mutated)
        return (output, command["output"]) if done.returncode == 0 else None

    def link(self, program, objects):
        """The program with these objects: in the place of those of the same name, or before the libraries."""
        replaced = {os.path.basename(old) for _, old in objects}
        words = [w for w in self.links[program] if not (w.endswith(".o") and os.path.basename(w) in replaced)]
        output = os.path.join(self.work, program)
        words[words.index("-o") + 1] = output
        first = next(i for i, w in enumerate(words) if w.endswith(".o"))
        words[first:first] = [new for new, _ in objects]
        subprocess.run(words + ["-Wl,-S", "-Wl,--allow-multiple-definition"], cwd=self.folder, check=True,
                       capture_output=True)
        return output

    def passes(self, program, arguments, arch, order, limit):
        env = dict(os.environ, AVID_PTX_ARCH=str(arch), AVID_PTX_ORDER=order, AVID_TEST_DEVICE="cuda:0",
                   OMP_NUM_THREADS="1")
        try:
            return subprocess.run([program, *arguments, "--abort-after=1"], env=env, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=limit).returncode == 0
        except subprocess.TimeoutExpired:
            return False


def verdict(build, mutant, lines):
    text = mutant.text(lines)
    if mutant.file in HEADERS:
        for stage in LANGUAGE:
            for source, tests, arch in stage:
                built = build.compile(source, mutant.file, text)
                if built is None:
                    return "does not compile"
                program = build.link("test_gpu", [built])
                if not build.passes(program, ["-sf=*/sim/%s_test.cpp" % tests], arch, "early", 120):
                    return "killed"
        return "survived"
    built = build.compile(mutant.file, mutant.file, text)
    if built is None:
        return "does not compile"
    for name, arguments, arch, order in COPIES if "tensor_map" in mutant.file else CALLS:
        if not build.passes(build.link(name, [built]), arguments, arch, order, 300):
            return "killed"
    return "survived"


def main():
    parser = argparse.ArgumentParser(prog="scripts/mutate_cuda.sh")
    parser.add_argument("--build", default="build-ptx")
    parser.add_argument("--file", default="")
    parser.add_argument("--max", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0)
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    files = [f for f in HEADERS + RUNTIME if re.search(args.file, f)]
    if not files:
        sys.exit("mutate_cuda: --file: none of %s matches '%s'" % (", ".join(HEADERS + RUNTIME), args.file))
    plan = []
    for path in files:
        lines, found = bugs_of(path)
        if args.max:
            found.sort(key=lambda m: hashlib.sha256(("%d %s" % (args.seed, m.id)).encode()).hexdigest())
        plan += [(m, lines) for m in found[:args.max or None]]
    if args.list:
        for m, _ in plan:
            print("%s:%d: %s\n  - %s\n  + %s" % (m.file, m.line, m.kind, m.before, m.after))
        print("%d bugs" % len(plan))
        return 0
    if "AVID_PTX_MACHINE:BOOL=ON" not in read(os.path.join(args.build, "CMakeCache.txt")):
        sys.exit("mutate_cuda: %s is no build with -DAVID_PTX_MACHINE=ON" % args.build)
    build, begun = Build(args.build), time.time()
    count, left = {"killed": 0, "survived": 0, "does not compile": 0}, []
    for m, lines in plan:
        if args.seconds and time.time() - begun > args.seconds:
            break
        found = verdict(build, m, lines)
        count[found] += 1
        print("%-16s %s:%d %s: %s" % (found, m.file, m.line, m.kind, m.after[:90]), flush=True)
        if found == "survived":
            left.append(m)
    for m in left:
        print("survived%s %s:%d: %s\n    %s" % (" (explained)" * is_explained(m), m.file, m.line, m.kind, m.key()))
    tried = count["killed"] + count["survived"]
    print("%d of %d bugs tried; %d of %d that compile killed" %
          (sum(count.values()), len(plan), count["killed"], tried))
    return 0 if all(is_explained(m) for m in left) else 1


if __name__ == "__main__":
    sys.exit(main())
