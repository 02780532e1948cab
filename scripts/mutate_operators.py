"""Helper of mutate_kernels.sh: the bugs that can be planted into a kernel's text, one per place."""
import collections
import hashlib
import os
import re

# (name, pattern, replacement): applied to the code of one line, one place at a time.
OPERATORS = [
    ("dropped barrier", r"__syncthreads\(\);", ";"),
    ("dropped barrier", r"__syncwarp\([^;]*\);", ";"),
    ("dropped commit", r"cp_async_commit\(\);", ";"),
    ("wrong wait count", r"cp_async_wait<([^;]*)>\(\)", r"cp_async_wait<(\1) + 1>()"),
    ("missing mask", r"(cp_async_(?:16|8|4)\([^;]*), [^,;]*\)(?=;)", r"\1)"),
    ("missing mask", r"([=(,] ?)([^=?;(,]+)\? ([^:;]+) : (?:0\.0f|0|-?INFINITY|make_float2\(0, 0\))(?=[;,)])", r"\1\3"),
    ("missing mask", r"^(\s*)if \(.*\) return;$", r"\1;"),
    ("missing mask", r"^(\s*)if \([^;{]* < [^;{]*\) (\w[^{]*;)$", r"\1\2"),
    ("wrong lane", r"\(lane & 15\)", "(lane & 7)"),
    ("wrong lane", r"lane >> 2", "lane >> 3"),
    ("wrong lane", r"lane / 4", "lane / 8"),
    ("wrong lane", r"lane & 3", "lane & 1"),
    ("wrong lane", r"lane % 4", "lane % 2"),
    ("wrong lane", r"(?:lane & 31|% 32)\b", "% 16"),
    ("wrong lane", r"threadIdx\.x / 32", "threadIdx.x / 64"),
    ("wrong shuffle", r"(__shfl_\w+_sync\([^,;]+,[^,;]+, )([^;()]+)\)", r"\1(\2) / 2)"),
    ("swapped index", r"blockIdx\.x", "blockIdx.y"),
    ("swapped index", r"blockIdx\.y", "blockIdx.x"),
    ("swapped index", r"\[((?!k[A-Z])[a-z]\w*)\]\[((?!k[A-Z])[a-z]\w*|\d)\]", r"[\2][\1]"),
    ("swapped index", r"\.x\b(?=[^(]*\.y)", ".y"),
    # Alike by name, as those that are easily mixed up.
    ("swapped arguments", r"(?<=[ (])(?!stream|sum)(([a-z])\w*), (\2\w*)(?=[,)])", r"\3, \1"),
    ("swapped arguments", r"(?<=[ (])(a|b0|low|first), (b|b1|high|second)(?=[,)])", r"\2, \1"),
    ("wrong stride",
     r"(?<![\w.>:])((?:\w+(?:\.|->|::))*\w*(?:pitch|Pitch|stride|Stride|kRowBytes))\b(?=[ ;)\]])(?! =)", r"(\1 + 1)"),
    ("off by one", r" < (?=[\w(])", " <= "),
    ("off by one", r" >= (?=[\w(])", " > "),
    ("off by one", r" <= (?=[\w(])", " < "),
    ("off by one", r" > (?=[\w(])", " >= "),
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
    ("dropped statement", r"^(\s*)[\w.\[\]>-]+(?:\[[^\]]*\])* [+*-]?= [^;]+;$", r"\1;"),
    ("dropped statement", r"^(\s*)(?!return)[\w:.]+(?:<[^;=]*>)?\([^=]*\);$", r"\1;"),
]
# Changes that no result can show, so that a test that passes says nothing: the operands of what commutes in f32 too
# (the two, whole and in front), and the numbers inside the text of a message.
COMMUTES = re.compile(r"\b(?:f?(?:max|min)f?\(|fmaf?\(|Add\{\}, )$")
MESSAGE = re.compile(r"^ *(?:\w+ <<|\"|std::(?:string|to_string)\().*(?:\" \+|\+ \"|std::to_string\()|throw \w+\(\"")
# Declarations, instantiations, what only a GPU's compiler reads, and hints to it that are empty for the simulator.
SKIPPED_LINES = re.compile(
    r"^\s*(?://|#|template|using|static_assert|struct|class|enum|namespace|static|extern|typedef|AVID_SHARED|public:"
    r"|private:|case |default:)|^\s*(?:const )?[\w:<> ]+ \*?\w+(?:, \*?\w+)+;|__global__|__launch_bounds__|operator"
    r"|take<|AVID_INSTANTIATE|\\$|(?:more|fewer)_registers<|wgmma_settle\(")


class Mutant:
    """One bug: line `line` (from 1) of `file` becomes `after`."""

    def __init__(self, file, line, kind, before, after, which, starts_statement):
        self.file, self.line, self.kind, self.starts_statement = file, line, kind, starts_statement
        self.old_line, self.new_line = before, after
        self.before, self.after = before.strip(), after.strip()
        # Line numbers would not survive an edit elsewhere; `which` tells equal lines of a file apart.
        name = "|".join((file, kind, self.before, self.after, str(which)))
        self.id = hashlib.sha256(name.encode()).hexdigest()[:16]

    def key(self):
        """What kernels/mutation_survivors.md names it by."""
        return "%s | %s | %s" % (os.path.basename(self.file), self.before, self.after)

    def text(self, lines):
        """The file with the bug."""
        return '#line 1 "%s"\n' % self.file + "\n".join(lines[:self.line - 1] + [self.new_line] + lines[self.line:])


def find_mutants(path):
    """The file's lines and every bug that can be planted into it."""
    with open(path) as file:
        lines = file.read().split("\n")
    found, seen, outside = [], collections.Counter(), False
    for i, line in enumerate(lines):
        code = line.split("//")[0].rstrip()
        # Between these, what only a GPU's compiler reads or only the simulator's, in the place of one instruction.
        outside = code == "#if defined(__CUDACC__)" or outside and code != "#endif"
        if outside or not code.strip() or SKIPPED_LINES.search(code) or MESSAGE.search(code):
            continue
        previous = lines[i - 1].split("//")[0].rstrip() if i else ""
        if previous.endswith("\\") or previous.strip().startswith("template void"):
            continue  # a macro; an instantiation
        starts_statement = not previous or previous[-1] in ";{}:" or bool(re.match(
            r"\s*(?:for|if|while) .*\)$|\s*else$|\s*#", previous))
        for kind, pattern, replacement in OPERATORS:
            if kind == "dropped statement" and not starts_statement:
                continue
            for m in re.finditer(pattern, code):
                if kind == "swapped arguments" and COMMUTES.search(code[:m.start()]):
                    continue
                mutated = code[:m.start()] + m.expand(replacement) + code[m.end():]
                if mutated != code and code[:m.start()].count('"') % 2 == 0:
                    name = (kind, code.strip(), mutated.strip())
                    which = seen[name]  # of several such lines of the file
                    found.append(Mutant(path, i + 1, kind, code, mutated, which, starts_statement))
                    seen[name] += 1
    return lines, found


def sample(path, count, seed):
    """The file's lines and `count` of its bugs (0: all), in turn from each kind, one per line.

    Kinds and the bugs of a kind are ordered by hashes of what they are: an edit changes the sample where it changes the
    file, and elsewhere the verdicts stay.
    """
    lines, found = find_mutants(path)
    if count == 0:
        return lines, found

    def rank(what):
        return hashlib.sha256(("%d %s" % (seed, what)).encode()).hexdigest()

    by_kind = collections.defaultdict(list)
    for mutant in sorted(found, key=lambda m: rank(m.id), reverse=True):
        by_kind[mutant.kind].append(mutant)
    picked, used = [], set()
    kinds = sorted(by_kind, key=lambda kind: rank(path + kind))
    while any(by_kind.values()) and len(picked) < count:
        for kind in kinds:
            while by_kind[kind] and len(picked) < count:
                mutant = by_kind[kind].pop()
                if mutant.line not in used:
                    used.add(mutant.line)
                    picked.append(mutant)
                    break
    return lines, picked
