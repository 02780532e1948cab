"""Helper of mutate_kernels.sh: several bugs in one text, each behind a switch.

A statement S becomes `if (avid_mutant == 7) { S' } else { S }`, an expression E `avid_mutant == 7 ? (E') : (E)`, where
avid_mutant is what the environment variable AVID_MUTANT says. One compilation then serves all bugs of a file whose
lines have such a form; 0 switches all of them off.
"""
import re

HEADER = """#include <cstdlib>
namespace { const int avid_mutant = std::getenv("AVID_MUTANT") ? std::atoi(std::getenv("AVID_MUTANT")) : 0; }
"""
TYPE = r"(?:const )?(?:auto|bool|int|unsigned|double|float[24]?|std::\w+|[A-Z]\w*(?:<[^;=()]*>)?)(?: [*&]?|[*&] )"


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


def head_and_tail(text, word):
    """`word (head)tail`; None where the bracket is not closed on this line."""
    depth = 0
    for i in range(len(word) + 1, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return text[len(word) + 2:i], text[i + 1:].strip()
    return None


def switched_declarators(old, new, number):
    """`name = E, other = F` in which one initialiser differs; None otherwise."""
    names, new_names = split_top(old, ","), split_top(new, ",")
    if len(names) != len(new_names):
        return None
    out = []
    for a, b in zip(names, new_names):
        if a != b:
            m, n = re.match(r"(\s*[*&]?\w+ = )([^{].*)$", a), re.match(r"(\s*[*&]?\w+ = )([^{].*)$", b)
            if not m or not n or m.group(1) != n.group(1):
                return None
            a = "%savid_mutant == %d ? (%s) : (%s)" % (m.group(1), number, n.group(2), m.group(2))
        out.append(a)
    return ",".join(out)


def switched_block(word, old, new, number):
    """for, if, while: the condition or what it guards."""
    both = head_and_tail(old, word)
    if both is None:
        return None
    head, tail = both
    if word == "if" and new in (";", tail):  # never, or always
        sign, joint = ("!=", "&&") if new == ";" else ("==", "||")
        return "if (avid_mutant %s %d %s (%s)) %s" % (sign, number, joint, head, tail)
    new_both = head_and_tail(new, word) if new.startswith(word + " (") else None
    if new_both is None:
        return None
    new_head, new_tail = new_both
    if tail != new_tail:
        body = switch(tail, new_tail, number) if head == new_head and tail.endswith(";") else None
        return body and "%s (%s) { %s }" % (word, head, body)
    if word != "for":
        if "=" in re.sub(r"[=!<>]=", "", head):
            return None  # a declaration
        return "%s (avid_mutant == %d ? (%s) : (%s)) %s" % (word, number, new_head, head, tail)
    a, b = split_top(head, ";"), split_top(new_head, ";")
    if len(a) != 3 or len(b) != 3 or a[2] != b[2]:
        return None
    if a[0] != b[0]:
        m, n = re.match("(%s)(.*)$" % TYPE, a[0]), re.match("(%s)(.*)$" % TYPE, b[0])
        first = m and n and switched_declarators(m.group(2), n.group(2), number)
        return first and "for (%s%s;%s;%s) %s" % (m.group(1), first, a[1], a[2], tail)
    return "for (%s; avid_mutant == %d ? (%s) : (%s);%s) %s" % (a[0], number, b[1].strip(), a[1].strip(), a[2], tail)


def switch(code, mutated, number):
    """The line with both versions behind the switch; None where the line's form does not allow it."""
    old, new = code.strip(), mutated.strip()
    for word in ("for", "if", "while"):
        if old.startswith(word + " ("):
            return switched_block(word, old, new, number)
    if not old.endswith(";") or not balanced(old) or not balanced(new):
        return None
    if old.startswith("return "):
        if not new.startswith("return ") or old[7] == "{":
            return None
        return "return avid_mutant == %d ? (%s) : (%s);" % (number, new[7:-1], old[7:-1])
    if m := re.match("(%s)(\\w+ = .*|\\w+, .*);$" % TYPE, old):
        n = re.match("(%s)(.*);$" % TYPE, new)
        names = n and n.group(1) == m.group(1) and switched_declarators(m.group(2), n.group(2), number)
        return m.group(1) + names + ";" if names else None
    # A call, or an assignment to something that exists.
    if re.match(r"(?:const |auto |else|return|break|continue|constexpr |%s\w)" % TYPE, old):
        return None
    if not re.search(r"\)|=|\+\+", old):
        return None
    return "if (avid_mutant == %d) { %s } else { %s }" % (number, new, old)


def switchable(mutant):
    """The line is a statement of its own and its form allows a switch."""
    return mutant.starts_statement and switch(mutant.old_line, mutant.new_line, 1) is not None


def text_with_switches(lines, numbered):
    """The file with all bugs of {number: mutant}, each on its line."""
    out = list(lines)
    for number, mutant in numbered.items():
        out[mutant.line - 1] = switch(mutant.old_line, mutant.new_line, number)
    first = next(iter(numbered.values()))
    return HEADER + '#line 1 "%s"\n' % first.file + "\n".join(out)
