"""Helper of kernel_resources.sh: compiles kernels/*.cu to cubins, reads ptxas's report and counts machine instructions.

An instruction of sm_80 and sm_90 has 16 bytes and its operation in the low 12 bits of the first word; no disassembler needed.
"""
import argparse
import collections
import concurrent.futures
import glob
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

BUDGET = "kernels/resources.tsv"
# The operations that say how a kernel moves and multiplies.
OPERATIONS = {0x23C: "hmma", 0x83B: "ldsm", 0xFAE: "ldgsts", 0xB1D: "bar", 0x387: "stl", 0x983: "ldl"}
# Of sm_90 only; the low nine bits, the others say where the operands come from.
WIDE_OPERATIONS = {0x1F0: "hgmma", 0x1B4: "utmaldg"}
MAXIMA = ["registers", "stack", "spills", "shared"]
MINIMA = ["hmma", "ldsm", "ldgsts", "hgmma", "utmaldg"]
# What a source that calls these promises: at least one of its kernels has the instruction.
CLAIMS = {"hmma": r"\bmma_(?:bf16|tf32)_", "ldsm": r"\bldmatrix_x", "ldgsts": r"\bcp_async_(?:16|8|4|commit)\b",
          "hgmma": r"\bwgmma_bf16(?:_transposed)?<"}
COLUMNS = ["file", "kernel", "arch"] + MAXIMA + MINIMA
# Compiler versions differ by a few registers; a kernel that fits its budget by this much still runs as it did.
SLACK_REGISTERS = 8


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


def sections(cubin):
    offset, = struct.unpack_from("<Q", cubin, 0x28)
    entry, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, offset + i * entry) for i in range(count)]
    base = headers[names][4]
    for h in headers:
        end = cubin.index(b"\0", base + h[0])
        yield cubin[base + h[0]:end].decode(), h[4], h[5]


def count_operations(path):
    cubin = open(path, "rb").read()
    counts = {}
    for name, offset, size in sections(cubin):
        if name.startswith(".text."):
            ops = collections.Counter(struct.unpack_from("<Q", cubin, offset + i)[0] & 0xFFF for i in range(0, size, 16))
            counts[name[6:]] = {label: ops.get(code, 0) for code, label in OPERATIONS.items()}
            for code, label in WIDE_OPERATIONS.items():
                counts[name[6:]][label] = sum(n for op, n in ops.items() if op & 0x1FF == code)
    return counts


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
    # C7510: products wait for each other; C7508: setmaxnreg was ignored. Both cost most of what a kernel is for.
    if done.returncode != 0 or "C7510" in done.stderr or "C7508" in done.stderr:
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
    counts = count_operations(cubin)
    os.remove(cubin)
    names = readable(sorted(rows))
    file = os.path.basename(source)
    return [dict(file=file, kernel=names[m], arch="sm_" + arch, **rows[m], **counts.get(m, {})) for m in sorted(rows)], ""


def read_budget(path):
    """(file, kernel, arch) -> numbers, by the names in the table's first line."""
    budget, names = {}, None
    if not os.path.exists(path):
        return budget
    for line in open(path):
        cells = line.rstrip("\n").split("\t")
        if line.startswith("#"):
            continue
        if names is None:
            names = cells
        else:
            numbers = dict.fromkeys(COLUMNS[3:], 0)
            numbers.update(zip(names[3:], map(int, cells[3:])))
            budget[tuple(cells[:3])] = numbers
    return budget


def unkept_claims(source, rows):
    """Instructions that a source calls for and none of its kernels has."""
    text = re.sub(r"//[^\n]*", "", open(source).read())
    file = os.path.basename(source)
    return ["%s calls %s, but no kernel of it has %s for %s" % (file, pattern.replace(r"\b", ""), label.upper(), arch)
            for label, pattern in CLAIMS.items() if re.search(pattern, text)
            for arch in sorted({r["arch"] for r in rows if r["file"] == file})
            if not any(r.get(label, 0) for r in rows if r["file"] == file and r["arch"] == arch)]


def write_budget(path, budget):
    with open(path, "w") as out:
        out.write("# What each kernel may need at most (registers to spill bytes, static shared bytes) and must have at least (instructions).\n"
                  "# Written by scripts/kernel_resources.sh --update from what the compiler reported; dynamic shared memory is not in it.\n")
        out.write("\t".join(COLUMNS) + "\n")
        for key in sorted(budget):
            out.write("\t".join(list(key) + [str(budget[key][c]) for c in COLUMNS[3:]]) + "\n")


def complaints(row, budget):
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
    for c in MINIMA:
        if row[c] == 0 and limit[c] > 0:
            wrong.append("no %s instruction any more, had %d" % (c.upper(), limit[c]))
    return wrong


def main():
    parser = argparse.ArgumentParser(prog="scripts/kernel_resources.sh")
    parser.add_argument("--file", default="")
    parser.add_argument("--arch", default="80,90")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--update", action="store_true")
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

    budget = read_budget(args.budget)
    if args.update:
        compiled = {os.path.basename(s) for s in sources}
        archs = {"sm_" + a for s in sources for a in targets(s, args.arch.split(","))}
        budget = {k: v for k, v in budget.items() if not (k[0] in compiled and k[2] in archs)}
        for row in rows:
            budget[(row["file"], row["kernel"], row["arch"])] = {c: row[c] for c in COLUMNS[3:]}
        write_budget(args.budget, budget)
    wrong = [(row, text) for row in rows for text in complaints(row, budget)]
    claims = [text for source in sources for text in unkept_claims(source, rows)]
    gone = ["%s: %s for %s is in the table but not in the source | --update" % (k[0], k[1], k[2]) for k in sorted(budget)
            if k[0] in {os.path.basename(s) for s in sources} and k[2] in {r["arch"] for r in rows}
            and k not in {(r["file"], r["kernel"], r["arch"]) for r in rows}]
    if args.json:
        texts = ["%s %s %s: %s" % (r["file"], r["kernel"], r["arch"], t) for r, t in wrong]
        print(json.dumps({"kernels": rows, "complaints": texts + claims + gone}, indent=1))
    else:
        print("%-26s %-56s %-6s %5s %6s %6s %7s %5s %5s %6s %5s %4s" %
              ("file", "kernel", "arch", "regs", "stack", "spills", "shared", "HMMA", "LDSM", "LDGSTS", "HGMMA", "BAR"))
        for r in rows:
            print("%-26s %-56s %-6s %5d %6d %6d %7d %5d %5d %6d %5d %4d" %
                  (r["file"], r["kernel"][:56], r["arch"], r["registers"], r["stack"], r["spills"], r["shared"], r.get("hmma", 0),
                   r.get("ldsm", 0), r.get("ldgsts", 0), r.get("hgmma", 0), r.get("bar", 0)))
        for row, text in wrong:
            print("%s: %s for %s: %s" % (row["file"], row["kernel"], row["arch"], text), file=sys.stderr)
        for text in claims + gone:
            print(text, file=sys.stderr)
        print("%d kernels of %d files, %d complaints" %
              (len(rows), len(sources), len(wrong) + len(claims) + len(gone) + len(failed)))
        if new := sum((r["file"], r["kernel"], r["arch"]) not in budget for r in rows):
            print("%d kernels have no line in %s: --update adds them" % (new, args.budget))
    for text in failed:
        print(text, file=sys.stderr)
    return 1 if wrong or claims or gone or failed else 0


sys.exit(main())
