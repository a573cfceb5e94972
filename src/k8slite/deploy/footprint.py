"""What starting Docker leaves in netfilter, and how to take exactly that away again.

Pure: texts of ``iptables-save`` in, a plan out. Docker keeps its chains and its bridge when it
stops; where we started it, ``down`` has to remove them. Rules that somebody else added meanwhile
are nobody's business here and stay.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Table:
    """One table of ``iptables-save``: chain → policy ("-" for user chains), rules as printed."""

    policies: dict[str, str] = field(default_factory=dict)
    rules: tuple[str, ...] = ()

    @property
    def bare(self) -> bool:
        """Only built-in chains, all ACCEPT, no rule: the table might as well not be there."""
        return not self.rules and all(policy == "ACCEPT" for policy in self.policies.values())


@dataclass(frozen=True, slots=True)
class Removal:
    """``script`` is for ``iptables-restore --noflush``; ``tables`` did not exist before and are
    bare once the script ran."""

    script: str
    tables: tuple[str, ...]


def parse_save(text: str) -> dict[str, Table]:
    """The text of ``iptables-save`` → tables by name. Counters and comments are dropped."""
    tables: dict[str, Table] = {}
    name = ""
    policies: dict[str, str] = {}
    rules: list[str] = []
    for line in text.splitlines():
        if line.startswith("*"):
            name, policies, rules = line[1:], {}, []
        elif line.startswith(":"):
            chain, policy = line[1:].split()[:2]
            policies[chain] = policy
        elif line.startswith("-A "):
            rules.append(line)
        elif line == "COMMIT":
            tables[name] = Table(policies, tuple(rules))
    return tables


def _is_dockers(rule: str) -> bool:
    words = rule.split()
    return any(word.startswith("DOCKER") or word == "docker0" for word in words)


def removal(before: str, after: str) -> Removal:
    """How to remove what Docker added between two texts of ``iptables-save``."""
    old, new = parse_save(before), parse_save(after)
    script: list[str] = []
    bare: list[str] = []
    for name, table in new.items():
        was = old.get(name, Table())
        chains = [c for c in table.policies if c.startswith("DOCKER") and c not in was.policies]
        dropped = [r for r in table.rules if _is_dockers(r) and r not in was.rules]
        lines = [f"-F {chain}" for chain in chains]
        lines += [f"-D {r[3:]}" for r in dropped if r.split()[1] not in chains]
        lines += [f"-X {chain}" for chain in chains]
        # Docker sets FORWARD to DROP when it is the one who turns forwarding on.
        policies = [
            f":{chain} {was.policies.get(chain, 'ACCEPT')} [0:0]"
            for chain, policy in table.policies.items()
            if policy == "DROP" and was.policies.get(chain, "ACCEPT") != policy and dropped
        ]
        if lines or policies:
            script += [f"*{name}", *policies, *lines, "COMMIT"]
        if name not in old:
            kept = tuple(r for r in table.rules if r not in dropped)
            users = [c for c, p in table.policies.items() if p == "-" and c not in chains]
            if not kept and not users:
                bare.append(name)
    return Removal("\n".join(script) + "\n" if script else "", tuple(bare))
