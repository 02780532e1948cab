"""Helper of kernel_resources.sh: compiles kernels/*.cu to cubins, reads ptxas's report and the machine code."""
import argparse
import concurrent.futures
import functools
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

import machine_code

BUDGET = "kernels/resources.tsv"
COMPILER_LINE = "# Compiled by nvcc"
MAXIMA = ["registers", "stack", "spills", "shared"]
MINIMA = ["hmma", "ldsm", "ldgsts", "hgmma", "utmaldg"]
# What a source that calls these promises: at least one of its kernels has the instruction.
CLAIMS = {"hmma": r"\bmma_(?:bf16|tf32)_", "ldsm": r"\bldmatrix_x", "ldgsts": r"\bcp_async_(?:16|8|4|commit)\b",
          "hgmma": r"\bwgmma_bf16(?:_first|_transposed|_fragment)?<", "utmaldg": r"\b(?:begin_tile|copy_tile)\("}
# local: LDL and STL, instructions on local memory. loop_per_mma: machine_code.loop_per_tensor.
COLUMNS = ["file", "kernel", "arch"] + MAXIMA + MINIMA + ["local", "loop_per_mma"]
# Compiler versions differ by a few registers; a kernel that fits its budget by this much still runs as it did.
SLACK_REGISTERS = 8
# The same compiler gives the same loop: the slack lets small edits pass. Another version may schedule it differently.
SLACK_LOOP, SLACK_LOOP_OTHER_COMPILER = 1.03, 1.25
# What the loops of the large bf16 kernels should not exceed: an mma.sync occupies the tensor core of a scheduler for 8
# clocks, 6 at the ceiling of sm_90, in which other instructions issue. First match of file and kernel.
WANTED_PER_MMA = [
    (r"gather_gemm(_halo)?\.cu gather_gemm(_halo)?_kernel<(bf16, )?GemmTile<(128|192|256), (56|64|96|1\d\d),", 3.0),
    (r"gather_weight_grad\.cu .*bf16, GemmTile<128,", 3.5),
    (r"temporal_attention_fused\.cu .*<8, (7|1\d),", 4.5), (r"temporal_attention_fused_bwd\.cu .*<(8|16), 1\d,", 6.0),
    # linear_attention_head_*, linear_bwd_matrices: few products, bound by memory
    (r"linear_attention(_bwd)?\.cu (?!linear_attention_head|linear_bwd_matrices)", 6.0), (r"attention\.cu .*bf16", 6.0)]


def find_nvcc():
    for candidate in (os.environ.get("NVCC"), shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    sys.exit("kernel_resources: no nvcc found; put it on the path or set NVCC")


def readable(names):
    """Demangled, without namespaces and parameters."""
    if not names:
        return {}
    tool = shutil.which("c++filt")
    out = names
    if tool:
        out = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True, check=True).stdout.splitlines()
    result = {}
    for mangled, text in zip(names, out):
        text = re.sub(r"avid::kernels::cuda::|avid::kernels::|avid::|\(anonymous namespace\)::", "", text)
        text = re.sub(r"^void ", "", text)
        depth = 0
        for i, c in enumerate(text):
            depth += (c == "<") - (c == ">")
            if c == "(" and depth == 0:
                text = text[:i]
                break
        result[mangled] = re.sub(r"\((?:int|bool|unsigned int|unsigned)\)", "", text)
    return result


def targets(source, archs):
    """Kernels of warpgroups exist for sm_90a only."""
    return (["90a"] if "90" in archs else []) if source.endswith("_wgmma.cu") else archs


def measure(nvcc, source, arch, folder):
    """One row per kernel of a file."""
    cubin = os.path.join(folder, "%s_%s.cubin" % (os.path.basename(source), arch))
    target = ["-arch=sm_" + arch] if arch.isdigit() else ["-gencode", "arch=compute_%s,code=sm_%s" % (arch, arch)]
    command = [nvcc, "-std=c++20", "-O3", *target, "-I.", "--expt-relaxed-constexpr", "--extended-lambda", "-cubin",
               "-Xptxas", "-v", "-o", cubin, source]
    done = subprocess.run(command, capture_output=True, text=True)
    # What ptxas says of warpgroups, C75xx: setmaxnreg was ignored (C7504, C7508), products wait for each other (C7509
    # and the next), a wait or a fence was put in where the source has none (C7517, C7519). All cost most of what a
    # kernel is for.
    if done.returncode != 0 or re.search(r"\(C75\d\d\)", done.stderr):
        return None, done.stderr
    rows, current = {}, None
    for line in done.stderr.splitlines():
        if m := re.search(r"Compiling entry function '(\w+)'", line):
            current = rows.setdefault(m.group(1), dict.fromkeys(MAXIMA, 0))
        elif current is None:
            continue
        elif m := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            current["stack"], current["spills"] = int(m.group(1)), int(m.group(2)) + int(m.group(3))
        elif m := re.search(r"Used (\d+) registers", line):
            current["registers"] = int(m.group(1))
            if m := re.search(r"(\d+) bytes smem", line):
                current["shared"] = int(m.group(1))
            current = None
    counts = machine_code.count_operations(cubin, arch.startswith("90"))
    os.remove(cubin)
    names = readable(sorted(rows))
    file = os.path.basename(source)
    return [dict(file=file, kernel=names[m], arch="sm_" + arch, **rows[m], **counts.get(m, {})) for m in sorted(rows)], ""


def compiler_version(nvcc):
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"V(\d+\.\d+\.\d+)", text)
    return found.group(1) if found else "unknown"


def read_budget(path):
    """(file, kernel, arch) -> numbers, by the names in the table's first line, and the compiler they come from."""
    budget, names, compiler = {}, None, None
    if not os.path.exists(path):
        return budget, compiler
    for line in open(path):
        cells = line.rstrip("\n").split("\t")
        if line.startswith("#"):
            compiler = line.split()[-1] if line.startswith(COMPILER_LINE) else compiler
            continue
        if names is None:
            names = cells
        else:
            numbers = dict.fromkeys(COLUMNS[3:], 0)
            numbers.update((n, float(c) if n == "loop_per_mma" else int(c)) for n, c in zip(names[3:], cells[3:]))
            budget[tuple(cells[:3])] = numbers
    return budget, compiler


def unkept_claims(source, rows):
    """Instructions that a source calls for and none of its kernels has."""
    text = re.sub(r"//[^\n]*", "", open(source).read())
    file = os.path.basename(source)
    return ["%s calls %s, but no kernel of it has %s for %s" % (file, pattern.replace(r"\b", ""), label.upper(), arch)
            for label, pattern in CLAIMS.items() if re.search(pattern, text)
            for arch in sorted({r["arch"] for r in rows if r["file"] == file})
            if not any(r.get(label, 0) for r in rows if r["file"] == file and r["arch"] == arch)]


def write_budget(path, budget, compiler):
    with open(path, "w") as out:
        out.write("# What each kernel may need at most (registers to static shared bytes, instructions on local memory,\n"
                  "# instructions per tensor-core instruction in its hottest loop) and must have at least (the others).\n"
                  "# Written by scripts/kernel_resources.sh --update; dynamic shared memory is not in it.\n"
                  "%s %s\n" % (COMPILER_LINE, compiler))
        out.write("\t".join(COLUMNS) + "\n")
        for key in sorted(budget):
            out.write("\t".join(list(key) + [str(budget[key][c]) for c in COLUMNS[3:]]) + "\n")


@functools.cache
def hands_out_registers(file):
    """Do warpgroups of its kernels take registers from each other (setmaxnreg), and so count on what a launch has?"""
    return any("more_registers<" in open(path).read() for path in glob.glob("kernels/**/" + file, recursive=True))


def complaints(row, budget, same_compiler):
    wrong = []
    if row["spills"] > 0:
        wrong.append("spills %d bytes" % row["spills"])
    limit = budget.get((row["file"], row["kernel"], row["arch"]))
    if limit is None:
        return wrong + ["has no line in the table | --update"]
    for c in MAXIMA:
        slack = SLACK_REGISTERS if c == "registers" else 0
        if row[c] > limit[c] + slack:
            wrong.append("%s %d, budget %d" % (c, row[c], limit[c]))
    if row["registers"] < limit["registers"] and row["hgmma"] > 0 and hands_out_registers(row["file"]):
        wrong.append("registers %d, not %d: a warpgroup would wait for ever for those that it asks for" %
                     (row["registers"], limit["registers"]))
    for c in MINIMA:
        if row[c] == 0 and limit[c] > 0:
            wrong.append("no %s instruction any more, had %d" % (c.upper(), limit[c]))
    if row["local"] > limit["local"]:
        wrong.append("%d LDL and STL instructions, budget %d" % (row["local"], limit["local"]))
    slack = SLACK_LOOP if same_compiler else SLACK_LOOP_OTHER_COMPILER
    if row["loop_per_mma"] > limit["loop_per_mma"] * slack + 0.05:
        wrong.append("%.1f instructions per tensor-core instruction in its loop, budget %.1f" %
                     (row["loop_per_mma"], limit["loop_per_mma"]))
    return wrong


def wanted_per_mma(row):
    """What its loop should not exceed, or None."""
    name = "%s %s" % (row["file"], row["kernel"])
    return next((most for pattern, most in WANTED_PER_MMA if re.match(pattern, name)), None)


def main():
    parser = argparse.ArgumentParser(prog="scripts/kernel_resources.sh")
    parser.add_argument("--file", default="")
    parser.add_argument("--arch", default="80,90")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--loops", action="store_true")
    parser.add_argument("--budget", default=BUDGET)
    args = parser.parse_args()
    nvcc = find_nvcc()
    sources = [s for s in sorted(glob.glob("kernels/**/*.cu", recursive=True))
               if "/sim/" not in s and re.search(args.file, os.path.basename(s)[:-3])]
    if not sources:
        sys.exit("kernel_resources: --file: nothing in kernels/ matches '%s'" % args.file)

    rows, failed = [], []
    with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        work = {pool.submit(measure, nvcc, s, a, folder): (s, a) for s in sources for a in targets(s, args.arch.split(","))}
        for future in concurrent.futures.as_completed(work):
            measured, error = future.result()
            if measured is None:
                failed.append("%s for sm_%s does not compile as it should:\n%s" % (*work[future], error))
            else:
                rows += measured
    rows.sort(key=lambda r: (r["file"], r["kernel"], r["arch"]))

    compiler = compiler_version(nvcc)
    budget, budget_compiler = read_budget(args.budget)
    compiled = {(os.path.basename(s), "sm_" + a) for s in sources for a in targets(s, args.arch.split(","))}
    if args.update:
        budget = {k: v for k, v in budget.items() if (k[0], k[2]) not in compiled}
        for row in rows:
            budget[(row["file"], row["kernel"], row["arch"])] = {c: row[c] for c in COLUMNS[3:]}
        budget_compiler = compiler
        write_budget(args.budget, budget, compiler)
    wrong = [(row, text) for row in rows for text in complaints(row, budget, compiler == budget_compiler)]
    over = [r for r in rows if (most := wanted_per_mma(r)) and r["loop_per_mma"] > most]
    claims = [text for source in sources for text in unkept_claims(source, rows)]
    gone = ["%s: %s for %s is in the table but not in the source | --update" % (k[0], k[1], k[2]) for k in sorted(budget)
            if (k[0], k[2]) in compiled and k not in {(r["file"], r["kernel"], r["arch"]) for r in rows}]
    if args.json:
        texts = ["%s %s %s: %s" % (r["file"], r["kernel"], r["arch"], t) for r, t in wrong]
        print(json.dumps({"kernels": rows, "complaints": texts + claims + gone}, indent=1))
    else:
        print("%-26s %-56s %-6s %5s %6s %6s %7s %5s %5s %6s %5s %4s %5s" %
              ("file", "kernel", "arch", "regs", "stack", "spills", "shared", "HMMA", "LDSM", "LDGSTS", "HGMMA", "BAR", "/MMA"))
        for r in rows:
            print("%-26s %-56s %-6s %5d %6d %6d %7d %5d %5d %6d %5d %4d %5.1f" %
                  (r["file"], r["kernel"][:56], r["arch"], r["registers"], r["stack"], r["spills"], r["shared"], r["hmma"],
                   r["ldsm"], r["ldgsts"], r["hgmma"], r["bar"], r["loop_per_mma"]))
        if args.loops:
            for r in over:
                print("%s: %s for %s: %.1f instructions per tensor-core instruction, wanted %.1f" %
                      (r["file"], r["kernel"], r["arch"], r["loop_per_mma"], wanted_per_mma(r)))
        for row, text in wrong:
            print("%s: %s for %s: %s" % (row["file"], row["kernel"], row["arch"], text), file=sys.stderr)
        for text in claims + gone:
            print(text, file=sys.stderr)
        print("%d kernels of %d files, %d complaints" %
              (len(rows), len(sources), len(wrong) + len(claims) + len(gone) + len(failed)))
        if over:
            print("%d kernels have more instructions per product than wanted; --loops lists them" % len(over))
        if budget_compiler not in (None, compiler):
            print("%s is of nvcc %s, this is %s: loops are held to it within a quarter" %
                  (args.budget, budget_compiler, compiler))
        if new := sum((r["file"], r["kernel"], r["arch"]) not in budget for r in rows):
            print("%d kernels have no line in %s: --update adds them" % (new, args.budget))
    for text in failed:
        print(text, file=sys.stderr)
    return 1 if wrong or claims or gone or failed else 0


sys.exit(main())
