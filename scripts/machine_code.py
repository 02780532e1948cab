"""Helper of kernel_resources.py: counts instructions and finds loops in a cubin, without a disassembler.

An instruction of sm_80 and sm_90 has 16 bytes and its operation in the low 12 bits of the first word. The targets and
conditions of branches, which is what else loops need, agree with nvdisasm's for the kernels with tensor-core products.
"""
import bisect
import collections
import struct

# The operations that say how a kernel moves and multiplies. LDL, STL: local memory, that is, spills and indexed arrays.
OPERATIONS = {0x23C: "hmma", 0x83B: "ldsm", 0xFAE: "ldgsts", 0xB1D: "bar", 0x387: "stl", 0x983: "ldl"}
# Of sm_90 only; the low nine bits, the others say where the operands come from.
WIDE_OPERATIONS = {0x1F0: "hgmma", 0x1B4: "utmaldg"}
BRA, CALL, EXIT, RET = 0x947, 0x944, 0x94D, 0x950
ALWAYS = 7  # the predicate that is true
NO_REGISTER = 255  # reads as zero
COMPARE = (0x80C, 0x88C)  # ISETP, UISETP with an immediate
LESS, UNEQUAL = 1, 5
ADD = (0x810, 0x890, 0x836)  # IADD3, UIADD3, VIADD with an immediate


def sections(cubin):
    offset, = struct.unpack_from("<Q", cubin, 0x28)
    entry, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", cubin, offset + i * entry) for i in range(count)]
    base = headers[names][4]
    for h in headers:
        end = cubin.index(b"\0", base + h[0])
        yield cubin[base + h[0]:end].decode(), h[4], h[5]


def signed(value, bits):
    return value - (1 << bits) if value >> (bits - 1) else value


class Instruction:
    def __init__(self, low, high):
        self.low, self.high, self.op = low, high, low & 0xFFF
        self.guard = low >> 12 & 15  # a predicate, and 8 for its opposite

    @property
    def target(self):
        """Of a branch: bytes from the next instruction on. sm_90 keeps the low bits in the byte of the result."""
        bits = (self.low >> 34 | (self.high & 0x3FFFF) << 30) & (1 << 48) - 1
        return signed(bits << 8 | self.low >> 16 & 0xFF, 56) * 4 if self.wide_target else signed(bits, 48) * 4

    wide_target = False

    @property
    def conditional(self):
        return self.guard != ALWAYS or (self.op == BRA and self.high >> 23 & 15 != ALWAYS)

    @property
    def is_tensor(self):
        return self.op == 0x23C or self.op & 0x1FF == 0x1F0

    @property
    def is_uniform(self):
        """Its registers are those of the warp, not of a lane."""
        return 0x080 <= self.op & 0x1FF < 0x0C0 or self.op & 0x1FF in (0x1C2, 0x1C3)

    @property
    def first_source(self):
        return self.low >> 24 & 0xFF

    @property
    def immediate(self):
        return signed(self.low >> 32, 32)

    @property
    def comparison(self):
        return self.high >> 12 & 7

    def writes(self, register, uniform):
        result = self.low >> 16 & 0xFF
        pair = self.op in (0x805, 0x225, 0x825)  # CS2R, IMAD.WIDE
        return self.is_uniform == uniform and (result == register or pair and result + 1 == register)

    @property
    def constant(self):
        """What a move sets its result to, if a constant; or None."""
        second, third = self.low >> 32 & 0xFF, self.high & 0xFF
        if self.op in (0x802, 0x882):  # MOV, UMOV of an immediate
            return self.immediate
        zero = (
            self.op == 0x805 and third == 0 and self.high >> 8 & 0xFF == 0xFF  # CS2R of the zero register
            or self.op == 0x202 and second == NO_REGISTER  # MOV
            or self.op == 0xC82 and second in (63, NO_REGISTER)  # UMOV
            or self.op == 0x224 and self.first_source == second == third == NO_REGISTER)  # IMAD.MOV
        return 0 if zero else None


class Sm90Instruction(Instruction):
    wide_target = True


class Loop:
    """A natural loop: `blocks` reach its head again without leaving; `turns` if a constant (None: not known)."""

    def __init__(self, head):
        self.head, self.blocks, self.backs, self.turns = head, {head}, [], None


class Code:
    """The blocks of a kernel: block b is instructions starts[b] to starts[b + 1]."""

    def __init__(self, text, sm90):
        kind = Sm90Instruction if sm90 else Instruction
        self.code = [kind(*words) for words in struct.iter_unpack("<QQ", text)]
        leaders = {0}
        for i, c in enumerate(self.code):
            if c.op in (BRA, CALL):
                leaders.add(self.goal(i))
            if c.op in (BRA, CALL, EXIT, RET):
                leaders.add(i + 1)
        self.starts = sorted(s for s in leaders if s < len(self.code)) + [len(self.code)]
        self.next = [self.successors(b) for b in range(len(self.starts) - 1)]

    def goal(self, i):
        return i + 1 + self.code[i].target // 16

    def block_of(self, i):
        return bisect.bisect_right(self.starts, i) - 1

    def body(self, b):
        return range(self.starts[b], self.starts[b + 1])

    def successors(self, b):
        last = self.starts[b + 1] - 1
        c = self.code[last]
        on = [b + 1] if b + 2 < len(self.starts) else []
        if c.op in (BRA, CALL):  # a call may return, and may be a jump to far away
            return [self.block_of(self.goal(last))] + (on if c.op == CALL or c.conditional else [])
        return on if c.op not in (EXIT, RET) or c.conditional else []

    def dominators(self):
        """Immediate dominators of the blocks that the entry reaches (Cooper, Harvey, Kennedy)."""
        order, seen, stack = [], {0}, [(0, iter(self.next[0]))]
        while stack:
            b, rest = stack[-1]
            for n in rest:
                if n not in seen:
                    seen.add(n)
                    stack.append((n, iter(self.next[n])))
                    break
            else:
                order.append(b)
                stack.pop()
        order.reverse()
        place = {b: i for i, b in enumerate(order)}
        before = collections.defaultdict(list)
        for b in order:
            for n in self.next[b]:
                before[n].append(b)
        above, changed = {0: 0}, True
        while changed:
            changed = False
            for b in order[1:]:
                new = None
                for p in before[b]:
                    if p not in above:
                        continue
                    other = new if new is not None else p
                    new = p
                    while new != other:
                        if place[new] > place[other]:
                            new = above[new]
                        else:
                            other = above[other]
                if above.get(b) != new:
                    above[b], changed = new, True
        return above, before

    def dominates(self, a, b):
        """All ways to block b pass through block a."""
        while b != a and b != 0:
            b = self.above[b]
        return a == b

    def loops(self):
        self.above, before = self.dominators()
        above, loops = self.above, {}
        for b in above:
            for head in self.next[b]:
                if self.dominates(head, b):
                    loop = loops.setdefault(head, Loop(head))
                    loop.backs.append(b)
                    todo = [b]
                    while todo:
                        n = todo.pop()
                        if n not in loop.blocks:
                            loop.blocks.add(n)
                            todo += before[n]
        for loop in loops.values():
            loop.turns = self.turns(loop)
        return list(loops.values())

    def turns(self, loop):
        """How often a loop turns that counts a register from a constant to another and is left at its end; or None."""
        leaves = {b for b in loop.blocks if any(n not in loop.blocks for n in self.next[b])}
        if len(loop.backs) != 1 or leaves != set(loop.backs):
            return None
        inside = [self.code[i] for b in sorted(loop.blocks) for i in self.body(b)]
        found = set()
        for test in inside:
            if test.op not in COMPARE or test.comparison not in (LESS, UNEQUAL):
                continue
            steps = [c for c in inside if c.writes(test.first_source, test.is_uniform)]
            if len(steps) != 1 or steps[0].op not in ADD or steps[0].first_source != test.first_source:
                continue
            start, step = self.constant_before(loop, test), steps[0].immediate
            if start is not None and step > 0 and test.immediate > start and (test.immediate - start) % step == 0:
                found.add((test.immediate - start) // step)
        return found.pop() if len(found) == 1 else None

    def constant_before(self, loop, test):
        """What the register that `test` looks at holds as the loop is entered, if the last write before says so."""
        for i in range(self.starts[loop.head] - 1, -1, -1):
            if self.code[i].writes(test.first_source, test.is_uniform):
                b = self.block_of(i)
                return self.code[i].constant if b in self.above and self.dominates(b, loop.head) else None
        return None


def loop_per_tensor(text, sm90):
    """Instructions per tensor-core instruction in the loop that has the most of these; 0 without one.

    A loop of a constant number of turns counts as if it were unrolled. The loop reported is an innermost one of those
    whose number of turns is not known; of a kernel without such, the outermost with tensor-core instructions. Of loops
    that have equally many the one with the fewest others: what they do beside is for some steps only.
    """
    code = Code(text, sm90)
    loops = code.loops()

    def weigh(loop):
        total = tensor = 0
        for b in loop.blocks:
            weight = 1
            for other in loops:
                if other is not loop and other.turns and b in other.blocks and other.blocks < loop.blocks:
                    weight *= other.turns
            total += weight * len(code.body(b))
            tensor += weight * sum(code.code[i].is_tensor for i in code.body(b))
        return tensor, total

    weights = {id(loop): weigh(loop) for loop in loops}
    hot = [loop for loop in loops if weights[id(loop)][0]]
    open_loops = [loop for loop in hot if loop.turns is None]
    if open_loops:
        hot = [a for a in open_loops if not any(b.blocks < a.blocks for b in open_loops)]
    if not hot:
        return 0.0
    tensor, total = max((weights[id(loop)] for loop in hot), key=lambda weight: (weight[0], -weight[1]))
    return round(total / tensor, 1)


def count_operations(path, sm90):
    """For each kernel of a cubin: how often each operation stands in it, and loop_per_mma."""
    with open(path, "rb") as file:
        cubin = file.read()
    counts = {}
    for name, offset, size in sections(cubin):
        if name.startswith(".text."):
            words = (struct.unpack_from("<Q", cubin, offset + i)[0] for i in range(0, size, 16))
            ops = collections.Counter(word & 0xFFF for word in words)
            row = counts[name[6:]] = {label: ops.get(code, 0) for code, label in OPERATIONS.items()}
            for code, label in WIDE_OPERATIONS.items():
                row[label] = sum(n for op, n in ops.items() if op & 0x1FF == code)
            row["local"] = row["ldl"] + row["stl"]
            has_tensor = row["hmma"] + row["hgmma"] > 0
            row["loop_per_mma"] = loop_per_tensor(cubin[offset:offset + size], sm90) if has_tensor else 0.0
    return counts
